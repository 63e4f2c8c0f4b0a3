//! `[server]`, `[admin]` and `[telemetry]`.

use std::time::Duration;

use order_query::config::Ratio;
use order_query::telemetry::LogFormat;
use tracing_subscriber::filter::LevelFilter;

use super::{HAOKA, fine, problems_in, settings, wrong};
use crate::support::authority::Authority;

#[test]
fn an_empty_configuration_has_the_documented_defaults() {
    let config = settings("");
    assert_eq!(config.server.listen, "127.0.0.1:50051".parse().unwrap());
    assert_eq!(config.server.request_timeout, Duration::from_secs(15));
    assert_eq!(config.server.max_in_flight, 512);
    assert_eq!(config.server.max_watches, 1024);
    assert_eq!(config.server.max_connections, 1024);
    assert_eq!(config.server.max_connection_age, Duration::from_mins(10));
    assert_eq!(config.server.drain_delay, Duration::from_secs(5));
    assert_eq!(config.server.drain_timeout, Duration::from_secs(20));
    assert!(!config.server.reflection);
    assert_eq!(config.admin.listen, "127.0.0.1:9090".parse().unwrap());
    assert_eq!(config.telemetry.log_format, LogFormat::Json);
    assert!(config.telemetry.traces.is_none());
    assert!(config.telemetry.log_level.would_enable("order_query", &tracing::Level::INFO));
    assert!(!config.telemetry.log_level.would_enable("order_query", &tracing::Level::DEBUG));
}

#[test]
fn every_setting_accepts_valid_values() {
    let config = settings(
        "server.listen = \"0.0.0.0:8443\"\nserver.insecure = true\n\
         server.request_timeout = \"1500ms\"\nserver.reflection = true\n\
         server.max_in_flight = 1\nserver.max_watches = 2\nserver.max_connections = 3\n\
         server.max_connection_age = \"2s\"\nserver.drain_delay = \"0s\"\n\
         server.drain_timeout = \"4s\"\n\
         admin.listen = \"[::1]:0\"\n\
         telemetry.log_format = \"text\"\ntelemetry.log_level = \"warn, order_query=trace\"\n",
    );
    assert_eq!(config.server.listen, "0.0.0.0:8443".parse().unwrap());
    assert_eq!(config.server.request_timeout, Duration::from_millis(1500));
    assert!(config.server.reflection);
    let server = &config.server;
    assert_eq!((server.max_in_flight, server.max_watches, server.max_connections), (1, 2, 3));
    assert_eq!(server.max_connection_age, Duration::from_secs(2));
    assert_eq!(server.drain_delay, Duration::ZERO);
    assert_eq!(server.drain_timeout, Duration::from_secs(4));
    assert_eq!(config.admin.listen, "[::1]:0".parse().unwrap());
    assert_eq!(config.telemetry.log_format, LogFormat::Text);
    let level = config.telemetry.log_level;
    assert!(level.would_enable("order_query::grpc", &tracing::Level::TRACE));
    assert!(!level.would_enable("h2", &tracing::Level::INFO));
    assert_eq!(level.default_level(), Some(LevelFilter::WARN));
}

#[test]
fn loopback_may_be_plaintext() {
    for address in ["127.0.0.1:0", "127.9.9.9:1", "[::1]:50051"] {
        settings(&format!("server.listen = \"{address}\""));
    }
    for address in ["0.0.0.0:0", "10.1.2.3:50051", "[::]:50051", "[2001:db8::1]:1"] {
        let lines = format!("server.listen = \"{address}\"\n");
        wrong(&format!("{lines}{HAOKA}"), "server.listen", "server.insecure = true");
        fine(&format!("{lines}server.insecure = true\n{HAOKA}"));
    }
}

#[test]
fn listeners_need_distinct_ports_when_one_uses_every_address() {
    for (server, admin, clash) in [
        ("127.0.0.1:7", "127.0.0.1:7", true),
        ("127.0.0.1:7", "127.0.0.1:8", false),
        ("127.0.0.1:7", "127.0.0.2:7", false),
        ("127.0.0.1:7", "[::1]:7", false),
        ("0.0.0.0:7", "127.0.0.1:7", true),
        ("127.0.0.1:7", "0.0.0.0:7", true),
        ("0.0.0.0:7", "[::1]:7", false),
        ("[::]:7", "127.0.0.1:7", true),
        ("127.0.0.1:7", "[::]:7", true),
        ("[::]:7", "0.0.0.0:7", true),
        ("[::]:7", "[::1]:7", true),
        ("127.0.0.1:7", "[::ffff:127.0.0.1]:7", true),
        ("0.0.0.0:0", "0.0.0.0:0", false),
    ] {
        let lines = format!(
            "server.listen = \"{server}\"\nserver.insecure = true\nadmin.listen = \"{admin}\"\n"
        );
        let text = format!("{lines}{HAOKA}");
        if clash {
            wrong(&text, "admin.listen", "is the same address as server.listen");
        } else {
            fine(&text);
        }
    }
}

#[test]
fn durations_are_texts_in_natural_units() {
    for (text, millis) in [
        ("1ms", 1),
        ("250ms", 250),
        ("15s", 15_000),
        ("10m", 600_000),
        ("1h", 3_600_000),
        ("1m 30s", 90_000),
    ] {
        let config = settings(&format!("server.request_timeout = \"{text}\""));
        assert_eq!(config.server.request_timeout, Duration::from_millis(millis), "{text}");
    }
}

#[test]
fn wrong_values_are_reported_at_their_path() {
    let duration = "must be a duration such as";
    let address = "must be an address and port";
    let level = "must be a log level";
    for (line, path, told) in [
        ("server.listen = \"localhost\"", "server.listen", address),
        ("server.listen = \"127.0.0.1\"", "server.listen", address),
        ("server.listen = \"127.0.0.1:65536\"", "server.listen", address),
        ("server.listen = 50051", "server.listen", address),
        ("server.listen = \"\"", "server.listen", address),
        ("server.insecure = \"yes\"", "server.insecure", "must be true or false"),
        ("server.insecure = 1", "server.insecure", "must be true or false"),
        ("server.reflection = \"true\"", "server.reflection", "must be true or false"),
        ("server.request_timeout = 15", "server.request_timeout", duration),
        ("server.request_timeout = \"15\"", "server.request_timeout", duration),
        ("server.request_timeout = \"-15s\"", "server.request_timeout", duration),
        ("server.request_timeout = \"soon\"", "server.request_timeout", duration),
        ("server.request_timeout = \"\"", "server.request_timeout", duration),
        ("server.request_timeout = \"0s\"", "server.request_timeout", "between 1ms and 3600s"),
        ("server.request_timeout = \"61m\"", "server.request_timeout", "between 1ms and 3600s"),
        ("server.max_in_flight = 0", "server.max_in_flight", "between 1 and 100000"),
        ("server.max_in_flight = \"5\"", "server.max_in_flight", "must be a whole number"),
        ("server.max_watches = 0", "server.max_watches", "between 1 and 100000"),
        ("server.max_connections = 100001", "server.max_connections", "between 1 and 100000"),
        ("server.max_connection_age = \"1ms\"", "server.max_connection_age", "between 100ms and"),
        ("server.drain_delay = 5", "server.drain_delay", duration),
        ("server.drain_timeout = \"2h\"", "server.drain_timeout", "between 1ms and 3600s"),
        ("server.drain_delay = \"20s\"", "server.drain_timeout", "longer than server.drain_delay"),
        ("server.listen_on = \"x\"", "server.listen_on", "is not a setting of this version"),
        ("server = 5", "server", "must be a table"),
        ("admin.listen = \"nowhere\"", "admin.listen", address),
        ("admin.reflection = true", "admin.reflection", "is not a setting"),
        ("admin = []", "admin", "must be a table"),
        ("telemetry.log_format = \"xml\"", "telemetry.log_format", "one of \"json\", \"text\""),
        ("telemetry.log_format = 1", "telemetry.log_format", "must be a string"),
        ("telemetry.log_level = 3", "telemetry.log_level", level),
        ("telemetry.log_level = \"\"", "telemetry.log_level", level),
        ("telemetry.log_level = \"inof\"", "telemetry.log_level", level),
        ("telemetry.log_level = \"order_query\"", "telemetry.log_level", level),
        ("telemetry.log_level = \"order_query=\"", "telemetry.log_level", level),
        ("telemetry.log_level = \"order_query=loud\"", "telemetry.log_level", level),
        ("telemetry.log_level = \"=info\"", "telemetry.log_level", level),
        ("telemetry.log_level = \"info,\"", "telemetry.log_level", level),
        ("store.url = \"memory\"", "store.url", "must be \"memory:\""),
        ("store.url = \"file:\"", "store.url", "must be \"memory:\""),
        ("store.url = \"http://redis\"", "store.url", "must be \"memory:\""),
        ("store.url = 5", "store.url", "must be a secret"),
        ("store.url = \"redis://h/db\"", "store.url", "must be like"),
        ("admin.listen = \"127.0.0.1:50051\"", "admin.listen", "the same address"),
        ("store.path = \"x\"", "store.path", "is not a setting"),
        ("telemetry.colors = true", "telemetry.colors", "is not a setting"),
        ("\"odd key\" = 1", "\"odd key\"", "is not a setting"),
        ("server.\"odd key\" = 1", "server.\"odd key\"", "is not a setting"),
    ] {
        wrong(&format!("{line}\n{HAOKA}"), path, told);
    }
}

#[test]
fn sentinels_can_name_the_stores_server() {
    for url in [
        "redis-sentinel://h/m",
        "rediss-sentinel://user:pass%2Fword@h:1,[::1]:2,i/m?db=1&sentinel_password=a%26b",
    ] {
        fine(&format!("store.url = \"{url}\"\n{HAOKA}"));
    }
    for (url, told) in [
        ("redis-sentinel://h:1,i:1", "must have the name of the master"),
        ("rediss-sentinel://h/m#x", "must have no #fragment"),
        ("redis-sentinel:h/m", "must be \"memory:\""),
    ] {
        wrong(&format!("store.url = \"{url}\"\n{HAOKA}"), "store.url", told);
    }
}

#[test]
fn an_otlp_endpoint_is_a_url_with_only_a_host_and_port() {
    let endpoint = |text: &str| format!("telemetry.otlp_endpoint = \"{text}\"\n");
    for text in [
        "http://127.0.0.1:4317",
        "http://collector.example:4317/",
        "https://collector.example",
        "http://[::1]:4317",
    ] {
        let traces = settings(&endpoint(text)).telemetry.traces.expect(text);
        assert_eq!(traces.endpoint, text);
        assert_eq!((traces.ratio, traces.authorities), (Ratio(1.0), None));
    }
    let path = "telemetry.otlp_endpoint";
    for text in [
        "collector.example:4317",
        "grpc://collector.example:4317",
        "http://",
        "http://:4317",
        "http://user@collector.example",
        "http://user:word@collector.example",
        "http://collector.example/v1/traces",
        "http://collector.example?a=b",
        "http://collector.example#a",
        "http://collector.example:port",
        "http://collector.example:",
        "http://collector.example:65536",
        "http://h:1@h:2",
    ] {
        let lines = format!("{}{HAOKA}", endpoint(text));
        wrong(&lines, path, "must be like \"http://127.0.0.1:4317\"");
    }
    wrong(&format!("{path} = 4317\n{HAOKA}"), path, "must be a string");
    for (text, ratio) in [("0", 0.0), ("1", 1.0), ("0.0", 0.0), ("0.25", 0.25), ("1.0", 1.0)] {
        let lines = format!("{}telemetry.trace_ratio = {text}", endpoint("http://h"));
        assert_eq!(settings(&lines).telemetry.traces.unwrap().ratio, Ratio(ratio));
    }
    for text in ["-0.1", "1.1", "2", "-1", "nan", "inf", "\"1\"", "300"] {
        let lines = format!("{}telemetry.trace_ratio = {text}\n{HAOKA}", endpoint("http://h"));
        wrong(&lines, "telemetry.trace_ratio", "must be a number from 0 to 1");
    }
}

#[test]
fn an_otlp_ca_file_needs_https_and_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let damaged = authority.pem.replace("\nMII", "\n!II");
    for (name, content) in
        [("ca.pem", &*authority.pem), ("none.pem", "no certificate"), ("damaged.pem", &damaged)]
    {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    let told = |scheme: &str, file: &str| {
        let lines = format!(
            "telemetry.otlp_endpoint = \"{scheme}://h\"\ntelemetry.otlp_ca_file = \"{file}\"\n{HAOKA}"
        );
        let problems = problems_in(folder.path(), &lines);
        problems.into_iter().map(|problem| (problem.path, problem.text)).collect::<Vec<_>>()
    };
    assert_eq!(told("https", "ca.pem"), []);
    for (scheme, file, text) in [
        ("https", "none.pem", "holds no certificate in PEM"),
        ("https", "damaged.pem", "holds a certificate that cannot be read"),
        ("http", "ca.pem", "needs an otlp_endpoint that begins with https://"),
    ] {
        let problems = told(scheme, file);
        let [(path, said)] = problems.as_slice() else { panic!("one mistake, not {problems:?}") };
        assert_eq!(path, "telemetry.otlp_ca_file");
        assert!(said.contains(text), "{said}");
    }
    assert!(told("https", "absent.pem")[0].1.starts_with("cannot open "));
    for line in ["otlp_ca_file = \"/dev/null\"", "trace_ratio = 1"] {
        let key = format!("telemetry.{line}");
        let path = key.split(' ').next().unwrap();
        let problems = problems_in(folder.path(), &format!("{key}\n{HAOKA}"));
        let text = "has no effect without telemetry.otlp_endpoint";
        assert!(problems.iter().any(|it| it.path == path && it.text == text), "{problems:?}");
    }
}
