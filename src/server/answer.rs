//! The body of an answer on its way to its peer. It hands out one piece at a time, and the next one
//! once that piece has been written to the connection. So an answer holds its resources (memory, a
//! permit for a call in progress) until the peer has read it, and `stream` notices a peer that does
//! not read. Used by `server` only.

use std::cell::Cell;
use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use http::Response;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::time::Instant;

use super::budget::Budgets;
use crate::budget::Share;
use crate::peer::{Outstanding, Reply};

/// The largest piece, in bytes: the largest frame that every HTTP/2 peer accepts.
const PIECE: usize = 16 * 1024;

tokio::task_local! {
    /// Since when the stream's last piece has been waiting to be written; `None` while none waits.
    pub(super) static UNWRITTEN_SINCE: Cell<Option<Instant>>;
}

/// An answer's body.
pub(super) struct Answer {
    /// `None` once it has ended.
    body: Option<tonic::body::Body>,
    /// The part of the body's last frame that is still to be handed out.
    rest: Bytes,
    piece: Option<Arc<Written>>,
    /// The budget share for the bytes of the last frame.
    share: Option<Share>,
    budgets: Arc<Budgets>,
    outstanding: Option<Box<dyn Outstanding>>,
    _stream: Share,
}

/// Whether a piece has been written.
#[derive(Default)]
struct Written {
    done: AtomicBool,
    waker: AtomicWaker,
}

/// A piece of an answer. The connection drops it once it is written, or with its stream.
struct Piece {
    bytes: Bytes,
    written: Arc<Written>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.written.done.store(true, Ordering::Release);
        self.written.waker.wake();
    }
}

impl Answer {
    /// Takes over a response, and everything that its handler wants to last until the peer has read
    /// it.
    pub(super) fn of(reply: Reply, budgets: Arc<Budgets>, stream: Share) -> Response<Self> {
        let Reply { response, outstanding } = reply;
        let (parts, body) = response.into_parts();
        let body = Self {
            // An answer can consist of headers only; then nothing has to last longer.
            outstanding: outstanding.filter(|_| !body.is_end_stream()),
            body: Some(body),
            rest: Bytes::new(),
            piece: None,
            share: None,
            budgets,
            _stream: stream,
        };
        Response::from_parts(parts, body)
    }

    /// Whether the last piece has been written.
    fn is_written(&mut self, context: &Context<'_>) -> bool {
        let Some(written) = &self.piece else { return true };
        written.waker.register(context.waker());
        let done = written.done.load(Ordering::Acquire);
        if done {
            self.piece = None;
            // Nothing watches a stream of HTTP/1, so this may fail.
            let _ = UNWRITTEN_SINCE.try_with(|since| since.set(None));
        }
        done
    }

    fn next_piece(&mut self) -> Frame<Bytes> {
        let bytes = self.rest.split_to(self.rest.len().min(PIECE));
        let written = Arc::<Written>::default();
        self.piece = Some(Arc::clone(&written));
        let _ = UNWRITTEN_SINCE.try_with(|since| since.set(Some(Instant::now())));
        Frame::data(Bytes::from_owner(Piece { bytes, written }))
    }

    /// Ends an answer that exceeds the memory budget.
    fn refused(&mut self) -> Result<Frame<Bytes>, Box<dyn Error + Send + Sync>> {
        self.body = None;
        match self.outstanding.take() {
            Some(outstanding) => Ok(Frame::trailers(outstanding.refuse())),
            None => Err(h2::Error::from(h2::Reason::ENHANCE_YOUR_CALM).into()),
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        if !this.is_written(context) {
            return Poll::Pending;
        }
        if !this.rest.is_empty() {
            return Poll::Ready(Some(Ok(this.next_piece())));
        }
        this.share = None;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let frame = match Pin::new(body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => return Poll::Pending,
        };
        Poll::Ready(Some(match frame.into_data() {
            Ok(data) if data.is_empty() => Ok(Frame::data(data)),
            Ok(data) => {
                this.share = this.budgets.answers.take(data.len());
                if this.share.is_some() {
                    this.rest = data;
                    Ok(this.next_piece())
                } else {
                    this.refused()
                }
            }
            Err(trailers) => {
                // This is released first: once the caller knows of the end, it can ask again.
                this.outstanding = None;
                Ok(trailers)
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        // A piece on its way must be written before the end.
        let ended = self.body.as_ref().is_none_or(Body::is_end_stream);
        self.piece.is_none() && self.rest.is_empty() && ended
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}
