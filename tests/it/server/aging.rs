//! Connections older than `max_connection_age`: their calls are answered, their watches end later.

use std::time::Duration;

use order_query::pb::order_service_client::OrderServiceClient;
use order_query::pb::{OrderRef, Provider, WatchOrderRequest};
use tokio::time::Instant;
use tonic::Code;

use super::{ask, closes, say};
use crate::support::child::{PATIENCE, Serving};
use crate::support::{Failed, connect, question, sandbox_at};

/// How many callers call continuously, each over its own connection.
const CALLERS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_is_lost_when_connections_exceed_max_age() {
    let sandbox = sandbox_at(std::sync::Arc::new(order_query::clock::SystemClock)).await;
    let config = format!("server.max_connection_age = \"2s\"\n{}", sandbox.accounts());
    let server = Serving::start(&config);
    let end = Instant::now() + Duration::from_secs(5);
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let address = server.address;
            tokio::spawn(async move {
                let mut client = OrderServiceClient::new(connect(address).await);
                let mut answered = 0;
                while Instant::now() < end {
                    ask(&mut client).await;
                    answered += 1;
                }
                answered
            })
        })
        .collect();
    for caller in callers {
        assert!(caller.await.unwrap() > 100);
    }
}

#[tokio::test]
async fn watches_end_30_s_after_their_connection_exceeds_max_age() {
    let sandbox = sandbox_at(std::sync::Arc::new(order_query::clock::SystemClock)).await;
    let config = format!(
        "server.max_connection_age = \"500ms\"\nserver.request_timeout = \"1s\"\n{}",
        sandbox.accounts()
    );
    let server = Serving::start(&config);
    // Starts HTTP/2, and then neither reads nor closes.
    let deaf = say(server.address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    let mut client = OrderServiceClient::new(connect(server.address).await);
    let order = OrderRef {
        provider: Provider::Haoka.into(),
        id: "shipped".to_owned(),
        ..OrderRef::default()
    };
    let request = WatchOrderRequest { order: Some(order), ..Default::default() };
    let mut watch = client.watch_order(request).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().is_some());
    let quiet = tokio::time::timeout(Duration::from_secs(20), watch.message()).await;
    assert!(quiet.is_err(), "its connection is of age, and it goes on: {quiet:?}");
    let ended = tokio::time::timeout(PATIENCE, watch.message()).await.unwrap().unwrap_err();
    let failed = Failed::from(&ended);
    assert_eq!((failed.code, failed.reason.as_str()), (Code::Unavailable, "SERVER_DRAINING"));
    // The next call uses another connection.
    client.get_order(question(Provider::Haoka, "shipped")).await.unwrap();
    tokio::task::spawn_blocking(|| closes(deaf)).await.unwrap();
}
