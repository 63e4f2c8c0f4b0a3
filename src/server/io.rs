//! The bytes of one connection: gathers writes, and limits how long the peer may take to begin. Used
//! by `server` only.

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

/// How long a peer may read nothing while data waits to be written, before its connection ends. The
/// system accepts more once half of its buffer has been read, so this is longer than one answer may
/// wait.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);

/// The progress of a connection.
#[derive(Debug, Default)]
pub(super) struct Progress {
    begun: AtomicBool,
    written: AtomicU64,
}

impl Progress {
    /// Whether the peer has sent everything that HTTP/2 begins with.
    pub(super) fn begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// Records that `bytes` more bytes have been written.
    pub(super) fn add(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How many bytes have been written.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

/// A stream that sends ready answers together, and whose peer must begin before a deadline.
pub(super) struct Io<S> {
    stream: S,
    opening: Option<Opening>,
    progress: Arc<Progress>,
    /// Runs while a write waits for the peer.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Whether the handlers that were ready have run before this write.
    gathered: bool,
}

/// A connection whose peer has not sent everything that HTTP/2 begins with. hyper checks what the
/// peer sends, but would wait for it forever. A peer that does not speak HTTP/2 has begun with its
/// first bytes: hyper limits HTTP/1.1 itself, and ends anything else.
struct Opening {
    head: [u8; PREFACE.len() + FRAME_LENGTH],
    seen: usize,
    deadline: Pin<Box<Sleep>>,
}

impl Opening {
    /// Checks the next bytes. True once the peer has begun.
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
    /// Wraps the stream of a peer that must have begun by `deadline`; otherwise reading fails.
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

    /// The connection's progress, which is updated from now on.
    pub(super) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Fails once the peer has read nothing for too long.
    fn poll_stalled(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let wait = || Box::pin(sleep(WRITE_PATIENCE));
        ready!(self.stalled.get_or_insert_with(wait).as_mut().poll(context));
        let text = "the peer does not read what is written to it";
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
            let text = "the peer did not start HTTP in time";
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
    /// Before the first write of a burst, the handlers that are ready run once, so that one system
    /// call sends all their answers. For the same reason it offers no vectored writes: h2 then puts
    /// small frames into one buffer.
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

    /// Makes `calls` calls at one time, over a stream that counts its writes.
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

    /// There is one worker thread: when a handler has an answer, it runs the connection at once,
    /// before the other handlers that are ready.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn responses_that_are_ready_together_share_a_write() {
        const CALLS: usize = 50;
        let writes = Arc::new(AtomicUsize::new(0));
        // This must run on the worker thread.
        tokio::spawn(answer_all(CALLS, Arc::clone(&writes))).await.unwrap();
        let writes = writes.load(Ordering::Relaxed);
        assert!(writes < CALLS / 5, "{writes} writes for {CALLS} answers");
    }
}
