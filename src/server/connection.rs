//! One connection, from its handshake to its end. Every wait in it has a limit. Used by `server`
//! only.

use std::error::Error;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::ListenerOptions;
use super::activity::Activity;
use super::budget::{Budgets, STREAMS};
use super::io::Io;
use super::service::Service;
use super::stream::Streams;
use crate::peer::Peer;

/// How many streams a peer may reset before they are processed, and how many it may make this server
/// reset in total, before it counts as an attacker. While this process stalls, the deadlines of all
/// calls of a connection may pass, and those of the calls that replace them: h2's own limit, 20,
/// would then end the connection.
const RESETS: usize = 4 * STREAMS as usize;

/// The largest headers of a request, in bytes, after HPACK has expanded them.
const HEADER_LIMIT: u32 = 16 * 1024;

/// How many bytes a peer may send before this server has read them: the largest request on a stream,
/// and several of them on a connection.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;

/// How long a connection may be silent before it is pinged, and how long its peer has to answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_mins(1);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a new connection may take until it speaks HTTP/2, including a TLS handshake.
const OPENING_TIMEOUT: Duration = Duration::from_secs(10);

/// How long watches continue after their connection has reached its maximum age.
const WATCH_GRACE: Duration = Duration::from_secs(30);

/// How much longer than the longest call an answer may be on its way.
const ANSWER_GRACE: Duration = Duration::from_secs(1);

/// Serves one connection to its end.
pub(super) async fn serve(
    stream: TcpStream,
    options: Arc<ListenerOptions>,
    budgets: Arc<Budgets>,
    activity: Arc<Activity>,
) {
    let deadline = Instant::now() + OPENING_TIMEOUT;
    // Answers are small and complete: waiting for more gains nothing.
    let _ = stream.set_nodelay(true);
    let Some(tls) = &options.tls else {
        return speak(stream, Arc::default(), &options, deadline, (budgets, activity)).await;
    };
    let handshake = timeout_at(deadline, tls.accept(stream));
    match options.stopping.run_until_cancelled(handshake).await {
        Some(Ok(Ok((stream, names)))) => {
            speak(stream, names, &options, deadline, (budgets, activity)).await;
        }
        Some(Ok(Err(error))) => tracing::debug!(%error, "a TLS handshake failed"),
        Some(Err(_elapsed)) => tracing::debug!("a TLS handshake took too long"),
        None => {}
    }
}

/// Speaks HTTP until the peer leaves, the connection reaches its maximum age or its idle limit, or
/// the server stops. In all but the first case the calls in progress are answered first.
async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    names: Arc<[String]>,
    options: &ListenerOptions,
    deadline: Instant,
    (budgets, activity): (Arc<Budgets>, Arc<Activity>),
) {
    let stopping = &options.stopping;
    let leaving = stopping.child_token();
    // However this function ends, nothing that serves the connection outlives it.
    let _left = leaving.clone().drop_guard();
    let peer = Arc::new(Peer {
        names,
        leaving: leaving.clone(),
        health_watches: Arc::clone(&budgets.health_watches),
        pages: Arc::clone(&budgets.pages),
    });
    let handler = Arc::clone(&options.handler);
    let activity_of_probes = options.limits.idle.map(|_| Arc::clone(&activity));
    let service = Service { handler, peer, budgets, activity: activity_of_probes };
    let patience = options.limits.longest_call + ANSWER_GRACE;
    let stream = Io::new(stream, deadline);
    let progress = stream.progress();
    let protocols = protocols(options.listener.http1, Streams(Arc::clone(&progress)));
    let mut connection = pin!(protocols.serve_connection(TokioIo::new(stream), service));
    // Polled only when one of them is due, and not with every request.
    let ends = async {
        tokio::select! {
            () = sleep(jittered(options.limits.max_connection_age)) => {}
            () = idle(&activity, options.limits.idle) => {}
            () = stopping.cancelled() => {}
        }
    };
    let mut ends = FuturesUnordered::from_iter([ends]);
    tokio::select! {
        biased;
        ended = &mut connection => return log_failure(ended),
        _ = ends.next() => {}
    }
    if !progress.begun() {
        // It has no calls in progress, and a graceful shutdown would wait for its preface.
        return;
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        ended = &mut connection => return log_failure(ended),
        () = sleep(WATCH_GRACE) => {}
        () = stopping.cancelled() => {}
    }
    leaving.cancel();
    // By then every call is answered; a peer that does not read its answers is not waited for.
    match timeout(patience, connection).await {
        Ok(ended) => log_failure(ended),
        Err(_elapsed) => {
            tracing::debug!("a connection at its maximum age was aborted: its peer does not read");
        }
    }
}

/// The protocols of a connection, within their limits.
fn protocols(http1: bool, streams: Streams) -> Builder<Streams> {
    let mut protocols = Builder::new(streams);
    protocols
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(RESETS)
        .max_header_list_size(HEADER_LIMIT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    if !http1 {
        return protocols.http2_only();
    }
    // Between two requests a connection may be silent for as long as the next one's headers may take.
    protocols
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(OPENING_TIMEOUT)
        .max_buf_size(HEADER_LIMIT as usize);
    protocols
}

/// Resolves once the connection has been idle for as long as the listener allows.
async fn idle(activity: &Activity, limit: Option<Duration>) {
    match limit {
        Some(limit) => activity.ends_after(limit).await,
        None => std::future::pending().await,
    }
}

fn log_failure(ended: Result<(), Box<dyn Error + Send + Sync>>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection failed");
    }
}

/// The age, ±10 %: connections that began together do not end together.
fn jittered(age: Duration) -> Duration {
    age.mul_f64(0.9 + 0.2 * rand::random::<f64>())
}
