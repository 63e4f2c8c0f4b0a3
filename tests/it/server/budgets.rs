//! What peers can make the server hold: incomplete requests, endless watches, and answers that they
//! do not read.

use std::time::Duration;

use axum::http::{Request, Response, StatusCode};
use axum::routing::get;
use futures_util::future::join_all;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use order_query::pb::{BatchGetOrdersRequest, GetOrderRequest, OrderRef, Provider};
use order_query::server::Limits;
use prost::Message;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::service::Routes;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::say;
use crate::support::child::{PATIENCE, Serving};
use crate::support::played::{Played, answer};
use crate::support::{connect, frame_of, limits, peak_memory, serve_within};

const HAOKA: &str = "[accounts.cards]\nprovider = \"haoka\"\nuser_id = \"agent\"\nsecret = \"s\"\n";

const MIB: u64 = 1 << 20;

/// A raw HTTP/2 connection with this receive window for each stream.
async fn raw_http2(
    address: std::net::SocketAddr,
    window: u32,
) -> (SendRequest<axum::body::Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let handshake = h2::client::Builder::new().initial_window_size(window).handshake(stream);
    let (client, connection) = handshake.await.unwrap();
    (client, tokio::spawn(connection))
}

/// Calls a method with that message, and returns the answer once its headers have arrived.
async fn call(
    client: &mut SendRequest<axum::body::Bytes>,
    method: &str,
    message: &impl Message,
) -> Result<Response<RecvStream>, h2::Error> {
    let path = format!("http://localhost/orderquery.v1.OrderService/{method}");
    let request =
        Request::post(path).header("content-type", "application/grpc").header("te", "trailers");
    std::future::poll_fn(|context| client.poll_ready(context)).await?;
    let (answer, mut body) = client.send_request(request.body(()).unwrap(), false)?;
    body.send_data(frame_of(message), true)?;
    answer.await
}

fn haoka(id: &str) -> GetOrderRequest {
    GetOrderRequest { provider: Provider::Haoka.into(), id: id.to_owned(), ..Default::default() }
}

async fn is_serving(address: std::net::SocketAddr) -> bool {
    let mut health = HealthClient::new(connect(address).await);
    health.check(HealthCheckRequest::default()).await.is_ok()
}

/// This needs no token. HPACK expands a few bytes into kilobytes of headers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_without_a_message_are_ended_and_use_little_memory() {
    const CONNECTIONS: usize = 17;
    const STREAMS: usize = 256;
    let server = Serving::start(HAOKA);
    let long = "x".repeat(2000);
    let (mut connections, mut waiting) = (Vec::new(), Vec::new());
    for _ in 0..CONNECTIONS {
        let (mut client, driver) = raw_http2(server.address, 65_535).await;
        for _ in 0..STREAMS {
            let mut request = Request::post("http://localhost/grpc.health.v1.Health/Check")
                .header("content-type", "application/grpc");
            for number in 0..2 {
                request = request.header(format!("x-{number}"), &long);
            }
            client = client.ready().await.unwrap();
            let (answer, body) = client.send_request(request.body(()).unwrap(), false).unwrap();
            waiting.push((answer, body));
        }
        connections.push((client, driver));
    }
    assert!(timeout(PATIENCE, is_serving(server.address)).await.unwrap(), "others are answered");
    let (mut ended, mut refused) = (0, 0);
    for (answer, _body) in waiting {
        match timeout(PATIENCE, answer).await.expect("an end") {
            Ok(answer) if answer.status() == StatusCode::REQUEST_TIMEOUT => ended += 1,
            Err(error) if error.reason() == Some(Reason::REFUSED_STREAM) => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(ended + refused, CONNECTIONS * STREAMS);
    assert!(ended >= 4096, "{ended}");
    let peak = peak_memory(server.child.id());
    assert!(peak < 128 * MIB, "{} MiB", peak / MIB);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_watches_are_counted() {
    const OF_CONNECTION: usize = 8;
    const IN_ALL: usize = 1024;
    let server = Serving::start(HAOKA);
    let mut watches = Vec::new();
    for connection in 0..=IN_ALL / OF_CONNECTION {
        let mut health = HealthClient::new(connect(server.address).await);
        for number in 1..=OF_CONNECTION + 1 {
            let watch = health.watch(HealthCheckRequest::default()).await;
            let fits = number <= OF_CONNECTION && connection < IN_ALL / OF_CONNECTION;
            match watch {
                Ok(watch) if fits => watches.push(watch),
                Err(status) if !fits => assert_eq!(status.code(), Code::ResourceExhausted),
                other => panic!("{number} of connection {connection}: {other:?}"),
            }
        }
    }
    assert_eq!(watches.len(), IN_ALL);
    assert!(is_serving(server.address).await, "a check needs no place");
    watches.clear();
    let room = async {
        let mut health = HealthClient::new(connect(server.address).await);
        while health.watch(HealthCheckRequest::default()).await.is_err() {}
    };
    timeout(PATIENCE, room).await.unwrap();
}

async fn shipped() -> Played {
    let text = r#"{"code":0,"data":{"orderNo":"1","orderStatus":"已发货"}}"#;
    Played::start(move |_| async move { answer(200, text) }).await
}

fn cards(vendor: &Played) -> String {
    HAOKA.replace("user_id", &format!("base_url = \"{}\"\nuser_id", vendor.url()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_keeps_its_permit_until_its_answer_is_read() {
    let vendor = shipped().await;
    let server = Serving::start(&format!("server.max_in_flight = 2\n{}", cards(&vendor)));
    for window in [0, 1] {
        let (mut client, driver) = raw_http2(server.address, window).await;
        let mut untaken = Vec::new();
        for _ in 0..2 {
            let answer = call(&mut client, "GetOrder", &haoka("A1")).await.unwrap();
            assert!(!answer.headers().contains_key("grpc-status"), "{answer:?}");
            untaken.push(answer);
        }
        let (mut other, _driver) = raw_http2(server.address, 65_535).await;
        let refused = call(&mut other, "GetOrder", &haoka("A1")).await.unwrap();
        assert_eq!(refused.headers()["grpc-status"], "8", "window {window}");
        driver.abort();
        timeout(PATIENCE, async { while !is_admitted(&mut other).await {} }).await.unwrap();
    }
}

async fn is_admitted(client: &mut SendRequest<axum::body::Bytes>) -> bool {
    let answer = call(client, "GetOrder", &haoka("A1")).await.unwrap();
    !answer.headers().contains_key("grpc-status")
}

/// An order of about 39 KB, a hundred times in each answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_answers_are_bounded_in_bytes() {
    const BATCHES: usize = 60;
    let remark = "x".repeat(39_000);
    let text = format!(
        r#"{{"code":0,"data":{{"orderNo":"1","orderStatus":"已发货","remark":"{remark}"}}}}"#
    );
    let vendor = Played::start(move |_| {
        let text = text.clone();
        async move { answer(200, text) }
    })
    .await;
    let server = Serving::start(&cards(&vendor));
    let order =
        OrderRef { provider: Provider::Haoka.into(), id: "A1".to_owned(), ..Default::default() };
    let batch = BatchGetOrdersRequest { orders: vec![order; 100], ..Default::default() };
    let (mut client, driver) = raw_http2(server.address, 0).await;
    let mut untaken = Vec::new();
    for _ in 0..BATCHES {
        untaken.push(call(&mut client, "BatchGetOrders", &batch).await.unwrap().into_body());
    }
    let mut refused = 0;
    for mut body in untaken {
        // A refused answer ends at once; the others wait for their peer.
        let trailers = timeout(Duration::from_millis(200), async {
            assert!(body.data().await.is_none());
            body.trailers().await.unwrap().unwrap()
        });
        if let Ok(trailers) = trailers.await {
            assert_eq!(trailers["grpc-status"], "8");
            assert!(trailers.contains_key("grpc-status-details-bin"));
            refused += 1;
        }
        if refused > 3 {
            break;
        }
    }
    assert!(refused > 0);
    let peak = peak_memory(server.child.id());
    assert!(peak < 128 * MIB, "{} MiB", peak / MIB);
    driver.abort();
    assert!(timeout(PATIENCE, is_serving(server.address)).await.unwrap());
}

/// Serves one large page over HTTP/2.
async fn large_page() -> std::net::SocketAddr {
    let page = get(|| async { "x".repeat(1 << 20) });
    let routes: Routes = Routes::default().into_axum_router().route("/large", page).into();
    serve_within(routes, limits(), CancellationToken::new()).await
}

#[tokio::test(start_paused = true)]
async fn a_stream_with_an_unread_answer_is_reset() {
    let address = large_page().await;
    let request = || Request::get("http://localhost/large").body(()).unwrap();
    let (mut client, _driver) = raw_http2(address, 0).await;
    let begin = Instant::now();
    let (answer, _) = client.send_request(request(), true).unwrap();
    let mut body = answer.await.unwrap().into_body();
    let error = body.data().await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::CANCEL));
    assert!((10..12).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
}

/// The HTTP/2 windows are open, but the socket is not read.
#[tokio::test(start_paused = true)]
async fn an_unread_connection_is_closed() {
    const WIDE: [u8; 4] = 0x3fff_ffff_u32.to_be_bytes();
    let address = large_page().await;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend([&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4][..], &WIDE].concat());
    bytes.extend([&[0, 0, 4, 8, 0, 0, 0, 0, 0][..], &WIDE].concat());
    // GET http://localhost/large, a hundred times.
    for stream in (1..200_u32).step_by(2) {
        let block = [&[0x82, 0x86, 0x04, 6][..], b"/large", &[0x01, 9], b"localhost"].concat();
        bytes.extend([0, 0, u8::try_from(block.len()).unwrap(), 1, 5]);
        bytes.extend([&stream.to_be_bytes()[..], &block].concat());
    }
    let stream = say(address, &bytes);
    stream.set_nonblocking(true).unwrap();
    let stream = TcpStream::from_std(stream).unwrap();
    tokio::time::sleep(Duration::from_mins(2)).await;
    // Otherwise it would live for an hour, its maximum age.
    let mut read = vec![0; 64 * 1024];
    let mut total = 0;
    let ended = async {
        loop {
            stream.readable().await.unwrap();
            match stream.try_read(&mut read) {
                Ok(0) | Err(_) => break total,
                Ok(count) => total += count,
            }
        }
    };
    assert!(ended.await < 64 << 20);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_where_an_idle_limit_is_set() {
    let limits = Limits { idle: Some(Duration::from_secs(30)), ..limits() };
    let page = get(|| async { "a page" });
    let routes: Routes = Routes::default().into_axum_router().route("/", page).into();
    let address = serve_within(routes, limits, CancellationToken::new()).await;
    let idle = join_all((0..3).map(|_| raw_http2(address, 65_535))).await;
    for (_client, driver) in idle {
        let _ = driver.await.unwrap();
    }
}
