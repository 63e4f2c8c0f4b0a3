//! The load: calls over HTTP/2 without a gRPC library, which would cost more than the server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use h2::client::SendRequest;
use http::Request;
use order_query::pb::{BatchGetOrdersRequest, GetOrderRequest, OrderRef, Provider};
use prost::Message;
use prost::bytes::Bytes;
use tokio::net::TcpStream;
use tokio::task::{JoinSet, yield_now};
use tokio::time::Instant;

/// How many calls are in flight.
#[derive(Clone, Copy)]
pub struct Shape {
    pub connections: u64,
    /// Calls in flight on each connection.
    pub streams: u64,
}

/// A request on the wire: its method and its framed message.
pub struct Question {
    method: &'static str,
    frame: Bytes,
}

/// The question for the order with that number.
pub fn questions(order: u64) -> Question {
    let question = GetOrderRequest {
        provider: Provider::Wechat.into(),
        id: order.to_string(),
        ..GetOrderRequest::default()
    };
    Question { method: "GetOrder", frame: framed(&question) }
}

/// The question for so many orders, from that number on.
pub fn batch(first: u64, orders: u64) -> Question {
    let order = |number: u64| OrderRef {
        provider: Provider::Wechat.into(),
        id: number.to_string(),
        ..OrderRef::default()
    };
    let orders = (first..first + orders).map(order).collect();
    Question {
        method: "BatchGetOrders",
        frame: framed(&BatchGetOrdersRequest { orders, max_age: None }),
    }
}

fn framed(message: &impl Message) -> Bytes {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], &message].concat().into()
}

async fn connect(address: SocketAddr) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut builder = h2::client::Builder::new();
    let builder = builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 24);
    let (requests, connection) = builder.handshake(stream).await.unwrap();
    tokio::spawn(connection);
    requests
}

/// Asks one question. The answer must be OK.
async fn ask(requests: &SendRequest<Bytes>, question: Question) {
    let uri = format!("http://bench/orderquery.v1.OrderService/{}", question.method);
    let request = Request::post(uri)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "10S");
    let mut requests = requests.clone().ready().await.unwrap();
    let (answer, mut body) = requests.send_request(request.body(()).unwrap(), false).unwrap();
    body.send_data(question.frame, true).unwrap();
    let mut answer = answer.await.unwrap().into_body();
    while let Some(data) = answer.data().await {
        answer.flow_control().release_capacity(data.unwrap().len()).unwrap();
    }
    assert_eq!(answer.trailers().await.unwrap().unwrap()["grpc-status"], "0");
}

/// Asks for every order once, so that a cache knows it.
pub async fn ask_once(address: SocketAddr, orders: u64) {
    let requests = connect(address).await;
    let next = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..32 {
        let (requests, next) = (requests.clone(), Arc::clone(&next));
        workers.spawn(async move {
            loop {
                match next.fetch_add(1, Ordering::Relaxed) {
                    order if order < orders => ask(&requests, questions(order)).await,
                    _ => return,
                }
            }
        });
    }
    while workers.join_next().await.transpose().unwrap().is_some() {}
}

/// Asks without a pause for that time. Returns the number of calls.
pub async fn saturate(
    address: SocketAddr,
    shape: Shape,
    time: Duration,
    question: impl Fn(u64) -> Question + Clone + Send + 'static,
) -> u64 {
    let calls = Arc::new(AtomicU64::new(0));
    let mut connections = Vec::new();
    for _ in 0..shape.connections {
        connections.push(connect(address).await);
    }
    let end = Instant::now() + time;
    let mut workers = JoinSet::new();
    for requests in connections {
        for _ in 0..shape.streams {
            let (requests, calls, question) =
                (requests.clone(), Arc::clone(&calls), question.clone());
            workers.spawn(async move {
                while Instant::now() < end {
                    ask(&requests, question(calls.fetch_add(1, Ordering::Relaxed))).await;
                }
            });
        }
    }
    while workers.join_next().await.transpose().unwrap().is_some() {}
    calls.load(Ordering::Relaxed)
}

/// Asks at a fixed rate for that time. Returns the median and the 99th percentile of the times from the
/// moments when the calls were due to their answers.
pub async fn paced(
    address: SocketAddr,
    rate: u32,
    time: Duration,
    question: impl Fn(u64) -> Question,
) -> [Duration; 2] {
    let requests = connect(address).await;
    let (begin, count) = (Instant::now(), u64::from(rate) * time.as_secs());
    let mut calls = JoinSet::new();
    for call in 0..count {
        let due = begin + Duration::from_secs(1) / rate * u32::try_from(call).unwrap();
        // The timer counts whole milliseconds, so it would be late.
        while Instant::now() < due {
            yield_now().await;
        }
        let (requests, question) = (requests.clone(), question(call));
        calls.spawn(async move {
            ask(&requests, question).await;
            due.elapsed()
        });
    }
    let mut times = calls.join_all().await;
    times.sort_unstable();
    [times[times.len() / 2], times[times.len() * 99 / 100]]
}
