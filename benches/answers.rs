//! How many answers a second one server gives over gRPC on loopback, and how long one takes:
//! from memory, and from the sandbox vendors. `make bench` runs it; the client and the vendors share
//! the machine with the server.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "prints figures, and fails loudly"
)]
#![allow(missing_docs, reason = "a program")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use order_query::app::{App, Setup};
use order_query::clock::SystemClock;
use order_query::config::Section;
use order_query::pb::order_service_client::OrderServiceClient;
use order_query::pb::{GetOrderRequest, Provider};
use order_query::sandbox::Sandbox;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

const CONFIG: &str = "server.drain_delay = \"0s\"\nserver.listen = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\n";

/// How many calls are under way at one time.
const CONCURRENCY: usize = 64;

/// How many calls are made.
const CALLS: usize = 20_000;

#[tokio::main]
async fn main() {
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let sandbox = Sandbox::start(anywhere, Arc::new(SystemClock)).await.unwrap();
    let text = format!("{CONFIG}{}", sandbox.accounts());
    let root = Section::parse(&text, Path::new("")).unwrap();
    let app = App::start(Setup::read(root, None, Arc::new(SystemClock)).unwrap()).await.unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{}", app.address)).unwrap();
    let client = OrderServiceClient::new(endpoint.connect().await.unwrap());

    // A terminal order: the vendor is asked once.
    let settled = GetOrderRequest {
        provider: Provider::Haoka.into(),
        id: "settled".to_owned(),
        ..GetOrderRequest::default()
    };
    measure("from memory", &client, |_| settled.clone()).await;
    // Orders that the vendor does not know, each asked for once: no answer is kept or joined.
    measure("from a vendor", &client, |call| GetOrderRequest {
        provider: Provider::Dingshang.into(),
        id: (1_000_000_000 + call).to_string(),
        ..GetOrderRequest::default()
    })
    .await;
    app.stop().await;
}

async fn measure(
    what: &str,
    client: &OrderServiceClient<Channel>,
    question: impl Fn(usize) -> GetOrderRequest,
) {
    let begin = Instant::now();
    let calls = stream::iter(0..CALLS).map(|call| {
        let (mut client, question) = (client.clone(), question(call));
        async move {
            let begin = Instant::now();
            // That an order is unknown is an answer as well.
            let _ = client.get_order(question).await;
            begin.elapsed()
        }
    });
    let mut times: Vec<Duration> = calls.buffer_unordered(CONCURRENCY).collect().await;
    let rate = CALLS as f64 / begin.elapsed().as_secs_f64();
    times.sort_unstable();
    let (median, p99) = (times[CALLS / 2], times[CALLS * 99 / 100]);
    println!("{what:13}: {rate:6.0} calls/s, median {median:?}, p99 {p99:?}");
}
