//! Collectors that refuse spans, and collectors over TLS.

use std::net::SocketAddr;

use order_query::pb::Provider;
use serde_json::Value;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};

use super::{GET, Traced, only};
use crate::config::pem::glued;
use crate::support::authority::Authority;
use crate::support::child::{Ended, Serving};
use crate::support::collector::{Behavior, Collector};
use crate::support::haoka::cards;
use crate::support::question;
use crate::support::scrape::{page_at, value};

/// The log lines about spans.
fn told(ended: &Ended) -> Vec<String> {
    let lines = ended.err.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let lines = lines.filter(|line| line["target"] == "order_query::telemetry::otlp");
    let messages = lines.map(|line| line["message"].as_str().unwrap().to_owned());
    messages.map(|message| message.split(',').next().unwrap().to_owned()).collect()
}

/// An address that is not called.
const VENDOR: &str = "http://127.0.0.1:1";

const LOST: &str = "spans are lost";
const TAKES: &str = "the collector accepts spans again";
const LAST: &str = "the last spans are lost";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_refused_by_the_collector_are_counted_and_logged_once() {
    let (mut traced, _vendor) = Traced::start_scripted("").await;
    traced.collector.set(Behavior::Unavailable);
    let ask = || question(Provider::Haoka, "a/b");
    traced.get(ask(), &[]).await;
    let line = traced.server.child.err.with(LOST);
    assert!(line.contains("\"why\":\"The service is currently unavailable\""), "{line}");
    assert!(!line.contains("a text of the collector's"), "{line}");
    for number in 2..=3 {
        traced.get(ask(), &[]).await;
        traced.collector.until_sent(number).await;
    }
    // Whatever it claims, it refuses between none and all of the spans.
    for (number, refused) in [(4, 1), (5, i64::MAX), (6, i64::MAX), (7, i64::MAX), (8, -1)] {
        traced.collector.set(Behavior::Refuses(refused));
        traced.get(ask(), &[]).await;
        traced.collector.until_sent(number).await;
    }
    let line = traced.server.child.err.with(TAKES);
    assert!(line.contains("\"lost\":7"), "{line}");
    let page = page_at(traced.server.admin_address).await;
    assert_eq!(value(&page, "order_query_spans_lost_total"), Some(7.0));
    let collector = traced.collector.clone();
    let (_, ended) = traced.stop();
    assert_eq!(collector.messages().len(), 8);
    assert_eq!(collector.spans_while(Behavior::Unavailable).len(), 3);
    assert_eq!(told(&ended), [LOST, TAKES], "each once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_collector_does_not_delay_a_call() {
    // The port is free again.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoint = format!("telemetry.otlp_endpoint = \"http://{nobody}\"\n");
    let server = Serving::start(&format!("{endpoint}{}", cards(VENDOR, "")));
    let ended = server.get(&["haoka", "a/b"]);
    assert!(ended.err.contains("INVALID_REQUEST"), "{}", ended.err);
    let ended = server.stop();
    assert_eq!(ended.code, Some(0));
    assert_eq!(told(&ended), [LOST]);
    assert!(ended.err.contains("Connection refused"), "{}", ended.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_collector_blocks_neither_calls_nor_shutdown() {
    let (traced, _vendor) = Traced::start_scripted("").await;
    traced.collector.set(Behavior::Hangs);
    traced.get(question(Provider::Haoka, "a/b"), &[]).await;
    traced.collector.until_sent(1).await;
    traced.get(question(Provider::Haoka, "a/b"), &[]).await;
    let (_, ended) = traced.stop();
    assert_eq!(told(&ended), [LAST]);
}

/// A collector with TLS, with a certificate of the authority.
fn secured(authority: &Authority) -> (Collector, SocketAddr) {
    let collector = Collector::new();
    let pair = authority.issue(&["127.0.0.1"]);
    let identity = Identity::from_pem(pair.certificate, pair.key);
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    let server = Server::builder()
        .tls_config(ServerTlsConfig::new().identity(identity))
        .unwrap()
        .add_service(collector.service());
    tokio::spawn(server.serve_with_incoming(incoming));
    (collector, address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_over_tls_must_be_trusted_by_the_authority() {
    let (ours, strangers) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("collector-ca.pem");
    let glued = glued(&strangers.pem, &ours.pem);
    for (authority, content, is_ours) in
        [(&ours, &ours.pem, true), (&strangers, &ours.pem, false), (&ours, &glued, true)]
    {
        std::fs::write(&file, content).unwrap();
        let (collector, address) = secured(authority);
        let server = Serving::start(&format!(
            "[telemetry]\notlp_endpoint = \"https://{address}\"\notlp_ca_file = \"{}\"\n{}",
            file.display(),
            cards(VENDOR, "")
        ));
        server.get(&["haoka", "a/b"]);
        let ended = server.stop();
        assert_eq!(ended.code, Some(0));
        if is_ours {
            only(&collector.spans(), GET);
            assert_eq!(told(&ended), Vec::<String>::new());
        } else {
            assert_eq!(collector.messages().len(), 0);
            assert_eq!(told(&ended), [LOST]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn otlp_environment_variables_are_ignored() {
    let (collector, address) = Collector::start().await;
    let endpoint = format!("telemetry.otlp_endpoint = \"http://{address}\"\n");
    let server = Serving::start_with(&format!("{endpoint}{}", cards(VENDOR, "")), |command| {
        for (name, value) in [
            ("OTEL_SDK_DISABLED", "true"),
            ("OTEL_SERVICE_NAME", "forged"),
            ("OTEL_RESOURCE_ATTRIBUTES", "forged=forged"),
            ("OTEL_TRACES_SAMPLER", "always_off"),
            ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "0"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "forged=forged"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0"),
            ("http_proxy", "http://127.0.0.1:1"),
            ("HTTPS_PROXY", "http://127.0.0.1:1"),
            ("ALL_PROXY", "http://127.0.0.1:1"),
        ] {
            command.env(name, value);
        }
    });
    server.get(&["haoka", "a/b"]);
    assert_eq!(server.stop().code, Some(0));
    let call = collector.spans();
    assert_eq!(only(&call, GET).attributes["rpc.system.name"], "grpc");
    for message in collector.messages() {
        assert!(!message.metadata.contains_key("forged"));
        assert!(!format!("{:?}", message.request).contains("forged"));
    }
}
