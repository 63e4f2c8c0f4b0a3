//! `[accounts]`: the settings of every vendor, and conflicts between accounts.

use super::{DINGSHANG, HAOKA, WECHAT, fine, problems, read_in, wrong};
use std::path::Path;

/// The vendors' accounts, by the path of each.
const ACCOUNTS: [(&str, &str); 3] =
    [("accounts.market", WECHAT), ("accounts.vending", DINGSHANG), ("accounts.cards", HAOKA)];

/// The account with this line in place of the one that sets its key, if any does.
fn with(account: &str, line: &str) -> String {
    let key = line.split(" =").next().unwrap();
    format!("{}{line}\n", without(account, key))
}

/// The account without that key.
fn without(account: &str, key: &str) -> String {
    let sets = |line: &&str| line.split(" =").next() == Some(key);
    account.lines().filter(|line| !sets(line)).fold(String::new(), |kept, line| kept + line + "\n")
}

#[test]
fn the_required_settings_suffice() {
    for (_, account) in ACCOUNTS {
        fine(account);
    }
    let all = ACCOUNTS.map(|(_, account)| account).concat();
    let setup = read_in(Path::new(""), &all).ok().unwrap();
    assert_eq!((setup.accounts.len(), setup.warnings.as_slice()), (3, &[][..]));
}

#[test]
fn missing_required_settings_are_reported() {
    for (path, account, keys) in [
        ("accounts.market", WECHAT, &["app_id", "app_secret", "provider"][..]),
        ("accounts.vending", DINGSHANG, &["app_id", "app_secret", "base_url", "provider"]),
        ("accounts.cards", HAOKA, &["user_id", "secret", "provider"]),
    ] {
        for key in keys {
            let text = without(account, key);
            let problems = problems(&text);
            let problem = problems.iter().find(|problem| problem.path == format!("{path}.{key}"));
            assert!(problem.expect(key).text.starts_with("is missing; it must "), "{problem:?}");
            assert_eq!(problems.len(), 1, "{problems:?}");
        }
    }
    wrong("", "accounts", "none is configured");
    wrong("[accounts]\n", "accounts", "none is configured");
    wrong("accounts = 1", "accounts", "must be a table");
    let problems = problems(&format!("accounts.x = 1\n{HAOKA}"));
    assert_eq!(
        (problems[0].path.as_str(), problems[0].text.as_str()),
        ("accounts.x", "must be a table")
    );
}

#[test]
fn a_missing_app_key_is_a_warning() {
    let setup = read_in(Path::new(""), &without(DINGSHANG, "app_key")).ok().unwrap();
    let warned: Vec<_> = setup.warnings.iter().map(|warning| warning.path.as_str()).collect();
    assert_eq!(warned, ["accounts.vending.app_key"]);
}

#[test]
fn connection_settings_are_accepted_for_every_vendor() {
    for (_, account) in ACCOUNTS {
        for line in [
            "base_url = \"https://vendor.example\"",
            "base_url = \"https://vendor.example:8443/a/b/\"",
            "base_url = \"http://127.0.0.1:8700\"",
            "base_url = \"http://[::1]:8700\"",
            "base_url = \"http://localhost:8700\"",
            "timeout = \"10ms\"",
            "timeout = \"5m\"",
            "proxy = \"http://egress:3128\"",
            "default = true",
            "default = false",
        ] {
            fine(&with(account, line));
        }
    }
}

#[test]
fn a_base_url_is_https_or_loopback_and_ends_with_its_path() {
    let scheme = "must begin with https://";
    for (url, told) in [
        ("http://vendor.example", scheme),
        ("http://10.0.0.1", scheme),
        ("http://localhost.vendor.example", scheme),
        ("http://127.0.0.1.vendor.example", scheme),
        ("http://0.0.0.0:1", scheme),
        ("ftp://vendor.example", scheme),
        ("file:///etc/passwd", scheme),
        ("mailto:someone", scheme),
        ("vendor.example", "must be a URL"),
        ("https://", "must be a URL"),
        ("https://user@vendor.example", "user"),
        ("https://user:word@vendor.example", "user"),
        ("http://user:word@127.0.0.1", "user"),
        ("https://vendor.example/?a=b", "no query and no fragment"),
        ("https://vendor.example/#part", "no query and no fragment"),
        ("", "is empty"),
    ] {
        for (path, account) in ACCOUNTS {
            wrong(
                &with(account, &format!("base_url = \"{url}\"")),
                &format!("{path}.base_url"),
                told,
            );
        }
    }
}

#[test]
fn wrong_connection_settings_are_reported_at_their_path() {
    for (path, account) in ACCOUNTS {
        for (line, key, told) in [
            ("timeout = \"9ms\"", "timeout", "between 10ms and 300s"),
            ("timeout = \"301s\"", "timeout", "between 10ms and 300s"),
            ("timeout = 3", "timeout", "must be a duration"),
            ("proxy = \"egress:3128\"", "proxy", "must be a URL"),
            ("proxy = \"socks5://egress:1080\"", "proxy", "must be a URL"),
            ("proxy = \"https://egress:3128\"", "proxy", "must be a URL"),
            ("proxy = 3128", "proxy", "must be a string"),
            ("ca_file = \"no-such.pem\"", "ca_file", "cannot open no-such.pem"),
            ("ca_file = true", "ca_file", "must be a string"),
            ("base_url = 5", "base_url", "must be a string"),
            ("default = \"yes\"", "default", "must be true or false"),
            ("provider = \"amazon\"", "provider", "one of \"wechat\", \"dingshang\", \"haoka\""),
            ("provider = \"WECHAT\"", "provider", "one of"),
            ("provider = \"unspecified\"", "provider", "one of"),
            ("provider = 1", "provider", "must be a string"),
            ("colour = \"red\"", "colour", "is not a setting of this version"),
        ] {
            if key == "provider" {
                // The rest of the table cannot be read without a vendor.
                let problems = problems(&with(account, line));
                assert_eq!(problems[0].path, format!("{path}.{key}"));
                assert!(problems[0].text.contains(told), "{problems:?}");
            } else {
                wrong(&with(account, line), &format!("{path}.{key}"), told);
            }
        }
    }
}

#[test]
fn limits_can_be_lowered_but_not_raised() {
    let [wechat, _, cards] = ACCOUNTS;
    for (path, account, line, key, told) in [
        (cards.0, cards.1, "calls_per_minute = 201", "calls_per_minute", "between 1 and 200"),
        (cards.0, cards.1, "calls_per_minute = 0", "calls_per_minute", "between 1 and 200"),
        (cards.0, cards.1, "calls_per_minute = -1", "calls_per_minute", "a whole number"),
        (cards.0, cards.1, "calls_per_minute = \"9\"", "calls_per_minute", "a whole number"),
        (
            cards.0,
            cards.1,
            "calls_per_order_per_day = 11",
            "calls_per_order_per_day",
            "between 1 and 10",
        ),
        (wechat.0, wechat.1, "calls_per_minute = 10001", "calls_per_minute", "between 1 and 10000"),
        (cards.0, cards.1, "max_concurrency = 0", "max_concurrency", "between 1 and 1000"),
        (cards.0, cards.1, "max_concurrency = 1001", "max_concurrency", "between 1 and 1000"),
        (cards.0, cards.1, "max_concurrency = -1", "max_concurrency", "a whole number"),
        (cards.0, cards.1, "max_concurrency = \"64\"", "max_concurrency", "a whole number"),
        (wechat.0, wechat.1, "freshness = \"25h\"", "freshness", "between 0ns and 86400s"),
    ] {
        wrong(&with(account, line), &format!("{path}.{key}"), told);
    }
    for (_, account) in ACCOUNTS {
        for line in [
            "calls_per_minute = 1",
            "calls_per_order_per_day = 10",
            "freshness = \"0s\"",
            "max_concurrency = 1",
            "max_concurrency = 1000",
        ] {
            fine(&with(account, line));
        }
    }
}

#[test]
fn a_ca_file_must_hold_certificates() {
    let directory = tempfile::tempdir().unwrap();
    let certificate = rcgen::generate_simple_self_signed(["vendor.example".to_owned()]).unwrap();
    let pem = certificate.cert.pem();
    for (content, problem) in [
        (pem.clone(), None),
        (format!("a comment\n{pem}{pem}"), None),
        (String::new(), Some("holds no certificate in PEM")),
        ("no PEM at all".to_owned(), Some("holds no certificate in PEM")),
        (certificate.signing_key.serialize_pem(), Some("holds no certificate in PEM")),
        ("x".repeat(1024 * 1024 + 1), Some("is larger than 1048576 bytes")),
    ] {
        std::fs::write(directory.path().join("ca.pem"), content).unwrap();
        let line = "ca_file = \"ca.pem\"\nbase_url = \"https://vendor.example\"";
        let problems = super::problems_in(directory.path(), &format!("{HAOKA}{line}\n"));
        match problem {
            None => assert_eq!(problems, []),
            Some(told) => {
                assert_eq!(problems[0].path, "accounts.cards.ca_file");
                assert!(problems[0].text.contains(told), "{problems:?}");
            }
        }
    }
}

#[test]
fn vendor_specific_settings_are_validated() {
    for line in ["token = \"stable\"", "token = \"classic\""] {
        fine(&with(WECHAT, line));
    }
    for line in ["machine_no = \"16327129\"", "currency = \"USD\"", "currency = \"JPY\""] {
        fine(&with(DINGSHANG, line));
    }
    for line in ["body = \"multipart\"", "body = \"urlencoded\""] {
        fine(&with(HAOKA, line));
    }
    let secret = "must be a secret: { env = \"NAME\" }, { file = \"PATH\" } or a plain string";
    for (account, line, path, told) in [
        (WECHAT, "token = \"both\"", "accounts.market.token", "one of \"stable\", \"classic\""),
        (WECHAT, "app_id = \"\"", "accounts.market.app_id", "is empty"),
        (WECHAT, "app_id = \" \"", "accounts.market.app_id", "is empty"),
        (WECHAT, "app_id = 7", "accounts.market.app_id", "must be a string"),
        (WECHAT, "app_id = \"a\\nb\"", "accounts.market.app_id", "control character"),
        (WECHAT, "app_secret = 7", "accounts.market.app_secret", secret),
        (WECHAT, "machine_no = \"16327129\"", "accounts.market.machine_no", "is not a setting"),
        (DINGSHANG, "app_id = \"鼎\"", "accounts.vending.app_id", "must be ASCII"),
        (DINGSHANG, "app_secret = \"鼎\"", "accounts.vending.app_secret", "must be ASCII"),
        (DINGSHANG, "app_key = false", "accounts.vending.app_key", secret),
        (DINGSHANG, "machine_no = 16327129", "accounts.vending.machine_no", "must be a string"),
        (DINGSHANG, "machine_no = \"1632712\"", "accounts.vending.machine_no", "8 to 20 decimal"),
        (DINGSHANG, "machine_no = \"16327129x\"", "accounts.vending.machine_no", "8 to 20 decimal"),
        (DINGSHANG, "currency = \"cny\"", "accounts.vending.currency", "ISO 4217"),
        (DINGSHANG, "currency = \"QQQ\"", "accounts.vending.currency", "ISO 4217"),
        (DINGSHANG, "token = \"stable\"", "accounts.vending.token", "is not a setting"),
        (HAOKA, "user_id = []", "accounts.cards.user_id", "must be a string"),
        (HAOKA, "secret = { }", "accounts.cards.secret", secret),
        (HAOKA, "body = \"json\"", "accounts.cards.body", "one of \"multipart\", \"urlencoded\""),
        (HAOKA, "currency = \"CNY\"", "accounts.cards.currency", "is not a setting"),
    ] {
        wrong(&with(account, line), path, told);
    }
}

#[test]
fn account_names_consist_of_letters_digits_and_three_signs() {
    let named = |name: &str| HAOKA.replace("cards", name);
    for name in ["a", "cards-2.eu_west", "0", &"n".repeat(64)] {
        fine(&named(&format!("\"{name}\"")));
    }
    let told = "1 to 64 letters, digits";
    for name in ["", "two words", "a/b", "号", &"n".repeat(65)] {
        let key = if name.is_empty() { "accounts".to_owned() } else { shown(name) };
        wrong(&named(&format!("\"{name}\"")), &key, told);
    }
}

/// The name as a path shows it, quoted where needed.
fn shown(name: &str) -> String {
    let bare = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if bare { format!("accounts.{name}") } else { format!("accounts.{name:?}") }
}

#[test]
fn two_accounts_with_one_identity_are_refused() {
    let url = "base_url = \"https://vendor.example\"";
    for account in [WECHAT, DINGSHANG, HAOKA] {
        let first = with(&account.replace("[accounts.", "[accounts.a-"), url);
        let same = with(&account.replace("[accounts.", "[accounts.b-"), url);
        let path = same.lines().next().unwrap().trim_matches(['[', ']']).to_owned();
        // Another secret or another name does not make it another account.
        wrong(&format!("{first}{same}"), &path, "is the same account at the vendor as accounts.a-");
        for written in [
            "https://vendor.example/",
            "https://vendor.example.",
            "https://vendor.example./",
            "https://Vendor.EXAMPLE",
            "https://vendor.example:443",
            "HTTPS://vendor.example.:443//",
            "https://vendor.example/.",
        ] {
            let written = with(&same, &format!("base_url = \"{written}\""));
            wrong(&format!("{first}{written}"), &path, "is the same account at the vendor");
        }

        for written in
            ["https://other.example", "https://vendor.example:8443", "https://vendor.example/a"]
        {
            let elsewhere = with(&same, &format!("base_url = \"{written}\""));
            fine(&format!("{first}{elsewhere}"));
        }
        let id = if account == HAOKA { "user_id" } else { "app_id" };
        fine(&format!("{first}{}", with(&same, &format!("{id} = \"other\""))));
    }
    // The same identity at two vendors is two accounts.
    let wechat = with(&with(WECHAT, url), "app_id = \"x\"");
    let haoka = with(&with(HAOKA, url), "user_id = \"x\"");
    fine(&format!("{wechat}{haoka}"));
}

#[test]
fn two_default_accounts_for_one_vendor_are_refused() {
    let first = with(HAOKA, "default = true");
    let other = with(&HAOKA.replace("cards", "cards-2"), "user_id = \"other\"");
    let second = with(&other, "default = true");
    wrong(
        &format!("{first}{second}"),
        "accounts.cards-2.default",
        "is also set for accounts.cards of the same provider",
    );
    fine(&format!("{first}{other}"));
    fine(&format!("{first}{}", with(WECHAT, "default = true")));
}
