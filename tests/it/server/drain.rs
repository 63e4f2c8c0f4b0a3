//! SIGTERM: not ready, but still answering for a while; then a bounded shutdown, whatever hangs.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use order_query::pb::order_service_client::OrderServiceClient;
use order_query::pb::{OrderRef, Provider, Source, WatchOrderRequest};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{dial, say};
use crate::support::child::{PATIENCE, Serving};
use crate::support::played::{Played, answer};
use crate::support::{Failed, bare_client, connect, frame_of, question};

/// A vendor that answers any request when the test permits it, and its account.
async fn held() -> (Played, Arc<Semaphore>, String) {
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let vendor = Played::start(move |_| {
        let gate = Arc::clone(&opened);
        async move {
            let _passed = gate.acquire().await;
            answer(200, r#"{"code":0,"data":{"downOrderNo":"*","orderStatus":"已结算"}}"#)
        }
    })
    .await;
    let account = format!(
        "[accounts.cards]\nprovider = \"haoka\"\nbase_url = \"{}\"\ntimeout = \"5m\"\n\
         max_concurrency = 100\nuser_id = \"agent\"\nsecret = \"s\"\n",
        vendor.url()
    );
    (vendor, gate, account)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn during_drain_delay_the_server_is_not_ready_and_still_answers() {
    let (_vendor, gate, account) = held().await;
    gate.add_permits(100);
    let config = format!("server.drain_delay = \"3s\"\n{account}");
    let mut server = Serving::start(&config);
    let mut watches = Vec::new();
    for address in [server.address, server.admin_address] {
        let mut health = HealthClient::new(connect(address).await);
        let watch = health.watch(HealthCheckRequest::default()).await.unwrap();
        watches.push(watch.into_inner());
    }
    for watch in &mut watches {
        assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    }
    server.child.signal("TERM");
    for watch in &mut watches {
        assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    }
    // Callers that have not noticed yet are answered, on new connections too.
    let mut client = OrderServiceClient::new(connect(server.address).await);
    client.get_order(question(Provider::Haoka, "order-1")).await.unwrap();
    for watch in &mut watches {
        assert_eq!(watch.message().await.unwrap_err().code(), Code::Unavailable);
    }
    server.child.err.with("stopped");
    assert_eq!(server.child.end().code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_calls_in_flight_are_answered() {
    let (vendor, gate, account) = held().await;
    let mut server = Serving::start(&format!("server.drain_timeout = \"1m\"\n{account}"));
    let client = OrderServiceClient::new(connect(server.address).await);
    let calls: Vec<_> = (0..100)
        .map(|order| {
            let mut client = client.clone();
            tokio::spawn(async move {
                client.get_order(question(Provider::Haoka, &format!("order-{order}"))).await
            })
        })
        .collect();
    vendor.until_asked(100).await;
    server.child.signal("TERM");
    server.child.err.with("stopping");
    let closed = async { while TcpStream::connect(server.address).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, closed).await.unwrap();
    gate.add_permits(100);
    let answers = join_all(calls).await;
    let answered = answers.iter().filter(|answer| answer.as_ref().unwrap().is_ok()).count();
    assert_eq!(answered, 100, "{answers:?}");
    assert_eq!(server.child.end().code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_client_does_not_block_shutdown() {
    let (vendor, _gate, account) = held().await;
    let config = format!(
        "server.drain_delay = \"1s\"\nserver.drain_timeout = \"3s\"\n\
         server.request_timeout = \"1h\"\n{account}"
    );
    let mut server = Serving::start(&config);
    let silent = dial(server.address);
    let halfway = say(server.address, b"PRI * HTTP/2.0\r\n");
    // Sends a request, and never reads again.
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (mut client, mut connection) = h2::client::handshake(stream).await.unwrap();
    let asked = http::Request::post("http://localhost/orderquery.v1.OrderService/GetOrder")
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let (_answer, mut body) = client.send_request(asked, false).unwrap();
    body.send_data(frame_of(&question(Provider::Haoka, "order-1")), true).unwrap();
    let drive = tokio::time::timeout(Duration::from_millis(500), &mut connection);
    assert!(drive.await.is_err(), "it is still open");
    // A call, an order watch and a health watch, all endless.
    let mut client = OrderServiceClient::new(connect(server.address).await);
    let call = {
        let mut client = client.clone();
        tokio::spawn(async move { client.get_order(question(Provider::Haoka, "order-2")).await })
    };
    vendor.until_asked(2).await;
    let order = OrderRef {
        provider: Provider::Haoka.into(),
        id: "order-2".to_owned(),
        ..OrderRef::default()
    };
    let mut watch = client
        .watch_order(WatchOrderRequest { order: Some(order), ..Default::default() })
        .await
        .unwrap()
        .into_inner();
    let mut health = HealthClient::new(connect(server.admin_address).await);
    let mut probe = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();

    server.child.signal("TERM");
    server.child.err.with("server.drain_timeout was aborted");
    assert_eq!(server.child.end().code, Some(0));
    let ended = Failed::from(&watch.message().await.unwrap_err());
    assert_eq!((ended.code, ended.reason.as_str()), (Code::Unavailable, "SERVER_DRAINING"));
    while probe.message().await.is_ok() {}
    assert!(call.await.unwrap().is_err());
    drop((silent, halfway, connection));
}

#[test]
fn shutdown_does_not_wait_for_silent_connections() {
    let account = "[accounts.cards]\nprovider = \"haoka\"\nuser_id = \"agent\"\nsecret = \"s\"\n";
    let server = Serving::start(&format!("server.drain_timeout = \"5s\"\n{account}"));
    let crowd = [dial(server.address), say(server.address, b"PRI * HTTP/2.0\r\n")];
    // By then they are accepted: connections are accepted in order.
    assert_eq!(server.get(&["haoka", "a/b"]).code, Some(1));
    let ended = server.stop();
    assert_eq!(ended.code, Some(0));
    assert!(!ended.err.contains("was cut"), "{}", ended.err);
    drop(crowd);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vendor_answers_during_the_drain_are_stored() {
    let (vendor, gate, account) = held().await;
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("orders.redb");
    let config = format!("store.url = \"file:{}\"\n{account}", store.display());
    let mut server = Serving::start(&config);
    let mut client = bare_client(server.address);
    let mut impatient = Request::new(question(Provider::Haoka, "order-1"));
    impatient.set_timeout(Duration::from_millis(300));
    assert_eq!(client.get_order(impatient).await.unwrap_err().code(), Code::DeadlineExceeded);
    vendor.until_asked(1).await;
    server.child.signal("TERM");
    server.child.err.with("stopping");
    let closed = async { while TcpStream::connect(server.address).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, closed).await.unwrap();
    gate.add_permits(1);
    assert_eq!(server.child.end().code, Some(0));

    let again = Serving::start(&config);
    let mut client = OrderServiceClient::new(connect(again.address).await);
    let answer = client.get_order(question(Provider::Haoka, "order-1")).await.unwrap();
    assert_eq!(answer.get_ref().source(), Source::Cache);
    assert_eq!(vendor.asked().len(), 1);
}
