//! `[clients]`: who may call, and settings that would make callers indistinguishable.

use std::path::Path;
use std::sync::Arc;

use order_query::clock::{Clock, SystemClock};
use order_query::config::{Problem, Section};
use order_query::grpc::auth::{Clients, Transport};
use order_query::telemetry::metrics::Metrics;

use super::{HAOKA, WECHAT, fine, problems, problems_in, read_in, wrong};

/// Two tokens that are long enough and differ.
const A: &str = "token-of-billing-0001";
const B: &str = "token-of-audit-000002";

/// The problems of these clients where callers must present certificates, with the accounts
/// `cards` and `market`.
fn certified(lines: &str) -> Vec<Problem> {
    let mut root = Section::parse(lines, Path::new("")).unwrap();
    let clients = root.section("clients");
    let place = clients.place();
    let transport = Transport { certificates: true, exposed: false };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let accounts = ["cards", "market"].map(str::to_owned);
    let _ = Clients::read(Some(clients), &accounts, transport, &clock, &Metrics::default());
    place.problems()
}

#[test]
fn every_setting_accepts_valid_values() {
    fine(&format!("clients.billing.token = \"{A}\"\n{HAOKA}"));
    fine(&format!(
        "[clients.billing]\ntoken = \"{A}\"\naccounts = [\"cards\", \"market\"]\n\
         vendor_calls_per_minute = 1\n[clients.\"a.b_c-D1\"]\ntoken = \"{B}\"\n\
         vendor_calls_per_minute = 10000\n{HAOKA}{WECHAT}"
    ));
    for lines in [
        format!("clients.a.tls_name = \"a.example\"\nclients.b.token = \"{B}\""),
        format!("clients.a = {{ tls_name = \"n\", token = \"{A}\" }}\nclients.b.tls_name = \"n\""),
        format!(
            "clients.a = {{ tls_name = \"n\", token = \"{A}\" }}\n\
             clients.b = {{ tls_name = \"n\", token = \"{B}\" }}"
        ),
    ] {
        assert_eq!(certified(&lines), [], "{lines}");
    }
}

#[test]
fn wrong_values_are_reported_at_their_path() {
    let token = "must have 16 to 4096 characters: ASCII, visible";
    let long = "x".repeat(4097);
    for (line, path, told) in [
        ("token = \"fifteen-letters\"", "clients.c.token", token),
        (&*format!("token = \"{long}\""), "clients.c.token", token),
        ("token = \"sixteen letters!\"", "clients.c.token", token),
        ("token = \"sixteen-lettérs!\"", "clients.c.token", token),
        ("token = \"\"", "clients.c.token", "is empty"),
        ("token = 5", "clients.c.token", "must be a secret"),
        ("token = { file = \"no-such-file\" }", "clients.c.token", "cannot open"),
        ("token = { env = \"ORDER_QUERY_NOT_SET\" }", "clients.c.token", "is not set"),
        ("accounts = [\"cards\"]", "clients.c", "needs a token or a tls_name"),
        ("tls_name = \"a\"", "clients.c.tls_name", "needs server.tls.client_ca_file"),
        ("#accounts = []", "clients.c.accounts", "must be a list of at least one string"),
        ("#accounts = \"cards\"", "clients.c.accounts", "must be a list of at least one string"),
        ("#accounts = [1]", "clients.c.accounts", "must be a list of at least one string"),
        (
            "#accounts = [\"cards\", \"other\"]",
            "clients.c.accounts",
            "no account has (at position 2)",
        ),
        (
            "#vendor_calls_per_minute = 0",
            "clients.c.vendor_calls_per_minute",
            "between 1 and 10000",
        ),
        ("#vendor_calls_per_minute = 10001", "clients.c.vendor_calls_per_minute", "1 and 10000"),
        ("#vendor_calls_per_minute = \"9\"", "clients.c.vendor_calls_per_minute", "whole number"),
        ("#tokens = \"x\"", "clients.c.tokens", "is not a setting of this version"),
    ] {
        // "#" stands for a token line.
        let lines = line.strip_prefix('#').map(|line| format!("token = \"{A}\"\n{line}"));
        let lines = lines.unwrap_or_else(|| line.to_owned());
        wrong(&format!("[clients.c]\n{lines}\n{HAOKA}"), path, told);
    }
    wrong(&format!("clients = 5\n{HAOKA}"), "clients", "must be a table");
    let told = problems(&format!("clients.c = 5\n{HAOKA}"));
    assert_eq!((&*told[0].path, &*told[0].text), ("clients.c", "must be a table"));
    wrong(&format!("[clients]\n{HAOKA}"), "clients", "every call would be rejected");
    let name = format!("clients.\"a b\".token = \"{A}\"\n{HAOKA}");
    wrong(&name, "clients.\"a b\"", "must have a name of 1 to 64");
}

#[test]
fn indistinguishable_clients_are_reported_without_their_tokens() {
    let told = problems(&format!("clients.a.token = \"{A}\"\nclients.b.token = \"{A}\"\n{HAOKA}"));
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].path, "clients.b.token");
    assert_eq!(told[0].text, "is also the token of another client; each client needs its own");

    let told = certified("clients.a.tls_name = \"n\"\nclients.b.tls_name = \"n\"");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].path, "clients.b.tls_name");
    assert!(told[0].text.contains("is also the tls_name of clients.a,"), "{told:?}");
}

/// An account with mistakes in its settings still exists.
#[test]
fn an_account_with_mistakes_is_not_reported_as_unknown() {
    let lines = format!("[clients.c]\ntoken = \"{A}\"\naccounts = [\"cards\"]\n{HAOKA}more = 1\n");
    wrong(&lines, "accounts.cards.more", "is not a setting");
}

#[test]
fn a_client_token_over_plaintext_is_a_warning() {
    let warned = |lines: &str| {
        let text = format!("{lines}\nclients.c.token = \"{A}\"\n{HAOKA}");
        let setup = read_in(Path::new(""), &text).ok().unwrap();
        setup.warnings.iter().map(|warning| warning.path.clone()).collect::<Vec<_>>()
    };
    assert_eq!(warned(""), [""; 0]);
    let open = "server.listen = \"0.0.0.0:0\"\nserver.insecure = true";
    assert_eq!(warned(open), ["clients.c.token"]);
}

#[test]
fn the_trailing_line_break_of_a_token_file_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("token"), format!("{A}\n")).unwrap();
    let lines =
        format!("clients.a.token = {{ file = \"token\" }}\nclients.b.token = \"{A}\"\n{HAOKA}");
    let told = problems_in(directory.path(), &lines);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].path, "clients.b.token");
}
