//! Reading any configuration never panics, and no value of it appears in a problem.

use proptest::prelude::*;

use super::problems;

/// Every setting, and some unknown keys.
const KEYS: &[&str] = &[
    "server.listen",
    "server.insecure",
    "server.request_timeout",
    "server.reflection",
    "server.unknown",
    "admin.listen",
    "telemetry.log_format",
    "telemetry.log_level",
    "unknown",
    "clients.c.token",
    "clients.c.tls_name",
    "clients.c.accounts",
    "clients.c.vendor_calls_per_minute",
    "clients.c.unknown",
    "accounts.w.provider",
    "accounts.w.default",
    "accounts.w.base_url",
    "accounts.w.timeout",
    "accounts.w.proxy",
    "accounts.w.app_id",
    "accounts.w.app_secret",
    "accounts.w.token",
    "accounts.d.base_url",
    "accounts.d.app_secret",
    "accounts.d.app_key",
    "accounts.d.machine_no",
    "accounts.d.currency",
    "accounts.h.user_id",
    "accounts.h.secret",
    "accounts.h.body",
    "accounts.h.unknown",
];

/// A text that no problem contains by itself.
const CANARY: &str = "cAnArY";

/// The text as a TOML string: JSON's, except for one character.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap().replace('\u{7f}', "\\u007f")
}

/// A value of any TOML type that contains the canary.
fn value() -> impl Strategy<Value = String> {
    let text =
        (".{0,12}", ".{0,12}").prop_map(|(before, after)| format!("{before}{CANARY}{after}"));
    let url = "[a-z]{0,6}:/{0,3}[a-z@:.]{0,8}".prop_map(|start| format!("{start}{CANARY}"));
    let text = prop_oneof![text, url].prop_map(|text| quoted(&text));
    text.prop_flat_map(|text| {
        prop_oneof![
            Just(text.clone()),
            Just(format!("[{text}]")),
            Just(format!("{{ env = [{text}] }}")),
            Just(format!("{{ vault = {text} }}")),
            Just(format!("{{ env = {text}, file = {text} }}")),
            Just(format!("{{ a = {{ b = {text} }} }}")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_value_appears_in_a_problem(
        values in proptest::collection::btree_map(proptest::sample::select(KEYS), value(), 1..12),
    ) {
        let mut lines: Vec<_> =
            values.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        for (account, vendor) in [("w", "wechat"), ("d", "dingshang"), ("h", "haoka")] {
            if !values.contains_key(format!("accounts.{account}.provider").as_str()) {
                lines.push(format!("accounts.{account}.provider = \"{vendor}\""));
            }
        }
        for problem in problems(&lines.join("\n")) {
            let told = format!("{}: {}", problem.path, problem.text);
            prop_assert!(!told.contains(CANARY), "{}", told);
        }
    }

    /// A file that is malformed on the line of a secret, at any position.
    #[test]
    fn no_malformed_line_appears_in_a_problem(
        before in "[ a-z=\"'\\[\\]{}.,#\\\\]{0,8}",
        between in "[ a-z=\"'\\[\\]{}.,#\\\\]{0,8}",
        after in "\\PC{0,12}",
    ) {
        for line in [
            format!("app_secret{before}={between}{CANARY}{after}"),
            format!("app_secret = \"{CANARY}{before}\n{between}{after}"),
            format!("app_secret = {before}\"{CANARY}\"{between}\"{CANARY}{after}"),
            format!("app_secret = {CANARY}"),
        ] {
            let text = format!("[accounts.w]\nprovider = \"wechat\"\n{line}\n");
            for problem in problems(&text) {
                // The path consists of keys, and a malformed line can turn anything into a key.
                prop_assert!(!problem.text.contains(CANARY), "{}\n{}", problem.text, text);
            }
        }
    }

    #[test]
    fn no_text_causes_a_panic(
        text in "([a-z_]{1,8}|\\[accounts\\.[a-z]\\]|provider = \"(wechat|dingshang|haoka)\"|[=\\[\\]{}\"'#.,\\\\\n]|\\PC){0,60}",
    ) {
        problems(&text);
    }

    #[test]
    fn no_value_causes_a_panic(text in "([a-z]{1,6}:)?/{0,2}.{0,40}") {
        for key in KEYS {
            let mut lines = vec![format!("{key} = {}", quoted(&text))];
            for (account, vendor) in [("w", "wechat"), ("d", "dingshang"), ("h", "haoka")] {
                // A vendor on this machine needs no certificates, which take long to load.
                for (other, value) in [("provider", vendor), ("base_url", "http://127.0.0.1:1")] {
                    let other = format!("accounts.{account}.{other}");
                    if other != *key {
                        lines.push(format!("{other} = \"{value}\""));
                    }
                }
            }
            problems(&lines.join("\n"));
        }
    }
}
