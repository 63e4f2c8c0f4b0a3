//! The log as its readers see it: one line per call, nothing that forges or hides a line, and no
//! slow reader that blocks the service.

mod documented;
mod greetings;
mod hostile;
mod stuck;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use order_query::clock::{Clock as _, SystemClock};
use order_query::pb::{
    BatchGetOrdersRequest, GetOrderRequest, OrderRef, Provider, WatchOrderRequest,
};
use prost::Message as _;
use serde_json::{Value, json};
use tonic::Request;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::child::Serving;
use crate::support::played::{Played, answer};
use crate::support::scrape::page;
use crate::support::{bare_client, connect, framed, question, raw};

const DOCUMENTED: &str = include_str!("../../../docs/logging.md");

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const GRPC: (&str, &str) = ("content-type", "application/grpc");

/// A server whose accounts are the sandbox's.
struct Logged(Serving);

impl Logged {
    /// With all calls in the log.
    fn start() -> Self {
        Self::with("telemetry.log_calls = \"all\"\n")
    }

    fn with(settings: &str) -> Self {
        Self(Serving::start_with(settings, |command| {
            command.arg("--dev");
        }))
    }

    /// The next line, without its time; durations are only checked to be present.
    fn next(&mut self) -> Value {
        let line = self.0.child.err.next().expect("one more line");
        let mut line: Value = serde_json::from_str(&line).expect(&line);
        let fields = line.as_object_mut().unwrap();
        let time = fields.remove("timestamp").unwrap();
        assert!(time.as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{time}");
        for name in fields.keys() {
            assert!(DOCUMENTED.contains(&format!("`{name}`")), "{name} is in no document");
        }
        for name in ["latency_ms", "vendor_latency_ms", "duration_ms"] {
            if let Some(time) = fields.get_mut(name) {
                assert!(time.as_f64().unwrap() >= 0.0, "{time}");
                *time = json!("some");
            }
        }
        line
    }

    /// The next line is exactly this one.
    #[track_caller]
    fn tells(&mut self, expected: &Value) {
        let mut whole = json!({ "level": "INFO", "target": "order_query::grpc::record" });
        for (name, value) in expected.as_object().unwrap() {
            whole[name] = value.clone();
        }
        assert_eq!(self.next(), whole);
    }

    async fn get(&self, question: GetOrderRequest, traceparent: Option<&str>) {
        let mut request = Request::new(question);
        if let Some(text) = traceparent {
            request.metadata_mut().insert("traceparent", text.parse().unwrap());
        }
        let _ = bare_client(self.0.address).get_order(request).await;
    }

    async fn raw(&self, path: &str, headers: &[(&str, &str)], body: Option<Vec<u8>>) {
        let path = format!("/orderquery.v1.OrderService/{path}");
        raw(self.0.address, &path, headers, body).await;
    }
}

fn order(id: &str) -> OrderRef {
    OrderRef { provider: Provider::Haoka.into(), id: id.to_owned(), ..OrderRef::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_logs_one_line_with_all_known_fields() {
    let mut log = Logged::start();
    let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    log.get(question(Provider::Haoka, "shipped"), Some(&traceparent)).await;
    log.tells(&json!({
        "message": "answered", "method": "GetOrder", "code": "OK", "provider": "haoka",
        "account": "haoka-sandbox", "order": "…pped", "source": "LIVE",
        "vendor_latency_ms": "some", "latency_ms": "some", "trace_id": TRACE,
    }));
    log.get(question(Provider::Haoka, "shipped"), Some("00-forged-x-01")).await;
    log.tells(&json!({
        "message": "answered", "method": "GetOrder", "code": "OK", "provider": "haoka",
        "account": "haoka-sandbox", "order": "…pped", "source": "CACHE", "latency_ms": "some",
    }));
    let asked = GetOrderRequest {
        machine_no: "16327129".to_owned(),
        ..question(Provider::Dingshang, "40005")
    };
    log.get(asked, None).await;
    log.tells(&json!({
        "message": "the vendor answered that the order has expired, and gives no further details", "method": "GetOrder",
        "code": "FAILED_PRECONDITION", "reason": "ORDER_EXPIRED", "provider": "dingshang",
        "account": "dingshang-sandbox", "order": "…0005", "provider_code": "40005",
        "latency_ms": "some",
    }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_default_a_plain_answer_from_the_cache_has_no_line() {
    let mut log = Logged::with("");
    let batch = |ids: &[&str]| {
        let orders = ids.iter().map(|id| order(id)).collect();
        BatchGetOrdersRequest { orders, ..Default::default() }
    };
    log.get(question(Provider::Haoka, "shipped"), None).await;
    assert_eq!(log.next()["source"], "LIVE");
    log.get(question(Provider::Haoka, "shipped"), None).await;
    let mut client = bare_client(log.0.address);
    client.batch_get_orders(batch(&["shipped", "shipped"])).await.unwrap();
    // A batch with one order that the vendor is asked for.
    client.batch_get_orders(batch(&["shipped", "settled"])).await.unwrap();
    assert_eq!(log.next()["orders"], 2);
    // Failures, of which the second comes from memory.
    for _ in 0..2 {
        log.get(question(Provider::Haoka, "nobody"), None).await;
        assert_eq!(log.next()["reason"], "ORDER_NOT_FOUND");
    }
    // The metrics count all of them.
    let page = page(&log.0).await;
    for counted in [
        "grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"GetOrder\"",
        "order_query_answers_total{account=\"haoka-sandbox\",source=\"cache\"} 3",
    ] {
        assert!(page.contains(counted), "{counted}: {page}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_logs_its_counts_and_a_probe_logs_nothing() {
    let mut log = Logged::start();
    let orders = vec![order("shipped"), order("a/b"), order("shipped"), order("nobody")];
    let request = BatchGetOrdersRequest { orders, ..Default::default() };
    bare_client(log.0.address).batch_get_orders(request).await.unwrap();
    log.tells(&json!({
        "message": "an order of a batch: the id must be 1 to 64 letters, digits, \"_\" and \"-\"",
        "method": "BatchGetOrders", "code": "INVALID_ARGUMENT", "reason": "INVALID_REQUEST",
        "field": "id", "provider": "haoka", "account": "haoka-sandbox", "order": "…a/b",
    }));
    log.tells(&json!({
        "message": "an order of a batch: the vendor does not know the order; check the id and the account",
        "method": "BatchGetOrders", "code": "NOT_FOUND", "reason": "ORDER_NOT_FOUND",
        "provider": "haoka", "account": "haoka-sandbox", "order": "…body", "provider_code": "-1",
    }));
    log.tells(&json!({
        "message": "answered", "method": "BatchGetOrders", "code": "OK", "orders": 3, "found": 1,
        "failed": 2, "latency_ms": "some",
    }));

    for service in ["", "liveness", "account/haoka-sandbox"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        for address in [log.0.address, log.0.admin_address] {
            HealthClient::new(connect(address).await).check(request.clone()).await.unwrap();
        }
    }
    // Probes are not logged: the next line is that of the next call.
    log.get(question(Provider::Haoka, "a/b"), None).await;
    log.tells(&json!({
        "message": "the id must be 1 to 64 letters, digits, \"_\" and \"-\"", "method": "GetOrder",
        "code": "INVALID_ARGUMENT", "reason": "INVALID_REQUEST", "field": "id",
        "provider": "haoka", "account": "haoka-sandbox", "order": "…a/b", "latency_ms": "some",
    }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_logs_one_line_at_its_end() {
    let mut log = Logged::start();
    let address = log.0.address;
    let watch = |id: &str| {
        let mut client = bare_client(address);
        let request = WatchOrderRequest { order: Some(order(id)), ..Default::default() };
        async move {
            let mut stream = client.watch_order(request).await?.into_inner();
            while stream.message().await?.is_some() {}
            Ok::<_, tonic::Status>(())
        }
    };
    let watched = |id: &str, messages: u64, code: &str, more: Value| {
        let mut line = json!({
            "method": "WatchOrder", "provider": "haoka", "account": "haoka-sandbox", "order": id,
            "messages": messages, "duration_ms": "some", "code": code,
        });
        line.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        line
    };
    watch("settled").await.unwrap();
    log.tells(&watched("…tled", 1, "OK", json!({ "message": "answered" })));
    watch("nobody").await.unwrap_err();
    let nobody = json!({
        "message": "the vendor does not know the order; check the id and the account",
        "reason": "ORDER_NOT_FOUND", "provider_code": "-1",
    });
    log.tells(&watched("…body", 0, "NOT_FOUND", nobody));
    watch("a/b").await.unwrap_err();
    let malformed = json!({
        "message": "the id must be 1 to 64 letters, digits, \"_\" and \"-\"",
        "reason": "INVALID_REQUEST", "field": "id",
    });
    log.tells(&watched("…a/b", 0, "INVALID_ARGUMENT", malformed));
    let request = WatchOrderRequest { order: Some(order("shipped")), ..Default::default() };
    let mut left = bare_client(address).watch_order(request).await.unwrap().into_inner();
    left.message().await.unwrap().unwrap();
    drop(left);
    let left = json!({ "message": "the caller canceled the call or disconnected" });
    log.tells(&watched("…pped", 1, "CANCELLED", left));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_reaches_no_handler_logs_one_line_as_well() {
    let mut log = Logged::start();
    let failed = |method: &str, code: &str, reason: &str, message: &str| {
        let mut line = json!({
            "code": code, "reason": reason, "message": message, "latency_ms": "some",
        });
        line["method"] = json!(method);
        line
    };
    let invalid =
        |message: &str| failed("GetOrder", "INVALID_ARGUMENT", "INVALID_REQUEST", message);
    let fine = framed(0, &question(Provider::Haoka, "shipped").encode_to_vec());
    log.raw("GetOrder", &[GRPC], Some(framed(0, b"\xff"))).await;
    log.tells(&invalid("the request is not a message of the contract"));
    log.raw("GetOrder", &[GRPC], Some(vec![0, 0, 2, 0, 0])).await;
    log.tells(&invalid("the request is larger than 64 KiB"));
    log.raw("GetOrder", &[("content-type", "text/html")], Some(fine.clone())).await;
    log.tells(&invalid("the content-type is not application/grpc"));
    let unimplemented = "this server has no such method, or does not support the request's \
                         compression";
    log.raw("Forged-level=ERROR", &[GRPC], Some(fine.clone())).await;
    log.tells(&failed("", "UNIMPLEMENTED", "UNIMPLEMENTED", unimplemented));
    let compressed = framed(1, b"gz");
    log.raw("GetOrder", &[GRPC, ("grpc-encoding", "gzip")], Some(compressed)).await;
    log.tells(&failed("GetOrder", "UNIMPLEMENTED", "UNIMPLEMENTED", unimplemented));
    let late = "the call's deadline passed before it was answered; retry with a longer deadline";
    for (time, body) in [("0m", Some(fine)), ("50m", None)] {
        log.raw("GetOrder", &[GRPC, ("grpc-timeout", time)], body).await;
        log.tells(&failed("GetOrder", "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", late));
    }
    log.raw("WatchOrder", &[GRPC, ("grpc-timeout", "0m")], None).await;
    let mut line = failed("WatchOrder", "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", late);
    line["messages"] = json!(0);
    line["duration_ms"] = line.as_object_mut().unwrap().remove("latency_ms").unwrap();
    log.tells(&line);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_is_flushed_at_shutdown() {
    let log = Logged::start();
    let orders = (0..100).map(|number| order(&format!("a/{number}"))).collect();
    let request = BatchGetOrdersRequest { orders, ..Default::default() };
    bare_client(log.0.address).batch_get_orders(request).await.unwrap();
    let ended = log.0.stop();
    let lines = ended.err.lines().filter(|line| line.contains("BatchGetOrders"));
    assert_eq!(lines.count(), 101);
    assert!(ended.err.ends_with("\"message\":\"stopped\",\"target\":\"order_query::app\"}\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clock_skew_is_logged_once_until_it_ends() {
    let answered = Arc::new(AtomicUsize::new(0));
    let vendor = Played::start(move |_| {
        let off = [0, 59, 61, 400, 0, 61][answered.fetch_add(1, Ordering::SeqCst)];
        let date = SystemClock.wall() - Duration::from_secs(off);
        let mut answer = answer(200, r#"{"code":0,"data":{"orderStatus":"已发货"}}"#);
        answer.headers_mut().insert("date", httpdate::fmt_http_date(date).parse().unwrap());
        async { answer }
    })
    .await;
    let server = Serving::start(&format!(
        "[accounts.cards]\nprovider = \"haoka\"\nbase_url = \"{}\"\nuser_id = \"agent\"\n\
         secret = \"s\"\n",
        vendor.url()
    ));
    for call in 0..6 {
        let question = question(Provider::Haoka, &format!("order-{call}"));
        bare_client(server.address).get_order(question).await.unwrap();
    }
    let log = server.stop().err;
    let told: Vec<_> = log
        .lines()
        .filter(|line| line.contains("clocks of haoka and this machine differ"))
        .collect();
    assert_eq!(told.len(), 2, "{log}");
    assert!(told.iter().all(|line| line.contains("\"level\":\"WARN\"")), "{told:?}");
    assert!(told.iter().all(|line| line.contains("\"seconds\":6")), "{told:?}");
}
