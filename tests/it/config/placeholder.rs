//! Placeholders of an example are refused in any value, in upper or lower case.

use std::fs;

use super::{DINGSHANG, HAOKA, WECHAT, problems_in};

const TOLD: &str = "still contains the example's REPLACE-ME; fill it in";

/// The account with this line in place of the one that sets its key.
fn with(account: &str, line: &str) -> String {
    let key = line.split('=').next().unwrap();
    let kept = account.lines().filter(|line| line.split('=').next() != Some(key));
    kept.chain([line]).fold(String::new(), |text, line| text + line + "\n")
}

#[test]
fn a_placeholder_is_refused_in_any_value() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["secret", "in-a-text"] {
        fs::write(folder.path().join(name), "replace-ME\n").unwrap();
    }
    fs::write(folder.path().join("in-a-text"), "redis://:rePlace-me@redis:6379/0").unwrap();
    let token = "clients.c.token = \"token-of-billing-0001\"";
    for (text, path) in [
        (with(WECHAT, "app_id = \"REPLACE-ME\""), "accounts.market.app_id"),
        (with(WECHAT, "app_secret = \"replace-me\""), "accounts.market.app_secret"),
        (with(WECHAT, "app_secret = { file = \"secret\" }"), "accounts.market.app_secret"),
        (with(WECHAT, "app_secret = { env = \"REPLACE-ME\" }"), "accounts.market.app_secret"),
        (with(WECHAT, "base_url = \"https://Replace-Me.example\""), "accounts.market.base_url"),
        (with(DINGSHANG, "app_id = \"Replace-Me\""), "accounts.vending.app_id"),
        (with(DINGSHANG, "app_secret = { file = \"secret\" }"), "accounts.vending.app_secret"),
        (with(DINGSHANG, "app_key = { file = \"secret\" }"), "accounts.vending.app_key"),
        (with(DINGSHANG, "base_url = \"https://replace-me\""), "accounts.vending.base_url"),
        (with(DINGSHANG, "machine_no = \"REPLACE-ME\""), "accounts.vending.machine_no"),
        (with(DINGSHANG, "currency = \"REPLACE-ME\""), "accounts.vending.currency"),
        (with(HAOKA, "user_id = \"a REPLACE-ME b\""), "accounts.cards.user_id"),
        (with(HAOKA, "secret = { file = \"secret\" }"), "accounts.cards.secret"),
        (with(HAOKA, "body = \"REPLACE-ME\""), "accounts.cards.body"),
        (with(HAOKA, "timeout = \"REPLACE-ME\""), "accounts.cards.timeout"),
        (with(HAOKA, "proxy = \"http://replace-me:3128\""), "accounts.cards.proxy"),
        (with(HAOKA, "ca_file = \"/REPLACE-ME/ca.pem\""), "accounts.cards.ca_file"),
        (format!("store.url = \"file:REPLACE-ME\"\n{HAOKA}"), "store.url"),
        (format!("store.url = {{ file = \"in-a-text\" }}\n{HAOKA}"), "store.url"),
        (format!("server.listen = \"REPLACE-ME:50051\"\n{HAOKA}"), "server.listen"),
        (format!("telemetry.log_level = \"replace-me=info\"\n{HAOKA}"), "telemetry.log_level"),
        (
            format!("telemetry.otlp_endpoint = \"http://REPLACE-ME:4317\"\n{HAOKA}"),
            "telemetry.otlp_endpoint",
        ),
        (format!("clients.c.token = {{ file = \"secret\" }}\n{HAOKA}"), "clients.c.token"),
        (
            format!("{token}\nclients.c.accounts = [\"cards\", \"REPLACE-ME\"]\n{HAOKA}"),
            "clients.c.accounts",
        ),
        (format!("{token}\nclients.c.tls_name = \"REPLACE-ME\"\n{HAOKA}"), "clients.c.tls_name"),
    ] {
        let problems = problems_in(folder.path(), &text);
        let told = problems.iter().find(|problem| problem.path == path);
        let told = told.unwrap_or_else(|| panic!("{path} is not in {problems:?}"));
        assert_eq!(told.text, TOLD, "{text}");
    }
}

#[test]
fn placeholders_in_certificate_files_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("pem"), "REPLACE-ME\n").unwrap();
    let text = format!(
        "[server.tls]\ncert_file = \"pem\"\nkey_file = \"pem\"\nclient_ca_file = \"pem\"\n{HAOKA}"
    );
    let problems = problems_in(folder.path(), &text);
    let paths: Vec<_> = problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(
        paths,
        ["cert_file", "key_file", "client_ca_file"].map(|key| format!("server.tls.{key}"))
    );
}
