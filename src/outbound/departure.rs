//! Whether a request may have left, as its connection says it. Used by `outbound` only.
//!
//! reqwest tells a failed connection from other failures, but not where its time was over first: a
//! connection that takes as long as the whole attempt may. So the request's own body listens. A
//! connection asks it whether it has an end before it writes the first byte, and nobody asks before.
//! A body that was never asked, and that nobody holds any more, never met a connection.
#![allow(clippy::disallowed_types, reason = "a part of the one room of reqwest")]

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use hyper::body::{Body, Frame, SizeHint};

/// Hears whether a request departs.
pub(super) struct Departure(Arc<AtomicBool>);

impl Departure {
    /// Of this request, from here on.
    pub(super) fn of(request: &mut reqwest::Request) -> Self {
        let began = Arc::new(AtomicBool::new(false));
        let body = request.body_mut().take().unwrap_or_default();
        *request.body_mut() =
            Some(reqwest::Body::wrap(Listening { body, began: Arc::clone(&began) }));
        Self(began)
    }

    /// Whether nothing of the request can have left, nor can from here on. To be asked once whoever
    /// was to send it is gone.
    pub(super) fn never_began(self) -> bool {
        // A connection that still holds the body may be about to ask it.
        Arc::into_inner(self.0).is_some_and(|began| !began.into_inner())
    }
}

/// The body of a request.
struct Listening {
    body: reqwest::Body,
    began: Arc<AtomicBool>,
}

impl Body for Listening {
    type Data = <reqwest::Body as Body>::Data;
    type Error = <reqwest::Body as Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.began.store(true, Ordering::Release);
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.began.store(true, Ordering::Release);
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
