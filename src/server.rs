//! A listener: accepts connections, speaks HTTP/2 on them, and ends in time. Used by `app`.
//!
//! It owns its accept loop because tonic's own server answers an expired deadline with
//! CANCELLED, takes hyper's limits off, and waits for ever for its last connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tower::ServiceExt as _;

use crate::peer::Peer;

/// How many calls one connection may have under way.
const STREAMS: u32 = 256;

/// How many streams a peer may make us reset before it is taken for an attacker.
const LOCAL_RESETS: usize = 1024;

/// The most that the headers of a request may take, in bytes.
const HEADER_LIMIT: u32 = 64 * 1024;

/// How long a connection may be silent before it is asked whether it lives, and how long it has
/// to answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_mins(1);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a new connection may take to begin to speak HTTP/2.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// How many bytes every HTTP/2 connection begins with.
const PREFACE_LENGTH: usize = 24;

/// How often a connection that has begun its preface is looked at for the rest.
const PREFACE_POLL: Duration = Duration::from_millis(10);

/// How long to wait when a connection cannot be accepted, such as for want of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// How long the calls under way have to end once the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves the routes until `stopping` is canceled, and then for as long as calls are under way, but
/// no longer than 20 s.
pub async fn serve(listener: TcpListener, routes: Routes, stopping: CancellationToken) {
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let (routes, stopping) = (routes.clone(), stopping.clone());
                    connections.spawn(connection(stream, routes, graceful.watcher(), stopping));
                }
                Err(error) => refused(&error).await,
            },
            Some(_) = connections.join_next() => {}
            () = stopping.cancelled() => break,
        }
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
        tracing::warn!("connections were still open at the end of the drain and were cut");
    }
    connections.shutdown().await;
}

/// Serves one connection, once it has begun to speak HTTP/2. One that has not has no calls under way
/// and is not waited for.
async fn connection(
    stream: TcpStream,
    routes: Routes,
    graceful: Watcher,
    stopping: CancellationToken,
) {
    let begins = tokio::time::timeout(PREFACE_TIMEOUT, begins(&stream));
    if !matches!(stopping.run_until_cancelled(begins).await, Some(Ok(true))) {
        return;
    }
    // Answers are small and whole: nothing is gained by waiting for more.
    let _ = stream.set_nodelay(true);
    let peer = Peer { names: Arc::default(), leaving: stopping.clone() };
    let routes = routes.map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        request
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_local_error_reset_streams(LOCAL_RESETS)
        .max_header_list_size(HEADER_LIMIT)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    if let Err(error) = graceful.watch(connection).await {
        tracing::debug!(%error, "a connection broke");
    }
}

/// Whether the first bytes come that every HTTP/2 connection begins with. hyper checks them, and
/// would wait for them without end.
async fn begins(stream: &TcpStream) -> bool {
    let mut first = [0; PREFACE_LENGTH];
    loop {
        match stream.peek(&mut first).await {
            Ok(0) | Err(_) => return false,
            Ok(PREFACE_LENGTH) => return true,
            // No signal comes for further bytes while the first ones are unread.
            Ok(_) => tokio::time::sleep(PREFACE_POLL).await,
        }
    }
}

async fn refused(error: &io::Error) {
    tracing::warn!(%error, "a connection could not be accepted");
    tokio::time::sleep(ACCEPT_RETRY).await;
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_says_nothing_is_not_waited_for() {
        for said in ["", "PRI * HTTP/2.0"] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            silent.write_all(said.as_bytes()).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            let stopping = CancellationToken::new();
            let graceful = GracefulShutdown::new();
            let serving = tokio::spawn(connection(
                stream,
                Routes::default(),
                graceful.watcher(),
                stopping.clone(),
            ));
            tokio::task::yield_now().await;
            assert!(!serving.is_finished());
            stopping.cancel();
            // Without end, if its preface were waited for.
            serving.await.unwrap();
        }
    }
}
