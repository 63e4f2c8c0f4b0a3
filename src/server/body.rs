//! The body of a request. Its time and size are limited until it is complete, and it is read to its
//! end even where no handler wants it. Used by `server` only.
//!
//! A refused call is answered before its message has arrived. The HTTP/2 library resets such a
//! stream, and remembers 50 of them for a second. Data for any other reset stream counts as an
//! offence of the peer, and the 1,024th offence ends its connection. A burst of refused calls must
//! not end the connection.

use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::budget::Budgets;
use crate::budget::Share;

/// How long to wait for the rest of a body that no handler wants: it is on its way, or does not come.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// The most bytes that are read of that rest: as much as the largest request.
const DRAIN_LIMIT: usize = 64 * 1024;

/// A body that is limited until it is complete, and whose rest is read after it is dropped.
pub struct Arriving {
    body: Option<Incoming>,
    /// When it must be complete; `None` where its handler limits the time itself.
    deadline: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    budgets: Arc<Budgets>,
    /// How many bytes have arrived that `shares` does not hold yet.
    unshared: usize,
    /// The budget shares for one arriving request and for its bytes, reserved once the request has to
    /// wait.
    shares: Option<(Share, Share)>,
    fate: Arc<Fate>,
}

/// Why a body is incomplete, for the code that answers the request.
#[derive(Debug, Default)]
pub(super) struct Fate {
    overdue: AtomicBool,
    refused: AtomicBool,
}

impl Fate {
    /// Whether the body did not arrive in time.
    pub(super) fn is_overdue(&self) -> bool {
        self.overdue.load(Ordering::Relaxed)
    }

    /// Whether too much arrives at one time.
    pub(super) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Arriving {
    pub(super) fn new(
        body: Incoming,
        deadline: Option<Instant>,
        budgets: Arc<Budgets>,
        fate: Arc<Fate>,
    ) -> Self {
        let (timer, shares) = (None, None);
        Self { body: Some(body), deadline, timer, budgets, unshared: 0, shares, fate }
    }

    /// Waits for more, as far as the budgets and the deadline allow it.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<&'static str> {
        let fits = if let Some((_, bytes)) = &mut self.shares {
            bytes.grow(self.unshared)
        } else {
            let Budgets { arriving, arriving_bytes, .. } = self.budgets.as_ref();
            self.shares = arriving.take(1).zip(arriving_bytes.take(self.unshared));
            self.shares.is_some()
        };
        if !fits {
            self.fate.refused.store(true, Ordering::Relaxed);
            return Poll::Ready("too many requests arrive at the same time");
        }
        self.unshared = 0;
        let Some(deadline) = self.deadline else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.fate.overdue.store(true, Ordering::Relaxed);
        Poll::Ready("the request did not arrive completely in time")
    }
}

impl Body for Arriving {
    type Data = <Incoming as Body>::Data;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        match Pin::new(body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                this.unshared += frame.data_ref().map_or(0, hyper::body::Buf::remaining);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => {
                this.shares = None;
                Poll::Ready(None)
            }
            Poll::Pending => this.wait(context).map(|why| Some(Err(why.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Incoming::size_hint)
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let rest = self.body.take().filter(|body| !body.is_end_stream());
        // Outside a runtime nothing is served any more.
        if let (Some(body), Ok(runtime)) = (rest, Handle::try_current()) {
            runtime.spawn(timeout(DRAIN_TIMEOUT, drain(body)));
        }
    }
}

async fn drain(mut body: Incoming) {
    let mut left = DRAIN_LIMIT;
    while let Some(Ok(frame)) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let length = frame.data_ref().map_or(0, hyper::body::Buf::remaining);
        let Some(rest) = left.checked_sub(length) else { return };
        left = rest;
    }
}
