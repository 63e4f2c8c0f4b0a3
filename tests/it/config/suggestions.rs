//! An unknown key or table is reported with the setting that it may be meant for.

use super::{DINGSHANG, HAOKA, WECHAT, problems};

#[test]
fn a_misspelled_key_is_reported_with_a_suggestion() {
    const TLS: &str = "[server.tls]\ncert_file = \"x\"\nkey_file = \"x\"\n";
    const CLIENT: &str = "[clients.c]\ntoken = \"token-of-billing-0001\"\n";
    for (before, line, path, meant) in [
        ("", "[client.x]", "client", Some("clients")),
        ("", "[Clients.x]", "Clients", Some("clients")),
        ("", "[account.x]", "account", Some("accounts")),
        ("", "[Server]", "Server", Some("server")),
        ("", "[telemtry]", "telemtry", Some("telemetry")),
        ("", "[stores]", "stores", Some("store")),
        ("", "colour = 1", "colour", None),
        ("", "x = 1", "x", None),
        ("[server]\n", "max_inflight = 1", "server.max_inflight", Some("max_in_flight")),
        ("[server]\n", "requestTimeout = 1", "server.requestTimeout", Some("request_timeout")),
        ("[server]\n", "request-timeout = 1", "server.request-timeout", Some("request_timeout")),
        ("[server]\n", "[server.tsl]", "server.tsl", Some("tls")),
        ("[server]\n", "colour = 1", "server.colour", None),
        (TLS, "cert = 1", "server.tls.cert", Some("cert_file")),
        (TLS, "key = 1", "server.tls.key", Some("key_file")),
        (TLS, "ca_file = 1", "server.tls.ca_file", Some("client_ca_file")),
        ("[admin]\n", "listn = 1", "admin.listn", Some("listen")),
        ("[store]\n", "uri = 1", "store.uri", Some("url")),
        ("[store]\n", "urls = 1", "store.urls", Some("url")),
        ("[telemetry]\n", "otlp_enpoint = 1", "telemetry.otlp_enpoint", Some("otlp_endpoint")),
        ("[telemetry]\n", "level = 1", "telemetry.level", Some("log_level")),
        (CLIENT, "tokens = 1", "clients.c.tokens", Some("token")),
        (CLIENT, "account = 1", "clients.c.account", Some("accounts")),
        (CLIENT, "name = 1", "clients.c.name", Some("tls_name")),
        (WECHAT, "appid = 1", "accounts.market.appid", Some("app_id")),
        (WECHAT, "time_out = 1", "accounts.market.time_out", Some("timeout")),
        (DINGSHANG, "machine = 1", "accounts.vending.machine", Some("machine_no")),
        (DINGSHANG, "app_keys = 1", "accounts.vending.app_keys", Some("app_key")),
        (HAOKA, "userid = 1", "accounts.cards.userid", Some("user_id")),
        (HAOKA, "app_secret = 1", "accounts.cards.app_secret", Some("secret")),
        (HAOKA, "colour = 1", "accounts.cards.colour", None),
    ] {
        let text = format!("{before}{line}\n");
        let told = problems(&text).into_iter().find(|problem| problem.path == path);
        let meant = meant.map(|meant| format!("; did you mean {meant}?")).unwrap_or_default();
        let expected = format!("is not a setting of this version{meant}");
        assert_eq!(told.expect(line).text, expected, "{text}");
    }
}
