//! How `serve` stops: calls in flight are answered first, and a second signal stops at once.

use std::sync::Arc;

use axum::body::Body;
use axum::http::Response;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::child::{Child, PATIENCE, Serving};
use crate::support::connect;
use crate::support::played::{Played, answer};

/// A vendor that answers when the test permits it, and a server that calls it.
struct Held {
    vendor: Played,
    gate: Arc<Semaphore>,
    server: Serving,
}

impl Held {
    async fn start() -> Self {
        let gate = Arc::new(Semaphore::new(0));
        let opened = Arc::clone(&gate);
        let vendor = Played::start(move |_| {
            let gate = Arc::clone(&opened);
            async move { shipped(gate.acquire().await.map(drop).is_ok()) }
        })
        .await;
        let config = format!(
            "[accounts.cards]\nprovider = \"haoka\"\nbase_url = \"{}\"\ntimeout = \"1m\"\n\
             user_id = \"agent\"\nsecret = \"s\"\n",
            vendor.url()
        );
        Self { vendor, gate, server: Serving::start(&config) }
    }

    /// Runs `order-query get` and waits until the vendor has its request.
    async fn under_way(&self) -> Child {
        let question = Child::start(self.server.get_command(&["haoka", "order-1"]));
        self.vendor.until_asked(1).await;
        question
    }
}

fn shipped(let_through: bool) -> Response<Body> {
    let status = if let_through { 200 } else { 500 };
    answer(status, r#"{"code":0,"data":{"downOrderNo":"order-1","orderStatus":"已发货"}}"#)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_drains_calls_under_way_and_notifies_watchers() {
    for signal in ["TERM", "INT"] {
        let mut held = Held::start().await;
        let question = held.under_way().await;
        let mut health = HealthClient::new(connect(held.server.admin_address).await);
        let request = HealthCheckRequest { service: "readiness".to_owned() };
        let mut watch = health.watch(request).await.unwrap().into_inner();
        assert_eq!(next(&mut watch).await, Ok(ServingStatus::Serving));

        held.server.child.signal(signal);
        held.server.child.err.with("stopping; calls in progress are answered first");
        assert_eq!(next(&mut watch).await, Ok(ServingStatus::NotServing));
        assert_eq!(next(&mut watch).await, Err(tonic::Code::Unavailable));

        held.gate.add_permits(1);
        let answered = question.end();
        assert_eq!(answered.code, Some(0), "{answered:?}");
        assert!(answered.out.contains("SHIPPED (已发货)"), "{}", answered.out);
        let ended = held.server.child.end();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let last: serde_json::Value =
            serde_json::from_str(ended.err.lines().last().unwrap()).unwrap();
        assert_eq!(last["message"], "stopped");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_stops_at_once() {
    let mut held = Held::start().await;
    let question = held.under_way().await;
    held.server.child.signal("TERM");
    held.server.child.err.with("stopping");
    held.server.child.signal("TERM");
    let ended = held.server.child.end();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.err.contains("error: a second signal stopped the server at once"),
        "{}",
        ended.err
    );
    let unanswered = question.end();
    assert_eq!((unanswered.code, unanswered.out.as_str()), (Some(1), ""), "{unanswered:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_connection_is_accepted_during_the_drain() {
    let mut held = Held::start().await;
    let question = held.under_way().await;
    held.server.child.signal("TERM");
    held.server.child.err.with("stopping");
    // The log line is written just before the listener closes.
    let closed = async { while TcpStream::connect(held.server.address).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, closed).await.unwrap();
    let refused = held.server.get(&["haoka", "order-2"]);
    assert_eq!((refused.code, refused.out.as_str()), (Some(1), ""), "{refused:?}");
    assert_eq!(held.vendor.asked().len(), 1);
    held.gate.add_permits(1);
    assert_eq!(question.end().code, Some(0));
    assert_eq!(held.server.child.end().code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sighup_is_ignored() {
    let mut held = Held::start().await;
    let question = held.under_way().await;
    for _ in 0..2 {
        held.server.child.signal("HUP");
        held.server.child.err.with("SIGHUP has no effect");
    }
    held.gate.add_permits(1);
    assert_eq!(question.end().code, Some(0));
    assert_eq!(held.server.stop().code, Some(0));
}

/// The next status of a health watch.
async fn next(
    watch: &mut tonic::Streaming<tonic_health::pb::HealthCheckResponse>,
) -> Result<ServingStatus, tonic::Code> {
    let told = tokio::time::timeout(PATIENCE, watch.message()).await.unwrap();
    told.map(|told| told.expect("a status before the end").status()).map_err(|status| status.code())
}
