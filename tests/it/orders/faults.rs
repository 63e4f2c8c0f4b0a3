//! Vendors that are down, slow, broken or inconsistent, and a module that panics: each caller gets
//! a clear error, and the next one is served.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use order_query::app::Setup;
use order_query::clock::SystemClock;
use order_query::config::Section;
use order_query::grpc;
use order_query::grpc::auth::Clients;
use order_query::pb::order_service_client::OrderServiceClient;
use order_query::pb::{Order, OrderStatus, Provider};
use order_query::peer::Peer;
use order_query::sandbox::Sandbox;
use order_query::server::{Arriving, Handler, Replying};
use order_query::telemetry::metrics::Metrics;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::support::facts::accounts;
use crate::support::fake_vendor::FakeVendor;
use crate::support::{Failed, Server, connect, question, sandbox_at, sandboxed, serve};

/// The sandbox's accounts, with short timeouts.
fn impatient(sandbox: &Sandbox) -> String {
    sandbox.accounts().replace("base_url", "timeout = \"300ms\"\nbase_url")
}

async fn impatient_server() -> (Sandbox, Server) {
    let sandbox = sandbox_at(Arc::new(order_query::clock::SystemClock)).await;
    let server = Server::start(&impatient(&sandbox)).await;
    (sandbox, server)
}

#[tokio::test]
async fn every_transport_fault_maps_to_a_reason() {
    const UNAVAILABLE: (Code, &str) = (Code::Unavailable, "PROVIDER_UNAVAILABLE");
    const INVALID: (Code, &str) = (Code::Internal, "PROVIDER_RESPONSE_INVALID");
    const ERROR: (Code, &str) = (Code::Unknown, "PROVIDER_ERROR");
    const QUOTA: (Code, &str) = (Code::ResourceExhausted, "PROVIDER_QUOTA_EXHAUSTED");
    // The ids, the result of each, the seconds to wait, and whether it takes a longer timeout to see it.
    let faults = [
        ("fault-500", "9001", UNAVAILABLE, Some(1), false),
        ("fault-503", "9002", UNAVAILABLE, Some(1), false),
        ("fault-404", "9003", ERROR, None, false),
        ("fault-redirect", "9005", ERROR, None, false),
        ("fault-html", "9006", INVALID, None, false),
        ("fault-empty", "9007", INVALID, None, false),
        ("fault-truncated", "9008", INVALID, None, false),
        ("fault-types", "9009", INVALID, None, false),
        ("fault-nested", "9010", INVALID, None, false),
        ("fault-huge", "9011", INVALID, None, false),
        ("fault-endless", "9012", UNAVAILABLE, Some(1), true),
        ("fault-slow", "9013", UNAVAILABLE, Some(1), true),
        ("fault-hang", "9014", UNAVAILABLE, Some(1), true),
        ("fault-reset", "9015", UNAVAILABLE, Some(1), false),
        ("fault-list", "9016", INVALID, None, false),
        ("fault-bytes", "9017", INVALID, None, false),
        ("fault-block", "9019", ERROR, None, false),
        // The last case, since rate limiting may pause the account.
        ("fault-429", "9004", QUOTA, Some(30), false),
    ];
    let sandbox = sandbox_at(Arc::new(order_query::clock::SystemClock)).await;
    let patient = Server::start(&sandbox.accounts()).await;
    let impatient = Server::start(&impatient(&sandbox)).await;
    for (word, number, expected, wait, is_slow) in faults {
        let server = if is_slow { &impatient } else { &patient };
        let questions =
            [(Provider::Wechat, word), (Provider::Dingshang, number), (Provider::Haoka, word)];
        for (provider, id) in questions {
            let failed = server.order(provider, id).await.unwrap_err();
            assert_eq!((failed.code, failed.reason.as_str()), expected, "{provider:?} {id}");
            assert_eq!(failed.retry_delay, wait.map(Duration::from_secs), "{provider:?} {id}");
            assert_eq!(failed.domain, "orderquery");
            assert_eq!(failed.metadata["account"], format!("{}-sandbox", provider.word()));
            assert!(!failed.message.contains("http://"), "{}", failed.message);
        }
    }
}

/// Loosely typed answers lose neither the order nor the meaning of an error.
#[tokio::test]
async fn loosely_typed_answers_keep_their_meaning() {
    let (_sandbox, server) = impatient_server().await;
    for (provider, id, expected) in [
        (Provider::Haoka, "time-none", Ok((OrderStatus::Canceled, true))),
        (Provider::Haoka, "side-types", Ok((OrderStatus::Canceled, true))),
        (Provider::Haoka, "time-no-date", Ok((OrderStatus::Shipped, false))),
        (Provider::Haoka, "numbers-with-points", Ok((OrderStatus::Shipped, false))),
        (Provider::Haoka, "fault-cut", Ok((OrderStatus::Shipped, false))),
        (Provider::Haoka, "error-unknown-order-list", Err("ORDER_NOT_FOUND")),
        (Provider::Wechat, "time-zero", Ok((OrderStatus::Paid, false))),
        (Provider::Wechat, "time-too-large", Ok((OrderStatus::Paid, false))),
        (Provider::Wechat, "side-types", Ok((OrderStatus::Paid, false))),
        (Provider::Wechat, "numbers-with-points", Ok((OrderStatus::Paid, false))),
        (Provider::Wechat, "fault-cut", Ok((OrderStatus::Paid, false))),
        (Provider::Wechat, "price-word", Err("PROVIDER_RESPONSE_INVALID")),
        (Provider::Wechat, "error-list", Err("ORDER_NOT_FOUND")),
        (Provider::Dingshang, "215", Ok((OrderStatus::Paid, false))),
        (Provider::Dingshang, "216", Ok((OrderStatus::Paid, false))),
        (Provider::Dingshang, "217", Ok((OrderStatus::Paid, false))),
        (Provider::Dingshang, "218", Ok((OrderStatus::Paid, false))),
        (Provider::Dingshang, "319", Ok((OrderStatus::Paid, false))),
        (Provider::Dingshang, "337", Ok((OrderStatus::Paid, false))),
        (Provider::Dingshang, "338", Ok((OrderStatus::Paid, false))),
        (Provider::Dingshang, "9018", Ok((OrderStatus::Paid, false))),
        (Provider::Dingshang, "334", Err("PROVIDER_RESPONSE_INVALID")),
        (Provider::Dingshang, "345", Err("ORDER_NOT_FOUND")),
        // The last case, since it pauses the account.
        (Provider::Haoka, "error-blocked-list", Err("PROVIDER_QUOTA_EXHAUSTED")),
        (Provider::Haoka, "shipped", Err("PROVIDER_QUOTA_EXHAUSTED")),
    ] {
        let outcome = server.order(provider, id).await;
        let told = outcome.as_ref().map(|order| (order.status(), order.terminal));
        let told = told.map_err(|failed| failed.reason.as_str());
        assert_eq!(told, expected, "{provider:?} {id}");
    }
}

#[tokio::test]
async fn every_sandbox_id_yields_an_order_or_a_named_error() {
    let (_sandbox, server) = impatient_server().await;
    let outcomes = Sandbox::scripted().into_iter().map(|scripted| {
        let id = scripted.id.replace("errcode-N", "errcode-77");
        let provider = Provider::from_word(scripted.vendor);
        let server = &server;
        async move { (server.order(provider.unwrap(), &id).await, id) }
    });
    let outcomes = join_all(outcomes).await;
    assert!(outcomes.len() > 200, "{}", outcomes.len());
    for (outcome, id) in outcomes {
        match outcome {
            Ok(order) => assert_eq!(order.id, id),
            Err(failed) => assert!(
                order_query::pb::ErrorReason::from_str_name(&format!(
                    "ERROR_REASON_{}",
                    failed.reason
                ))
                .is_some(),
                "{id}: {failed:?}"
            ),
        }
    }
}

/// The failures of all accounts when their vendor is at that address.
async fn all_fail_at(address: SocketAddr) -> Vec<Failed> {
    let server = Server::start(&accounts(&format!("http://{address}"), "")).await;
    let mut all = Vec::new();
    for provider in Provider::all() {
        all.push(server.order(provider, "7").await.unwrap_err());
    }
    all
}

#[tokio::test]
async fn an_unreachable_vendor_is_unavailable() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    for failed in all_fail_at(address).await {
        assert_eq!(
            (failed.code, failed.reason.as_str()),
            (Code::Unavailable, "PROVIDER_UNAVAILABLE")
        );
        assert_eq!(failed.retry_delay, Some(Duration::from_secs(1)));
        assert_eq!(failed.pushback.as_deref(), Some("1000"));
        assert!(!failed.message.contains(&address.to_string()), "{}", failed.message);
    }
}

#[tokio::test]
async fn a_dropped_connection_is_unavailable_and_retried_only_without_limits() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            drop(stream);
        }
    });
    for failed in all_fail_at(address).await {
        assert_eq!(
            (failed.code, failed.reason.as_str()),
            (Code::Unavailable, "PROVIDER_UNAVAILABLE")
        );
    }
    // WeChat waits for its token, and Haoka may have counted its call; Dingshang's is retried.
    assert_eq!(accepted.load(std::sync::atomic::Ordering::SeqCst), Provider::all().count() + 1);
}

/// Serves the calls of the service alone.
struct Calls<S>(Arc<grpc::CallLayer<S>>);

impl<S: grpc::Generated> Handler for Calls<S> {
    fn handle(&self, request: http::Request<Arriving>, peer: &Arc<Peer>) -> Replying {
        Box::pin(Arc::clone(&self.0).call(request, Arc::clone(peer)))
    }
}

#[tokio::test]
async fn a_panic_is_an_internal_error_and_the_server_survives() {
    let vendor = FakeVendor::new(|query| async move {
        assert_ne!(query.id, "in-call", "panics as it is meant to");
        Ok(Order { id: query.id, ..Order::default() })
    });
    let vendor = vendor.checking(|id| assert_ne!(id, "in-check", "panics as it is meant to"));
    let orders = vendor.orders_in_memory(Arc::new(SystemClock));
    let root = "[accounts.any]\nprovider = \"haoka\"\nuser_id = \"agent\"\nsecret = \"s\"\n";
    let root = Section::parse(root, Path::new("")).unwrap();
    let config = Setup::read(root, None, Arc::new(SystemClock)).unwrap().config;
    let limits = grpc::Limits {
        max_in_flight: config.server.max_in_flight,
        max_watches: config.server.max_watches,
    };
    let metrics = Metrics::default();
    let admission = grpc::Admission::new(&limits, &metrics);
    let timeout = config.server.request_timeout;
    let calls = grpc::service(
        orders,
        Clients::default(),
        admission,
        timeout,
        &metrics,
        config.telemetry.log_calls,
    );
    let address = serve(Calls(Arc::new(calls)), CancellationToken::new()).await;
    let mut client = OrderServiceClient::new(connect(address).await);
    for id in ["in-check", "in-call"] {
        let status = client.get_order(question(FakeVendor::PROVIDER, id)).await.unwrap_err();
        let failed = Failed::from(&status);
        assert_eq!((failed.code, failed.reason.as_str()), (Code::Internal, "INTERNAL"), "{id}");
        assert!(!failed.message.contains("meant"), "{}", failed.message);
        let answer = client.get_order(question(FakeVendor::PROVIDER, "fine")).await.unwrap();
        assert_eq!(answer.into_inner().order.unwrap().id, "fine");
    }
}

#[tokio::test]
async fn one_vendors_failure_does_not_affect_the_others() {
    let (_sandbox, server) = sandboxed().await;
    let hanging = tokio::spawn({
        let mut client = server.client.clone();
        async move { client.get_order(question(Provider::Wechat, "fault-hang")).await }
    });
    for (provider, id) in [(Provider::Dingshang, "54"), (Provider::Haoka, "shipped")] {
        server.order(provider, id).await.unwrap();
    }
    assert!(!hanging.is_finished());
    hanging.abort();
}
