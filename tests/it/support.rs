//! What the tests share: servers on free ports, in this process or another; simulated vendors;
//! and failures in a comparable form.

pub mod authority;
pub mod child;
pub mod collector;
pub mod facts;
pub mod fake_vendor;
pub mod haoka;
pub mod log;
pub mod mounted;
pub mod played;
pub mod redis_cluster;
pub mod redis_proxy;
pub mod redis_sentinel;
pub mod redis_server;
pub mod scrape;
mod scripted;
pub mod secured;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use md5::{Digest as _, Md5};
use order_query::app::{App, Setup};
use order_query::clock::{Clock, ManualClock, SystemClock};
use order_query::config::Section;
use order_query::pb::order_service_client::OrderServiceClient;
use order_query::pb::{GetOrderRequest, GetOrderResponse, Order, Provider};
use order_query::sandbox::Sandbox;
use order_query::server::{self, Handler, Limits, Listener, ListenerOptions};
use order_query::telemetry::metrics::Metrics;
use prost::Message;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use self::child::with_listeners;
pub use self::scripted::{Reply, Scripted};

/// A running server and a client of it.
pub struct Server {
    pub app: App,
    pub channel: Channel,
    pub client: OrderServiceClient<Channel>,
}

impl Server {
    /// A server with these tables, using the system's clock.
    pub async fn start(config: &str) -> Self {
        Self::start_at(config, Arc::new(SystemClock)).await
    }

    /// A server with these tables. `config` may hold any table but `[server]` and `[admin]`.
    pub async fn start_at(config: &str, clock: Arc<dyn Clock>) -> Self {
        Self::start_whole(&with_listeners(config), clock).await
    }

    /// A server with exactly this configuration.
    pub async fn start_whole(config: &str, clock: Arc<dyn Clock>) -> Self {
        let root = Section::parse(config, Path::new("")).unwrap();
        let app = App::start(Setup::read(root, None, clock).unwrap()).await.unwrap();
        let channel = connect(app.address).await;
        let client = OrderServiceClient::new(channel.clone());
        Self { app, channel, client }
    }

    /// The response to a request, or its failure.
    pub async fn get(&self, question: GetOrderRequest) -> Result<GetOrderResponse, Failed> {
        self.ask(Request::new(question)).await
    }

    /// The same, for a request with metadata.
    pub async fn ask(
        &self,
        question: Request<GetOrderRequest>,
    ) -> Result<GetOrderResponse, Failed> {
        let answer = self.client.clone().get_order(question).await;
        answer.map(tonic::Response::into_inner).map_err(|status| Failed::from(&status))
    }

    /// The order itself.
    pub async fn order(&self, provider: Provider, id: &str) -> Result<Order, Failed> {
        let answer = self.get(question(provider, id)).await?;
        Ok(answer.order.expect("an answer holds an order"))
    }
}

/// A request with the required fields only.
pub fn question(provider: Provider, id: &str) -> GetOrderRequest {
    GetOrderRequest { provider: provider.into(), id: id.to_owned(), ..Default::default() }
}

/// A connection to a listener.
pub async fn connect(address: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect().await.unwrap()
}

/// The cache size of stores in this process.
pub const CACHE_BYTES: usize = 1 << 20;

/// The peak memory of a process, in bytes.
pub fn peak_memory(process: u32) -> u64 {
    memory_field(process, "VmHWM:")
}

/// The memory of a process, in bytes.
pub fn memory(process: u32) -> u64 {
    memory_field(process, "VmRSS:")
}

fn memory_field(process: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

/// Limits that tests do not reach by accident.
pub fn limits() -> Limits {
    Limits {
        max_connections: 100,
        max_connection_age: Duration::from_hours(1),
        longest_call: Duration::from_mins(1),
        calls: 1000,
        idle: None,
    }
}

/// Serves what a test serves on a free port, in plaintext, until `stopping` is canceled.
pub async fn serve(handler: impl Handler, stopping: CancellationToken) -> SocketAddr {
    serve_within(handler, limits(), stopping).await
}

/// The same, within these limits.
pub async fn serve_within(
    handler: impl Handler,
    limits: Limits,
    stopping: CancellationToken,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let of_test = Listener { name: "server", limit: "max_connections", http1: false };
    let options = ListenerOptions {
        listener: of_test,
        metrics: Metrics::default(),
        handler: Arc::new(handler),
        tls: None,
        limits,
        stopping,
    };
    tokio::spawn(server::serve(listener, options));
    address
}

/// A client that leaves deadlines to the server: tonic's own channel reads `grpc-timeout` as well.
pub fn bare_client(address: SocketAddr) -> OrderServiceClient<BareChannel> {
    let http = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    OrderServiceClient::with_origin(http, format!("http://{address}").parse().unwrap())
}

/// A request that no client would make, and the response to its headers. Without a body, the
/// request stays open.
pub async fn raw(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<Vec<u8>>,
) -> axum::http::Response<()> {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut request = axum::http::Request::post(format!("http://{address}{path}"));
    for (name, value) in headers {
        let value = axum::http::HeaderValue::from_bytes(value.as_bytes()).unwrap();
        request = request.header(*name, value);
    }
    let (answer, mut sending) = client.send_request(request.body(()).unwrap(), false).unwrap();
    if let Some(body) = body {
        // A server that refuses at once may have closed the stream.
        let _ = sending.send_data(body.into(), true);
    }
    answer.await.unwrap().map(drop)
}

/// The channel of [`bare_client`].
pub type BareChannel = Client<HttpConnector, tonic::body::Body>;

/// The sandbox vendors and a server that calls them, over one clock.
pub async fn sandboxed() -> (Sandbox, Server) {
    sandboxed_at(Arc::new(SystemClock)).await
}

/// The same, over a clock that the test advances.
pub async fn sandboxed_at(clock: Arc<dyn Clock>) -> (Sandbox, Server) {
    let sandbox = sandbox_at(Arc::clone(&clock)).await;
    let server = Server::start_at(&sandbox.accounts(), clock).await;
    (sandbox, server)
}

/// The sandbox vendors alone.
pub async fn sandbox_at(clock: Arc<dyn Clock>) -> Sandbox {
    Sandbox::start(SocketAddr::from(([127, 0, 0, 1], 0)), clock).await.unwrap()
}

/// A clock that stands at a day in 2026 until it is advanced.
pub fn manual_clock() -> ManualClock {
    ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000))
}

/// The details of a failed call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    pub code: Code,
    pub message: String,
    /// `reason` of the `google.rpc.ErrorInfo`; empty without one.
    pub reason: String,
    pub domain: String,
    /// Of the `ErrorInfo`, by name.
    pub metadata: std::collections::BTreeMap<String, String>,
    /// Of the first violation of the `google.rpc.BadRequest`.
    pub field: Option<String>,
    /// Of the `google.rpc.RetryInfo`.
    pub retry_delay: Option<Duration>,
    /// `grpc-retry-pushback-ms`
    pub pushback: Option<String>,
}

impl From<&Status> for Failed {
    fn from(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().cloned();
        let violation = details.bad_request().and_then(|bad| bad.field_violations.first());
        let pushback = status.metadata().get("grpc-retry-pushback-ms");
        Self {
            code: status.code(),
            message: status.message().to_owned(),
            reason: info.as_ref().map(|info| info.reason.clone()).unwrap_or_default(),
            domain: info.as_ref().map(|info| info.domain.clone()).unwrap_or_default(),
            metadata: info.map(|info| info.metadata.into_iter().collect()).unwrap_or_default(),
            field: violation.map(|violation| violation.field.clone()),
            retry_delay: details.retry_info().and_then(|info| info.retry_delay),
            pushback: pushback.map(|value| value.to_str().unwrap().to_owned()),
        }
    }
}

/// The MD5 of the text, in lower-case hexadecimal digits.
pub fn md5(text: &str) -> String {
    Md5::digest(text).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

/// A message as gRPC frames it.
pub fn framed(compressed: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[compressed][..], &length, message].concat()
}

/// An uncompressed message on the wire.
pub fn frame_of(message: &impl Message) -> Bytes {
    framed(0, &message.encode_to_vec()).into()
}
