//! What is known of the other end of a connection. `server` puts it into every request; `grpc`
//! and `health` read it.

use std::sync::Arc;

use http::{Extensions, HeaderMap};
use tokio_util::sync::CancellationToken;

use crate::budget::Budget;

/// The other end of the connection that a request came on.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The DNS names and URIs of its certificate, which a trusted authority vouches for. Empty
    /// where it showed none.
    pub names: Arc<[String]>,
    /// Canceled when the connection is about to end: streams that have no end of their own must
    /// end now.
    pub leaving: CancellationToken,
    /// How many health watches it may have.
    pub health_watches: Arc<Budget>,
    /// How many pages of metrics it may have under way.
    pub pages: Arc<Budget>,
}

/// What a handler wants to last until the peer has taken the answer: put into the response's extensions.
#[derive(Clone)]
pub struct Outstanding(Arc<dyn Fn() -> HeaderMap + Send + Sync>);

impl Outstanding {
    /// Everything that `refusal` holds lasts. It is called, and gives the answer's trailers, where there is
    /// no memory for the answer.
    pub fn new(refusal: impl Fn() -> HeaderMap + Send + Sync + 'static) -> Self {
        Self(Arc::new(refusal))
    }

    /// The trailers of an answer that there is no memory for.
    #[must_use]
    pub fn refuse(&self) -> HeaderMap {
        (self.0)()
    }
}

impl Peer {
    /// The peer that sent a request with these extensions.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Self {
        // Without `server` there is no connection that could end, and nobody vouches for anyone.
        extensions.get().cloned().unwrap_or_else(|| Self {
            names: Arc::default(),
            leaving: CancellationToken::new(),
            health_watches: Budget::new(1),
            pages: Budget::new(1),
        })
    }
}
