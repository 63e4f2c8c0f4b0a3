//! Traces: what a collector receives about a call, and that a call is not affected by the
//! collector.

mod collectors;

use std::collections::BTreeMap;
use std::sync::Arc;

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use order_query::clock::SystemClock;
use order_query::pb::{GetOrderRequest, OrderRef, Provider, WatchOrderRequest};
use serde_json::Value;
use tokio::sync::Semaphore;
use tonic::Request;
use tonic::metadata::MetadataValue;

use crate::support::child::{Ended, Serving};
use crate::support::collector::{Collector, Span, words};
use crate::support::haoka::{OPEN, cards};
use crate::support::played::{Played, answer};
use crate::support::redis_server::RedisServer;
use crate::support::{Scripted, bare_client, question, raw, sandbox_at};

const OPERATIONS: &str = include_str!("../../../docs/operations.md");

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const GET: &str = "orderquery.v1.OrderService/GetOrder";
const WATCH: &str = "orderquery.v1.OrderService/WatchOrder";

/// A server, and the collector of its spans.
struct Traced {
    server: Serving,
    collector: Collector,
}

impl Traced {
    /// `config` may begin with dotted keys.
    async fn start(config: &str) -> Self {
        let (collector, address) = Collector::start().await;
        let endpoint = format!("telemetry.otlp_endpoint = \"http://{address}\"\n");
        let server = Serving::start(&format!("{endpoint}{config}"));
        Self { server, collector }
    }

    /// The same, with a scripted vendor.
    async fn start_scripted(config: &str) -> (Self, Scripted) {
        let vendor = Scripted::start().await;
        let account = cards(&format!("http://{}", vendor.address), "");
        (Self::start(&format!("{config}{account}")).await, vendor)
    }

    async fn get(&self, question: GetOrderRequest, headers: &[(&'static str, String)]) {
        let mut request = Request::new(question);
        for (name, value) in headers {
            let value: MetadataValue<_> = value.parse().unwrap();
            request.metadata_mut().insert(*name, value);
        }
        let _ = bare_client(self.server.address).get_order(request).await;
    }

    /// Stops the server, which sends its remaining spans.
    fn stop(self) -> (Vec<Span>, Ended) {
        let ended = self.server.stop();
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        (self.collector.spans(), ended)
    }
}

fn traceparent(flags: &str) -> (&'static str, String) {
    ("traceparent", format!("00-{TRACE}-{CALLER}-{flags}"))
}

/// The only span of that name.
#[track_caller]
fn only<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let named: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    let [span] = named[..] else { panic!("{} of {name}: {spans:#?}", named.len()) };
    span
}

fn attributes(expected: &[(&str, &str)]) -> BTreeMap<String, String> {
    expected.iter().map(|(key, word)| ((*key).to_owned(), (*word).to_owned())).collect()
}

/// The `trace_id` of each call in the log.
fn logged(ended: &Ended) -> Vec<Option<String>> {
    let lines = ended.err.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let calls = lines.filter(|line| line.get("method").is_some());
    calls.map(|line| line["trace_id"].as_str().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_collector_receives_the_spans_of_a_call_in_its_callers_trace() {
    let sandbox = sandbox_at(Arc::new(SystemClock)).await;
    let traced = Traced::start(&sandbox.accounts()).await;
    let state = ("tracestate", "theirs=of-theirs".to_owned());
    traced.get(question(Provider::Haoka, "shipped"), &[traceparent("01"), state]).await;
    let collector = traced.collector.clone();
    let (spans, ended) = traced.stop();

    assert!(spans.iter().all(|span| span.trace == TRACE && !span.failed), "{spans:#?}");
    assert!(spans.iter().all(|span| span.state == "theirs=of-theirs"), "{spans:#?}");
    let call = only(&spans, GET);
    assert_eq!((call.kind, call.parent.as_str()), (SpanKind::Server, CALLER));
    let account = [("order_query.provider", "haoka"), ("order_query.account", "haoka-sandbox")];
    let of_call = [
        ("rpc.system.name", "grpc"),
        ("rpc.method", GET),
        ("rpc.response.status_code", "OK"),
        ("order_query.source", "LIVE"),
    ];
    assert_eq!(call.attributes, attributes(&[&of_call[..], &account].concat()));
    let search = only(&spans, "find order");
    assert_eq!((search.kind, &search.parent), (SpanKind::Internal, &call.id));
    assert_eq!(search.attributes, attributes(&account));
    let request = only(&spans, "POST");
    assert_eq!((request.kind, &request.parent), (SpanKind::Client, &search.id));
    let port = sandbox.address("haoka").unwrap().port().to_string();
    let of_request = [
        ("http.request.method", "POST"),
        ("http.response.status_code", "200"),
        ("server.address", "127.0.0.1"),
        ("server.port", &port),
        ("order_query.account", "haoka-sandbox"),
        ("order_query.operation", "order"),
    ];
    assert_eq!(request.attributes, attributes(&of_request));
    for operation in ["get", "reserve", "finish"] {
        let span = spans.iter().find(|span| span.name == operation).expect(operation);
        assert_eq!((span.kind, &span.parent), (SpanKind::Internal, &search.id));
        let system = [("db.system.name", "memory"), ("db.operation.name", operation)];
        assert_eq!(span.attributes, attributes(&system));
    }

    assert_eq!(logged(&ended), [Some(TRACE.to_owned())]);
    for message in collector.messages() {
        for spans in &message.request.resource_spans {
            let resource = words(&spans.resource.as_ref().unwrap().attributes);
            assert_eq!(resource["service.name"], "order-query");
            assert_eq!(resource["service.version"], env!("CARGO_PKG_VERSION"));
            assert_eq!(resource["service.instance.id"].len(), 32);
            assert_eq!(resource.len(), 3, "{resource:?}");
        }
    }
    for span in &spans {
        assert!(OPERATIONS.contains(&format!("`{}`", span.name)) || span.name == "POST");
        for key in span.attributes.keys() {
            assert!(OPERATIONS.contains(&format!("`{key}`")), "{key} is in no document");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sampling_follows_the_caller_and_otherwise_trace_ratio() {
    for (ratio, begun) in [("0", false), ("1.0", true)] {
        let (traced, _vendor) =
            Traced::start_scripted(&format!("telemetry.trace_ratio = {ratio}\n")).await;
        let asked = || question(Provider::Haoka, "a");
        traced.get(asked(), &[traceparent("00")]).await;
        traced.get(asked(), &[]).await;
        let (spans, ended) = traced.stop();
        let [unsampled, own] = &logged(&ended)[..] else { panic!("{}", ended.err) };
        assert_eq!(unsampled.as_deref(), Some(TRACE), "the log names the caller's all the same");
        assert_eq!(!spans.is_empty(), begun, "{spans:#?}");
        assert!(spans.iter().all(|span| Some(&span.trace) == own.as_ref()), "{spans:#?}");
        assert_eq!(own.is_some(), begun);
        if begun {
            assert_eq!(only(&spans, GET).parent, "");
        }

        let (traced, _vendor) =
            Traced::start_scripted(&format!("telemetry.trace_ratio = {ratio}\n")).await;
        traced.get(asked(), &[traceparent("01")]).await;
        assert_eq!(only(&traced.stop().0, GET).trace, TRACE, "whatever the ratio is");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_span_has_its_reason_and_is_an_error_only_for_server_faults() {
    let (traced, vendor) = Traced::start_scripted("").await;
    vendor.answers(503, "");
    traced.get(question(Provider::Haoka, "a"), &[traceparent("01")]).await;
    traced.get(question(Provider::Haoka, "a/b"), &[]).await;
    let method = "/orderquery.v1.OrderService/Forged";
    raw(traced.server.address, method, &[("content-type", "application/grpc")], Some(vec![])).await;
    let (spans, _) = traced.stop();

    let word = |span: &Span, key: &str| span.attributes.get(key).cloned().unwrap_or_default();
    let calls: Vec<_> = spans.iter().filter(|span| span.name == GET).collect();
    let told: Vec<_> = calls
        .iter()
        .map(|call| {
            let [code, kind] =
                ["rpc.response.status_code", "error.type"].map(|key| word(call, key));
            (code, kind, call.failed)
        })
        .collect();
    let expected = [
        ("UNAVAILABLE", "PROVIDER_UNAVAILABLE", true),
        ("INVALID_ARGUMENT", "INVALID_REQUEST", false),
    ];
    assert_eq!(told, expected.map(|(code, kind, failed)| (code.into(), kind.into(), failed)));
    let search = only(&spans, "find order");
    assert_eq!(word(search, "error.type"), "PROVIDER_UNAVAILABLE");
    let request = only(&spans, "POST");
    assert_eq!(word(request, "http.response.status_code"), "503");
    assert_eq!(word(request, "error.type"), "503");
    assert!(search.failed && request.failed);
    let unknown = only(&spans, "grpc");
    assert_eq!(word(unknown, "rpc.method"), "_OTHER");
    assert_eq!(word(unknown, "error.type"), "UNIMPLEMENTED");

    assert_eq!(vendor.asked().len(), 1);
    for header in ["traceparent", "tracestate", "baggage"] {
        assert!(!vendor.asked()[0].headers.contains_key(header), "{header}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_outlives_its_callers_and_belongs_to_the_leaders_trace() {
    let may_answer = Arc::new(Semaphore::new(0));
    let answers = Arc::clone(&may_answer);
    let vendor = Played::start(move |_| {
        let may_answer = Arc::clone(&answers);
        async move {
            let _ = may_answer.acquire().await.unwrap();
            answer(200, OPEN)
        }
    })
    .await;
    let traced = Traced::start(&cards(&vendor.url(), "")).await;
    let soon = || ("grpc-timeout", "100m".to_owned());
    traced.get(question(Provider::Haoka, "a"), &[traceparent("01"), soon()]).await;
    let first = traced.collector.has(GET).await;
    traced.get(question(Provider::Haoka, "a"), &[soon()]).await;
    assert_eq!(vendor.asked().len(), 1, "the second call has joined");
    assert!(traced.collector.spans().iter().all(|span| span.name != "find order"));
    may_answer.add_permits(1);
    let (spans, _) = traced.stop();
    let calls: Vec<_> = spans.iter().filter(|span| span.name == GET).collect();
    assert_eq!(calls.len(), 2);
    assert!(calls[1].trace != TRACE && calls[1].parent.is_empty());
    for call in calls {
        assert_eq!(call.attributes["rpc.response.status_code"], "DEADLINE_EXCEEDED");
    }
    let search = only(&spans, "find order");
    assert_eq!((&search.trace, &search.parent), (&first.trace, &first.id));
    assert!(!search.failed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_is_one_span_and_its_searches_are_not_part_of_it() {
    let sandbox = sandbox_at(Arc::new(SystemClock)).await;
    let traced = Traced::start(&sandbox.accounts()).await;
    let order = OrderRef {
        provider: Provider::Haoka.into(),
        id: "settled".to_owned(),
        ..OrderRef::default()
    };
    let mut request = Request::new(WatchOrderRequest { order: Some(order), ..Default::default() });
    request.metadata_mut().insert("traceparent", traceparent("01").1.parse().unwrap());
    let watching = bare_client(traced.server.address).watch_order(request).await;
    let mut watching = watching.unwrap().into_inner();
    while watching.message().await.unwrap().is_some() {}
    let (spans, _) = traced.stop();
    let watch = only(&spans, WATCH);
    assert_eq!((watch.trace.as_str(), watch.parent.as_str()), (TRACE, CALLER));
    assert_eq!(watch.attributes["order_query.account"], "haoka-sandbox");
    let search = only(&spans, "find order");
    assert!(search.trace != TRACE && search.parent.is_empty());
    assert_eq!(only(&spans, "POST").parent, search.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_operations_are_client_spans() {
    let redis = RedisServer::start();
    let (traced, vendor) =
        Traced::start_scripted(&format!("store.url = \"{}\"\n", redis.url())).await;
    vendor.answers(200, OPEN);
    traced.get(question(Provider::Haoka, "a"), &[]).await;
    let (spans, _) = traced.stop();
    let search = only(&spans, "find order");
    for operation in ["get", "reserve", "finish"] {
        let span = only(&spans, operation);
        assert_eq!((span.kind, &span.parent), (SpanKind::Client, &search.id));
        let system = [("db.system.name", "redis"), ("db.operation.name", operation)];
        assert_eq!(span.attributes, attributes(&system));
    }
}
