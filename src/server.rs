//! A listener: accepts connections within its limits, and ends in time. Used by `app`.
//!
//! It owns its accept loop because tonic's own server answers an expired deadline with
//! CANCELLED, takes hyper's limits off, cuts calls under way on a connection of age, reads
//! certificates once, and waits for ever for a peer that says nothing.

mod body;
mod connection;
mod io;
mod tls;

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

pub use tls::Tls;

use crate::metrics::{CONNECTIONS, SERVER_LIMIT, SHED};

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
pub struct Terms {
    /// Which one it is.
    pub listener: Listener,
    /// What is served.
    pub routes: Routes,
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
}

/// Serves until the terms' `stopping` is canceled, and then for as long as calls are under way: a
/// peer that does not read its answers may hold that up for as long as the longest call takes.
pub fn serve(listener: TcpListener, terms: Terms) -> impl Future<Output = ()> {
    // At once: the first page that is asked for tells it.
    let Listener { name, limit, .. } = terms.listener;
    CONNECTIONS.set([name], 0.0);
    SERVER_LIMIT.set([limit], terms.limits.max_connections.into());
    SHED.add([limit], 0);
    accept_all(listener, Arc::new(terms))
}

async fn accept_all(listener: TcpListener, terms: Arc<Terms>) {
    let Listener { name, limit, .. } = terms.listener;
    let mut connections = JoinSet::new();
    let (mut refusals, mut failures) = (Rarely::default(), Rarely::default());
    loop {
        tokio::select! {
            stream = accept(&listener, &mut failures) => {
                if connections.len() < terms.limits.max_connections as usize {
                    let open = Open::new(name);
                    let connection = connection::serve(stream, Arc::clone(&terms));
                    connections.spawn(async move {
                        connection.await;
                        drop(open);
                    });
                } else {
                    SHED.add([limit], 1);
                    if refusals.is_time() {
                        let open = connections.len();
                        tracing::warn!(
                            listener = name,
                            open,
                            "max_connections are open; more are closed at once"
                        );
                    }
                }
            }
            Some(_) = connections.join_next() => {}
            () = terms.stopping.cancelled() => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// The next connection. Where none can be accepted it is tried again after a while.
async fn accept(listener: &TcpListener, failures: &mut Rarely) -> TcpStream {
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
struct Open(&'static str);

impl Open {
    fn new(listener: &'static str) -> Self {
        CONNECTIONS.add([listener], 1.0);
        Self(listener)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        CONNECTIONS.add([self.0], -1.0);
    }
}

/// Keeps what happens again and again from filling the log.
#[derive(Default)]
struct Rarely(Option<Instant>);

impl Rarely {
    fn is_time(&mut self) -> bool {
        let is_time = self.0.is_none_or(|last| last.elapsed() >= LOG_INTERVAL);
        if is_time {
            self.0 = Some(Instant::now());
        }
        is_time
    }
}
