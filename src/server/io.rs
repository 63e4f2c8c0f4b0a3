//! The bytes of one connection: gathers what is written, and bounds how long the peer takes to begin. Used by
//! `server` only.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// What every HTTP/2 connection begins with: the preface, and a SETTINGS frame, whose header begins
/// with the length of its payload.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_LENGTH: usize = 3;
const FRAME_HEADER: usize = 9;

/// How long a peer may take nothing of what is to be written, before its connection ends. The system
/// writes on once half of what it holds is taken, so this is longer than one answer may wait.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);

/// How far a connection has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    begun: AtomicBool,
    written: AtomicU64,
}

impl Progress {
    /// Whether the peer has said all that HTTP/2 begins with.
    pub(super) fn begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// So many bytes more have been written.
    pub(super) fn add(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How many bytes have been written.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

/// A stream whose answers go out together, and whose peer must have begun by a deadline.
pub(super) struct Io<S> {
    stream: S,
    opening: Option<Opening>,
    progress: Arc<Progress>,
    /// Runs while a write waits for the peer.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Whether the handlers that were ready have had their turn before this write.
    gathered: bool,
}

/// A connection whose peer has not sent all that HTTP/2 begins with. hyper checks what it says,
/// and would wait for it without end. What is no HTTP/2 has begun with its first bytes: hyper bounds
/// HTTP/1.1 itself, and ends anything else.
struct Opening {
    head: [u8; PREFACE.len() + FRAME_LENGTH],
    seen: usize,
    deadline: Pin<Box<Sleep>>,
}

impl Opening {
    /// Takes the next bytes. True once the peer has begun.
    fn take(&mut self, bytes: &[u8]) -> bool {
        let free = self.head.get_mut(self.seen..).unwrap_or_default();
        free.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
        self.seen += bytes.len();
        if self.head.iter().zip(PREFACE).take(self.seen).any(|(byte, of_http2)| byte != of_http2) {
            return true;
        }
        let [.., a, b, c] = self.head;
        let payload = u32::from_be_bytes([0, a, b, c]) as usize;
        self.seen >= PREFACE.len() + FRAME_HEADER + payload
    }
}

impl<S> Io<S> {
    /// The stream of a peer that must have begun by `deadline`; else reading fails.
    pub(super) fn new(stream: S, deadline: Instant) -> Self {
        let opening = Opening {
            head: [0; PREFACE.len() + FRAME_LENGTH],
            seen: 0,
            deadline: Box::pin(sleep_until(deadline)),
        };
        Self {
            stream,
            opening: Some(opening),
            progress: Arc::default(),
            stalled: None,
            gathered: false,
        }
    }

    /// How far the connection has come, from now on.
    pub(super) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Fails once the peer has taken nothing for too long.
    fn poll_stalled(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let wait = || Box::pin(sleep(WRITE_PATIENCE));
        ready!(self.stalled.get_or_insert_with(wait).as_mut().poll(context));
        let text = "the peer takes nothing of what is written";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Io<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        let Some(opening) = &mut this.opening else { return read };
        if read.is_pending() {
            ready!(opening.deadline.as_mut().poll(context));
            let text = "the peer did not begin to speak HTTP in time";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)));
        }
        if opening.take(buffer.filled().get(before..).unwrap_or_default()) {
            this.opening = None;
            this.progress.begun.store(true, Ordering::Relaxed);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Io<S> {
    /// Before the first write of a burst the handlers that are ready run once, so that one system
    /// call sends the answers of all of them. For the same reason no vectored writes are offered:
    /// h2 then puts small frames into one buffer.
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.gathered {
            self.gathered = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Poll::Ready(written) = Pin::new(&mut self.stream).poll_write(context, bytes) else {
            return self.poll_stalled(context);
        };
        self.stalled = None;
        if let Ok(bytes) = &written {
            self.progress.add(*bytes as u64);
        }
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.gathered = false;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use futures_util::future::join_all;
    use http::{Request, Response};
    use hyper::body::Incoming;
    use hyper::server::conn::http2;
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tonic::body::Body;

    use super::*;

    /// Counts the writes of a stream.
    struct Counted<S>(S, Arc<AtomicUsize>);

    impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(context, buffer)
        }
    }

    impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.1.fetch_add(1, Ordering::Relaxed);
            Pin::new(&mut self.0).poll_write(context, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(context)
        }

        fn poll_shutdown(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(context)
        }
    }

    /// Asks so often at one time, over a stream that counts its writes.
    async fn answer_all(calls: usize, writes: Arc<AtomicUsize>) {
        let (near, far) = tokio::io::duplex(1 << 20);
        let stream = Io::new(Counted(far, writes), Instant::now() + Duration::from_secs(10));
        let service = service_fn(async |_: Request<Incoming>| {
            Ok::<_, Infallible>(Response::new(Body::new("an answer".to_owned())))
        });
        let server = http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(server);
        let (client, connection) = h2::client::handshake(near).await.unwrap();
        tokio::spawn(connection);
        let mut client = client.ready().await.unwrap();
        let answers: Vec<_> =
            (0..calls).map(|_| client.send_request(Request::new(()), true).unwrap().0).collect();
        for answer in join_all(answers).await {
            let mut body = answer.unwrap().into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "an answer");
        }
    }

    /// One worker thread: it runs the connection at once when a handler has an answer, before the
    /// other handlers that are ready.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn answers_that_are_ready_together_go_out_together() {
        const CALLS: usize = 50;
        let writes = Arc::new(AtomicUsize::new(0));
        // On the worker thread.
        tokio::spawn(answer_all(CALLS, Arc::clone(&writes))).await.unwrap();
        let writes = writes.load(Ordering::Relaxed);
        assert!(writes < CALLS / 5, "{writes} writes for {CALLS} answers");
    }
}
