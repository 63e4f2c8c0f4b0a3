//! Whether a request may have left this machine, as far as its connection shows it. Used by
//! `outbound` only.
//!
//! reqwest distinguishes a failed connection from other failures, but not where the timeout came
//! first: connecting may take as long as the whole attempt. So the request's own body observes it. A
//! connection asks the body whether it has an end before it writes the first byte, and nothing asks
//! earlier. A body that was never asked, and that nothing holds any more, was never given to a
//! connection.
#![allow(clippy::disallowed_types, reason = "a part of the one module of reqwest")]

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use hyper::body::{Body, Frame, SizeHint};

/// Observes whether a request departs.
pub(super) struct Departure(Arc<AtomicBool>);

impl Departure {
    /// Observes this request from here on.
    pub(super) fn of(request: &mut reqwest::Request) -> Self {
        let began = Arc::new(AtomicBool::new(false));
        let body = request.body_mut().take().unwrap_or_default();
        *request.body_mut() =
            Some(reqwest::Body::wrap(Listening { body, began: Arc::clone(&began) }));
        Self(began)
    }

    /// Whether nothing of the request has left, or can still leave. Call it only after the sender of
    /// the request is dropped.
    pub(super) fn never_began(self) -> bool {
        // A connection that still holds the body may be about to ask it.
        Arc::into_inner(self.0).is_some_and(|began| !began.into_inner())
    }
}

/// The body of a request, which records that a connection has asked it.
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
