//! The metrics of the server itself: waiting and shed requests, and what the metrics listener
//! serves.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use order_query::pb::{Provider, WatchOrderRequest};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{order, vendor};
use crate::support::child::{PATIENCE, Serving};
use crate::support::haoka::{OPEN, cards};
use crate::support::played::{Played, answer};
use crate::support::scrape::{assert_reported, http1, until_reported};
use crate::support::{bare_client, question};

/// A server whose one vendor answers when the gate permits it, one call at a time.
async fn held(gate: &Arc<Semaphore>) -> (Played, Serving) {
    let gate = Arc::clone(gate);
    let vendor = Played::start(move |_| {
        let gate = Arc::clone(&gate);
        async move {
            gate.acquire().await.unwrap().forget();
            answer(200, OPEN)
        }
    })
    .await;
    let limits = "server.max_in_flight = 4\nserver.max_watches = 1\nserver.max_connections = 8";
    let account = cards(&vendor.url(), "max_concurrency = 1\ntimeout = \"1m\"");
    let server = Serving::start(&format!("{limits}\n{account}"));
    (vendor, server)
}

fn asks(server: &Serving, id: &str) -> impl Future<Output = bool> + Send + 'static {
    let (mut client, question) = (bare_client(server.address), question(Provider::Haoka, id));
    async move { client.get_order(question).await.is_ok() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joined_and_waiting_callers_are_counted() {
    let gate = Arc::new(Semaphore::new(0));
    let (_vendor, server) = held(&gate).await;
    let calls: JoinSet<_> =
        ["one", "one", "one", "two"].map(|id| asks(&server, id)).into_iter().collect();
    until_reported(
        &server,
        &[
            "order_query_calls_in_flight 4",
            "order_query_joined_total{account=\"cards\"} 2",
            "order_query_vendor_calls_under_way{account=\"cards\"} 1",
            "order_query_vendor_calls_waiting{account=\"cards\"} 1",
            "order_query_connections{listener=\"server\"} 4",
            "order_query_connections{listener=\"admin\"} 1",
        ],
    )
    .await;
    gate.add_permits(2);
    assert_eq!(calls.join_all().await, [true; 4]);
    until_reported(
        &server,
        &[
            "order_query_calls_in_flight 0",
            "order_query_vendor_calls_under_way{account=\"cards\"} 0",
            "order_query_vendor_calls_waiting{account=\"cards\"} 0",
            "order_query_connections{listener=\"server\"} 0",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shed_requests_are_counted_beside_their_limit() {
    let gate = Arc::new(Semaphore::new(0));
    let (_vendor, server) = held(&gate).await;
    let calls: JoinSet<_> = ["1", "2", "3", "4"].map(|id| asks(&server, id)).into_iter().collect();
    until_reported(&server, &["order_query_calls_in_flight 4"]).await;
    assert!(!asks(&server, "5").await);
    let watch = || {
        let mut client = bare_client(server.address);
        async move {
            client
                .watch_order(WatchOrderRequest { order: Some(order("1")), ..Default::default() })
                .await
        }
    };
    let watching = watch().await.unwrap();
    watch().await.unwrap_err();
    // Each call and watch has a connection; those of the refused ones go.
    until_reported(&server, &["order_query_connections{listener=\"server\"} 5"]).await;
    let idle = join_all((0..8).map(|_| TcpStream::connect(server.address))).await;
    until_reported(
        &server,
        &[
            "order_query_watches 1",
            "order_query_connections{listener=\"server\"} 8",
            "order_query_shed_total{limit=\"max_in_flight\"} 1",
            "order_query_shed_total{limit=\"max_watches\"} 1",
            "order_query_shed_total{limit=\"max_connections\"} 5",
            "order_query_server_limit{limit=\"max_in_flight\"} 4",
            "order_query_server_limit{limit=\"max_watches\"} 1",
            "order_query_server_limit{limit=\"max_connections\"} 8",
        ],
    )
    .await;
    drop((idle, watching));
    gate.add_permits(4);
    assert_eq!(calls.join_all().await, [true; 4]);
    until_reported(&server, &["order_query_calls_in_flight 0", "order_query_watches 0"]).await;
}

#[tokio::test]
async fn excess_probes_count_as_admin_connections_and_block_no_scrape() {
    let vendor = vendor().await;
    let mut server = Serving::start(&cards(&vendor.url(), ""));
    let crowd = (0..101).map(|_| TcpStream::connect(server.admin_address));
    let crowd: Vec<_> = join_all(crowd).await.into_iter().map(Result::unwrap).collect();
    let line = server.child.err.with("the limit admin_connections is reached");
    assert!(line.contains("\"listener\":\"admin\",\"open\":100"), "{line}");
    // Each excess connection replaced the one that had been idle for longest.
    let page = http1(server.admin_address, "GET /metrics").await;
    assert_reported(
        &page,
        &[
            "order_query_shed_total{limit=\"admin_connections\"} 2",
            "order_query_shed_total{limit=\"max_connections\"} 0",
        ],
    );
    let mut closed = 0;
    for mut connection in crowd {
        closed += usize::from(matches!(
            timeout(Duration::from_millis(200), connection.read(&mut [0; 1])).await,
            Ok(Ok(0) | Err(_))
        ));
        if closed == 2 {
            break;
        }
    }
    assert_eq!(closed, 2);
}

/// How many pages may be in flight, in total and per connection.
const PAGES: usize = 32;
const PAGES_OF_CONNECTION: usize = 2;

#[tokio::test]
async fn unread_pages_are_bounded() {
    let server = Serving::start(&cards(&vendor().await.url(), ""));
    let uri = format!("http://{}/metrics", server.admin_address);
    let (mut unread, mut connections) = (Vec::new(), Vec::new());
    for connection in 0..=PAGES / PAGES_OF_CONNECTION {
        let stream = TcpStream::connect(server.admin_address).await.unwrap();
        // No part of a page can be sent.
        let handshake =
            h2::client::Builder::new().initial_window_size(0).handshake::<_, &[u8]>(stream);
        let (client, driver) = handshake.await.unwrap();
        let driver = tokio::spawn(driver);
        let mut client = client.ready().await.unwrap();
        for number in 1..=PAGES_OF_CONNECTION + 1 {
            let request = http::Request::get(&uri).body(()).unwrap();
            let answer = client.send_request(request, true).unwrap().0.await.unwrap();
            let fits = number <= PAGES_OF_CONNECTION && connection < PAGES / PAGES_OF_CONNECTION;
            let status = if fits { 200 } else { 503 };
            assert_eq!(answer.status(), status, "{number} of connection {connection}");
            unread.push(answer);
        }
        connections.push((client, driver));
    }
    for (_, driver) in &connections {
        driver.abort();
    }
    let told = async {
        while !http1(server.admin_address, "GET /metrics").await.starts_with("HTTP/1.1 200 OK") {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, told).await.unwrap();
}

#[tokio::test]
async fn the_admin_listener_serves_health_and_metrics_only_and_alone_has_metrics() {
    let vendor = vendor().await;
    let server = Serving::start(&cards(&vendor.url(), ""));
    for (head, status) in [
        ("GET /", "404 Not Found"),
        ("GET /healthz", "404 Not Found"),
        ("GET /metrics/", "404 Not Found"),
        ("POST /metrics", "405 Method Not Allowed"),
        ("HEAD /metrics", "200 OK"),
    ] {
        let told = http1(server.admin_address, head).await;
        assert!(told.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{head}: {told}");
    }
    let told = http1(server.address, "GET /metrics").await;
    assert!(!told.contains("HTTP/1.1") && !told.contains("order_query"), "{told}");
}
