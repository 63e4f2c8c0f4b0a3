//! A listener: accepts connections within its limits, and ends in time. Used by `app`.
//!
//! It has its own accept loop because tonic's own server answers an expired deadline with CANCELLED,
//! removes hyper's limits, cuts calls in progress on a connection that reaches its maximum age, reads
//! certificates once, and waits forever for a silent peer.

mod activity;
mod answer;
mod body;
mod budget;
mod connection;
mod io;
mod service;
mod settings;
mod stream;
mod tls;

use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{self, AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::body::Arriving;
pub use self::service::{Handler, Replying};
pub use self::settings::Settings;
pub use self::tls::Tls;

use self::activity::Activity;
use self::budget::Budgets;
use crate::telemetry::metrics::{Counter, Gauge, Metrics};

/// How long to wait where no connection can be accepted, for example for lack of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The shortest interval between two log lines about connections that are refused or not accepted.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The identity of a listener.
pub struct Listener {
    /// Its name in metrics and in the log.
    pub name: &'static str,
    /// The name that the limit of its connections has in metrics.
    pub limit: &'static str,
    /// Whether it speaks HTTP/1.1 as well as HTTP/2: scrapers do, gRPC does not.
    pub http1: bool,
}

/// What a listener serves, and to whom.
pub struct ListenerOptions {
    /// Which listener it is.
    pub listener: Listener,
    /// Where its connections are counted.
    pub metrics: Metrics,
    /// What answers the requests.
    pub handler: Arc<dyn Handler>,
    /// How connections are encrypted; `None` leaves them in plaintext.
    pub tls: Option<Tls>,
    /// The limits of its connections.
    pub limits: Limits,
    /// Canceled when the listener must stop: it then accepts no more connections, ends watches, and
    /// answers the calls in progress.
    pub stopping: CancellationToken,
}

/// The limits of a listener's connections.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The most connections. One more is closed at once, so that its peer goes elsewhere.
    pub max_connections: u32,
    /// The maximum age of a connection, ±10 %. After that its peer is asked to open another one. Its
    /// calls in progress are answered; its watches end 30 s later.
    pub max_connection_age: Duration,
    /// The longest time that a call may take. It does not apply to watches.
    pub longest_call: Duration,
    /// The most calls and watches that the handlers have in progress; the handlers refuse further
    /// ones.
    pub calls: usize,
    /// How long a connection may be without a request before it ends. Where this is set and the
    /// listener is full, the connection that has been idle for longest gives way to a new one.
    pub idle: Option<Duration>,
}

/// Serves until `stopping` is canceled, and then for as long as calls are in progress. A peer that
/// does not read its answers can delay the end by as long as the longest call takes.
pub fn serve(listener: TcpListener, options: ListenerOptions) -> impl Future<Output = ()> {
    // Set before the future runs: the first page of metrics must show it.
    let Listener { name, limit, .. } = options.listener;
    let ListenerOptions { metrics, limits, .. } = &options;
    metrics.server_limit.with([limit]).set(limits.max_connections.into());
    let (open, shed) = (metrics.connections.with([name]), metrics.shed.with([limit]));
    open.set(0.0);
    accept_all(listener, Arc::new(options), Connections::new(open), shed)
}

async fn accept_all(
    listener: TcpListener,
    options: Arc<ListenerOptions>,
    mut connections: Connections,
    shed: Counter,
) {
    let budgets = Budgets::of_listener(options.limits.calls);
    let (mut refusals, mut failures) = (LogThrottle::default(), LogThrottle::default());
    loop {
        tokio::select! {
            stream = accept(&listener, &mut failures) => {
                let open = connections.tasks.len();
                let full = open >= options.limits.max_connections as usize;
                if full {
                    shed.inc();
                    if refusals.is_time() {
                        log_full(&options, open);
                    }
                }
                if !full || options.limits.idle.is_some() && connections.end_most_silent() {
                    connections.open(stream, &options, &budgets);
                }
            }
            Some(()) = connections.ended() => {}
            () = options.stopping.cancelled() => break,
        }
    }
    drop(listener);
    while connections.ended().await.is_some() {}
}

fn log_full(options: &ListenerOptions, open: usize) {
    let listener = options.listener.name;
    if options.limits.idle.is_some() {
        tracing::warn!(
            listener,
            open,
            "the limit admin_connections is reached; each new connection closes the one that has \
             been idle for longest"
        );
    } else {
        tracing::warn!(
            listener,
            open,
            "the limit max_connections is reached; further connections are closed at once"
        );
    }
}

/// The open connections.
struct Connections {
    count: Gauge,
    tasks: JoinSet<()>,
    open: HashMap<task::Id, (AbortHandle, Arc<Activity>)>,
}

impl Connections {
    fn new(count: Gauge) -> Self {
        Self { count, tasks: JoinSet::new(), open: HashMap::new() }
    }

    fn open(&mut self, stream: TcpStream, options: &Arc<ListenerOptions>, budgets: &Budgets) {
        let open = Open::new(self.count.clone());
        let budgets = Arc::new(budgets.of_connection());
        let activity = Arc::new(Activity::new(Arc::clone(&budgets.streams)));
        let connection =
            connection::serve(stream, Arc::clone(options), budgets, Arc::clone(&activity));
        let task = self.tasks.spawn(async move {
            connection.await;
            drop(open);
        });
        self.open.insert(task.id(), (task, activity));
    }

    /// Ends the connection whose last request is the oldest, even with calls in progress: answers
    /// that the peer does not read must not protect it, and a probe's connection is always young.
    /// False where no connection is open.
    fn end_most_silent(&mut self) -> bool {
        let most_silent = self.open.iter().max_by_key(|(_, (_, activity))| activity.silence());
        let Some(id) = most_silent.map(|(id, _)| *id) else { return false };
        if let Some((task, _)) = self.open.remove(&id) {
            task.abort();
        }
        true
    }

    /// Waits until a connection ends; `None` where none is open.
    async fn ended(&mut self) -> Option<()> {
        let id = match self.tasks.join_next_with_id().await? {
            Ok((id, ())) => id,
            Err(error) => error.id(),
        };
        self.open.remove(&id);
        Some(())
    }
}

/// The next connection. Where none can be accepted, it tries again after a while.
async fn accept(listener: &TcpListener, failures: &mut LogThrottle) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            // That one peer has left says nothing about the next one.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if failures.is_time() {
                    tracing::warn!(%error, "connections cannot be accepted; retrying");
                }
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// An open connection of a listener, counted in metrics.
struct Open(Gauge);

impl Open {
    fn new(count: Gauge) -> Self {
        count.add(1.0);
        Self(count)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.add(-1.0);
    }
}

/// Keeps repeated events from filling the log.
#[derive(Default)]
struct LogThrottle(Option<Instant>);

impl LogThrottle {
    fn is_time(&mut self) -> bool {
        let is_time = self.0.is_none_or(|last| last.elapsed() >= LOG_INTERVAL);
        if is_time {
            self.0 = Some(Instant::now());
        }
        is_time
    }
}
