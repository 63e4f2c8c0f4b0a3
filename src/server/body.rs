//! The body of a request, read to its end even where nobody wants it. Used by `server` only.
//!
//! Calls that are refused are answered before their message has come. HTTP/2 resets such a stream, and
//! remembers 50 of them for a second; what comes on any other counts as an offence of the peer, and
//! its connection ends with the 1,024th. A burst of refused calls must not cost its connection that.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Buf, Frame, Incoming, SizeHint};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// How long the rest of a body that nobody wants is waited for: it is on its way, or does not come.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// The most that is read of it, in bytes: as much as the largest request.
const DRAIN_LIMIT: usize = 64 * 1024;

/// A body whose rest is read once it is dropped.
pub(super) struct Drained(Option<Incoming>);

impl Drained {
    pub(super) fn new(body: Incoming) -> Self {
        Self(Some(body))
    }
}

impl Body for Drained {
    type Data = <Incoming as Body>::Data;
    type Error = <Incoming as Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match &mut self.0 {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(SizeHint::default, Incoming::size_hint)
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        let rest = self.0.take().filter(|body| !body.is_end_stream());
        // Outside of a runtime nothing is served any more.
        if let (Some(body), Ok(runtime)) = (rest, Handle::try_current()) {
            runtime.spawn(timeout(DRAIN_TIMEOUT, drain(body)));
        }
    }
}

async fn drain(mut body: Incoming) {
    let mut left = DRAIN_LIMIT;
    while let Some(Ok(frame)) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let length = frame.data_ref().map_or(0, Buf::remaining);
        let Some(rest) = left.checked_sub(length) else { return };
        left = rest;
    }
}
