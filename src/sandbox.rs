//! Plays the vendors on loopback ports, from their documents, so that every path of a client can be
//! tried without them. Used by the commands `sandbox`, `demo` and `serve --dev` and by tests. No
//! provider uses it and it uses no provider: both follow the vendors' documents, not each other's code.
//!
//! Each vendor is one file of tables (which id gets which answer) and checks (what the vendor refuses),
//! and one line in `vendors`. One table in `faults` holds what goes wrong below the vendors' own
//! answers (HTTP, JSON, the connection). `docs/sandbox.md` lists every id.

mod dingshang;
mod faults;
mod haoka;
mod scenes;
mod wechat;

/// The example vendor of `docs/adding-a-vendor.md`, compiled in the place of a vendor's module.
#[cfg(test)]
#[path = "../tests/acme/sandbox.rs"]
mod acme;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use self::faults::Fault;
use self::scenes::Stage;
use crate::clock::Clock;

/// The largest accepted request body, in bytes; a larger one is refused with HTTP 413.
const MAX_BODY: usize = 256 * 1024;
/// How long a request's body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may be idle. Longer than clients usually keep an idle connection, so that the
/// client is the one that closes it.
const IDLE_TIMEOUT: Duration = Duration::from_mins(2);
/// The most connections of one vendor at a time; further ones wait in the system's queue.
const MAX_CONNECTIONS: usize = 1024;
/// The most arrivals that are stored.
const MAX_ARRIVALS: usize = 100_000;
/// How many characters of an order id an arrival stores: the length of the vendors' longest id.
const MAX_ID: usize = 64;

/// The vendors, in the order of their ports.
fn vendors() -> Vec<Arc<dyn Vendor>> {
    vec![
        Arc::new(wechat::Wechat::default()),
        Arc::new(dingshang::Dingshang),
        Arc::new(haoka::Haoka),
    ]
}

/// A vendor, played from its documents.
#[async_trait]
trait Vendor: Send + Sync {
    /// Its word in configurations and commands.
    fn name(&self) -> &'static str;

    /// The settings of an account besides `provider` and `base_url`, as lines of TOML.
    fn settings(&self) -> String;

    /// Its orders.
    fn stage(&self) -> &'static Stage;

    /// The id of an order with a typical answer.
    fn sample(&self) -> &'static str;

    /// Ids that have an answer and are neither orders of the stage nor faults; each with a short
    /// description of the answer.
    fn other_ids(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// The id of the order that plays a fault.
    fn fault_id(&self, fault: &Fault) -> String {
        fault.id.to_owned()
    }

    /// Answers a request.
    async fn answer(&self, call: Call) -> Answer;
}

/// What a request asked a vendor for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A token (`WeChat` only).
    Token,
    /// An order.
    Order,
    /// Anything else: Dingshang's ping, a path that the vendor does not know, a body that is too
    /// large.
    Other,
}

/// A request that reached a vendor, whatever the vendor answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// The word of the vendor that it reached.
    pub vendor: &'static str,
    /// What it asked for.
    pub kind: Kind,
    /// The order that it asked for, cut to 64 characters; absent if it named none, or if the request
    /// could not be read.
    pub order_id: Option<String>,
    /// When its body had been read, by the sandbox's clock.
    pub time: SystemTime,
}

/// An id with a scripted answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scripted {
    /// The word of the vendor that knows the id.
    pub vendor: &'static str,
    /// The id; a final `-N` in `errcode-N` stands for any whole number.
    pub id: String,
    /// A short description of the answer.
    pub answers: String,
}

/// The running vendors. Dropping it closes the listeners and cuts every connection.
#[derive(Debug)]
pub struct Sandbox {
    played: Vec<Played>,
    state: Arc<State>,
}

/// A vendor, and where it listens.
struct Played {
    vendor: Arc<dyn Vendor>,
    address: SocketAddr,
    listener: JoinHandle<()>,
}

impl Sandbox {
    /// Starts the vendors at `listen`, with the time of `clock`. Port 0 means free ports; with port P,
    /// the first vendor has P, the next one P+1, and so on.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] if `listen` is not a loopback address (the credentials are
    /// public) or has too few ports above it; otherwise the system's error for the port.
    pub async fn start(listen: SocketAddr, clock: Arc<dyn Clock>) -> io::Result<Self> {
        Self::play(vendors(), listen, clock).await
    }

    /// Starts the example vendor alone, on a free port.
    #[cfg(test)]
    pub(crate) async fn start_acme(clock: Arc<dyn Clock>) -> Self {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Self::play(vec![Arc::new(acme::Acme)], anywhere, clock).await.expect("a free port")
    }

    async fn play(
        vendors: Vec<Arc<dyn Vendor>>,
        listen: SocketAddr,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Self> {
        if !listen.ip().is_loopback() {
            return Err(invalid("the sandbox listens on loopback addresses only"));
        }
        let state = Arc::new(State { clock, arrivals: Mutex::default() });
        let mut bound = Vec::new();
        for (index, vendor) in (0..).zip(vendors) {
            bound.push((bind(listen, index).await?, vendor));
        }
        let mut played = Vec::new();
        for (listener, vendor) in bound {
            let address = listener.local_addr()?;
            let listener = tokio::spawn(accept(listener, Arc::clone(&vendor), Arc::clone(&state)));
            played.push(Played { vendor, address, listener });
        }
        Ok(Self { played, state })
    }

    /// The words of the vendors, in the order of their ports.
    #[must_use]
    pub fn vendors() -> Vec<&'static str> {
        vendors().iter().map(|vendor| vendor.name()).collect()
    }

    /// Where the vendor with that word listens.
    #[must_use]
    pub fn address(&self, vendor: &str) -> Option<SocketAddr> {
        self.played
            .iter()
            .find(|played| played.vendor.name() == vendor)
            .map(|played| played.address)
    }

    /// The id of an order with a typical answer, at the vendor with that word.
    #[must_use]
    pub fn sample(vendor: &str) -> Option<&'static str> {
        vendors().iter().find(|known| known.name() == vendor).map(|vendor| vendor.sample())
    }

    /// The accounts of the sandbox as TOML, ready to be pasted into a configuration: one for each
    /// vendor, with its name, such as `haoka-sandbox`. The credentials are the same in every sandbox
    /// and are not secret.
    #[must_use]
    pub fn accounts(&self) -> String {
        let accounts = self.played.iter().map(|Played { vendor, address, .. }| {
            let (name, settings) = (vendor.name(), vendor.settings());
            format!(
                "[accounts.{name}-sandbox]\nprovider = \"{name}\"\nbase_url = \"http://{address}\"\n\
                 {settings}"
            )
        });
        accounts.collect::<Vec<_>>().join("\n")
    }

    /// The requests that reached a vendor, oldest first: the last 100,000 of them.
    #[must_use]
    pub fn arrivals(&self) -> Vec<Arrival> {
        lock(&self.state.arrivals).iter().cloned().collect()
    }

    /// Every id with a scripted answer, vendor by vendor in the order of their ports. Any other id is
    /// an order that the vendor does not know.
    #[must_use]
    pub fn scripted() -> Vec<Scripted> {
        vendors().iter().flat_map(|vendor| scripted(&**vendor)).collect()
    }
}

/// The vendor's ids with a scripted answer.
fn scripted(vendor: &dyn Vendor) -> impl Iterator<Item = Scripted> {
    let orders = vendor.stage().ids().map(|(id, answers)| (id.to_owned(), answers.to_owned()));
    let faults = faults::FAULTS.iter();
    let faults = faults.map(|fault| (vendor.fault_id(fault), fault.answers.to_owned()));
    let all = orders.chain(vendor.other_ids()).chain(faults);
    all.map(|(id, answers)| Scripted { vendor: vendor.name(), id, answers })
}

impl Drop for Played {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl std::fmt::Debug for Played {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { vendor, address, .. } = self;
        f.debug_tuple("Played").field(&vendor.name()).field(address).finish()
    }
}

struct State {
    clock: Arc<dyn Clock>,
    arrivals: Mutex<VecDeque<Arrival>>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

impl State {
    fn record(&self, vendor: &'static str, answer: &Answer, time: SystemTime) {
        let order_id = answer.order_id.as_ref().map(|id| id.chars().take(MAX_ID).collect());
        let mut arrivals = lock(&self.arrivals);
        if arrivals.len() >= MAX_ARRIVALS {
            arrivals.pop_front();
        }
        arrivals.push_back(Arrival { vendor, kind: answer.kind, order_id, time });
    }
}

/// A request with its complete body, and the second in which it arrived.
struct Call {
    parts: Parts,
    body: Bytes,
    /// Unix seconds by the sandbox's clock.
    now: u64,
}

/// A vendor's answer to a request, and what the request asked for.
struct Answer {
    kind: Kind,
    order_id: Option<String>,
    reply: Reply,
}

impl Answer {
    /// The answer to a path that the vendor does not know: not JSON, as from a gateway.
    fn unknown_path() -> Self {
        let reply = Reply::Text(StatusCode::NOT_FOUND, "404 page not found");
        Self { kind: Kind::Other, order_id: None, reply }
    }
}

/// The response to send.
enum Reply {
    /// JSON text.
    Json(StatusCode, String),
    /// Plain text.
    Text(StatusCode, &'static str),
    /// The fault, applied to the answer that the vendor would give without it.
    Fault(&'static Fault, String),
}

fn invalid(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// Binds the port `index` places after that of `listen`, or any free port if that is 0.
async fn bind(listen: SocketAddr, index: u16) -> io::Result<TcpListener> {
    let port = match listen.port() {
        0 => 0,
        port => port.checked_add(index).ok_or_else(|| {
            invalid("the vendors need consecutive ports, and there are too few above this one")
        })?,
    };
    TcpListener::bind(SocketAddr::new(listen.ip(), port)).await
}

/// Accepts connections until the task is aborted; the connections end with it.
async fn accept(listener: TcpListener, vendor: Arc<dyn Vendor>, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= MAX_CONNECTIONS {
            connections.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(connection(stream, Arc::clone(&vendor), Arc::clone(&state)));
            }
            // The system has no file descriptors left, or the client has already gone: an immediate
            // retry helps in neither case.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn connection(stream: TcpStream, vendor: Arc<dyn Vendor>, state: Arc<State>) {
    let name = vendor.name();
    let service = hyper::service::service_fn(move |request| {
        let (state, vendor) = (Arc::clone(&state), Arc::clone(&vendor));
        async move { respond(&state, &*vendor, request).await }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        // Half of the faults end here, on purpose.
        tracing::debug!(vendor = name, %error, "a sandbox connection ended early");
    }
}

/// Answers one request; an error cuts the connection.
async fn respond(
    state: &State,
    vendor: &dyn Vendor,
    request: Request<Incoming>,
) -> io::Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(Body::new(body), MAX_BODY);
    let body = tokio::time::timeout(BODY_TIMEOUT, body).await;
    let time = state.clock.now();
    let answer = match body {
        Ok(Ok(body)) => {
            let now = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            vendor.answer(Call { parts, body, now }).await
        }
        Ok(Err(_)) => refused_body(StatusCode::PAYLOAD_TOO_LARGE, "the body is not readable"),
        Err(_) => refused_body(StatusCode::REQUEST_TIMEOUT, "the body did not arrive"),
    };
    state.record(vendor.name(), &answer, time);
    faults::send(answer.reply, time).await
}

fn refused_body(status: StatusCode, text: &'static str) -> Answer {
    Answer { kind: Kind::Other, order_id: None, reply: Reply::Text(status, text) }
}

/// Locks a mutex, even if a holder has panicked: each change is one push or one assignment, so none is
/// half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
