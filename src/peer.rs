//! What is known about the peer of a connection. `server` puts it into every request; `grpc`, `health`
//! and `app` read it.

use std::sync::Arc;

use http::{Extensions, HeaderMap};
use tokio_util::sync::CancellationToken;

use crate::budget::Budget;

/// The peer of the connection that a request came on.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The DNS names and URIs in the peer's certificate, which a trusted authority has signed. Empty if
    /// the peer has presented none.
    pub names: Arc<[String]>,
    /// Canceled when the connection is about to end: streams without an end of their own must end now.
    pub leaving: CancellationToken,
    /// The limit of the health watches that the peer has open.
    pub health_watches: Arc<Budget>,
    /// The limit of the metrics pages that the peer has in flight.
    pub pages: Arc<Budget>,
}

/// What must live until the peer has received the answer. A handler puts this into the response's
/// extensions.
#[derive(Clone)]
pub struct Outstanding(Arc<dyn Fn() -> HeaderMap + Send + Sync>);

impl Outstanding {
    /// Keeps everything alive that `refusal` captures. If there is no memory for the answer, `refusal`
    /// is called, and returns the answer's trailers.
    pub fn new(refusal: impl Fn() -> HeaderMap + Send + Sync + 'static) -> Self {
        Self(Arc::new(refusal))
    }

    /// The trailers for an answer that there is no memory for.
    #[must_use]
    pub fn refuse(&self) -> HeaderMap {
        (self.0)()
    }
}

impl Peer {
    /// The peer that sent a request with these extensions.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Self {
        // Without `server` no connection can end, and no authority has signed a name.
        extensions.get().cloned().unwrap_or_else(|| Self {
            names: Arc::default(),
            leaving: CancellationToken::new(),
            health_watches: Budget::new(1),
            pages: Budget::new(1),
        })
    }
}
