//! A listener: accepts connections within its limits, and ends in time. Used by `app`.
//!
//! It owns its accept loop because tonic's own server answers an expired deadline with
//! CANCELLED, takes hyper's limits off, cuts calls under way on a connection of age, reads
//! certificates once, and waits for ever for a peer that says nothing.

mod activity;
mod answer;
mod body;
mod budget;
mod connection;
mod io;
mod service;
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
use tonic::service::Routes;

pub use tls::Tls;

use self::activity::Activity;
use self::budget::Budgets;
use crate::metrics::{Counter, Gauge, Metrics};

/// How long to wait when no connection can be accepted, such as for want of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// How often at most it is logged that connections cannot be had.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Which listener it is.
pub struct Listener {
    /// What metrics and the log call it.
    pub name: &'static str,
    /// What metrics call the limit of its connections.
    pub limit: &'static str,
    /// Whether HTTP/1.1 is spoken as well as HTTP/2: scrapers do, gRPC does not.
    pub http1: bool,
}

/// What a listener serves, and to whom.
pub struct ListenerOptions {
    /// Which one it is.
    pub listener: Listener,
    /// Where its connections are counted.
    pub metrics: Metrics,
    /// What is served.
    pub routes: Routes,
    /// The path of the service that bounds its calls itself, with both slashes; empty where there is none.
    pub bounds_itself: &'static str,
    /// How connections are encrypted; `None` leaves them in plaintext.
    pub tls: Option<Tls>,
    /// What connections may take.
    pub limits: Limits,
    /// Canceled when the listener must stop: connections are accepted no more, watches end, and
    /// calls under way are answered.
    pub stopping: CancellationToken,
}

/// What the connections of a listener may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many there may be. One more is closed at once, so that its peer goes elsewhere.
    pub max_connections: u32,
    /// How old one may get, ±10 %, before its peer is asked to make another one. Its calls under
    /// way are answered; its watches end 30 s later.
    pub max_connection_age: Duration,
    /// How long a call may take that is no watch.
    pub longest_call: Duration,
    /// How many calls and watches the handlers have under way at most; further ones are refused by them.
    pub calls: usize,
    /// After how long without a request a connection ends. Where it is set, and the listener is full, the
    /// connection that is idle for longest gives way to a new one.
    pub idle: Option<Duration>,
}

/// Serves until the terms' `stopping` is canceled, and then for as long as calls are under way: a
/// peer that does not read its answers may hold that up for as long as the longest call takes.
pub fn serve(listener: TcpListener, options: ListenerOptions) -> impl Future<Output = ()> {
    // At once: the first page that is asked for tells it.
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
            "admin_connections are open; the one that is idle for longest ends for each new one"
        );
    } else {
        tracing::warn!(listener, open, "max_connections are open; more are closed at once");
    }
}

/// The connections that are open.
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

    /// Ends the connection on which no request has come for longest, whatever is under way: answers that are
    /// not taken must not protect it, and a probe's connection is always young. False where there is none.
    fn end_most_silent(&mut self) -> bool {
        let most_silent = self.open.iter().max_by_key(|(_, (_, activity))| activity.silence());
        let Some(id) = most_silent.map(|(id, _)| *id) else { return false };
        if let Some((task, _)) = self.open.remove(&id) {
            task.abort();
        }
        true
    }

    /// The end of a connection; `None` where none is open.
    async fn ended(&mut self) -> Option<()> {
        let id = match self.tasks.join_next_with_id().await? {
            Ok((id, ())) => id,
            Err(error) => error.id(),
        };
        self.open.remove(&id);
        Some(())
    }
}

/// The next connection. Where none can be accepted it is tried again after a while.
async fn accept(listener: &TcpListener, failures: &mut LogThrottle) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            // That one peer has left again says nothing about the next one.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if failures.is_time() {
                    tracing::warn!(%error, "connections cannot be accepted; trying again");
                }
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// An open connection of a listener, as metrics have it.
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

/// Keeps what happens again and again from filling the log.
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
