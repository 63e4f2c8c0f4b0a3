//! What `server` and the services tell each other: `server` hands each request's peer down, and a
//! service hands its reply up. Used by `server`, `grpc`, `health` and `app`.

use std::sync::Arc;

use http::{Extensions, HeaderMap, Response};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;

use crate::budget::Budget;

/// The peer of the connection that a request came on.
#[derive(Debug)]
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

/// An answer, and what it holds until its peer has received it.
pub struct Reply {
    /// The answer.
    pub response: Response<Body>,
    /// Dropped once the peer has received the answer; `None` if nothing has to live that long.
    pub outstanding: Option<Box<dyn Outstanding>>,
}

/// What must live until the peer has received the answer.
pub trait Outstanding: Send {
    /// Ends the call, because there is no memory for its answer. Returns the trailers that say so.
    fn refuse(self: Box<Self>) -> HeaderMap;
}

impl From<Response<Body>> for Reply {
    fn from(response: Response<Body>) -> Self {
        Self { response, outstanding: None }
    }
}

impl Peer {
    /// The peer that sent a request with these extensions.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Arc<Self> {
        // Without `server` no connection can end, and no authority has signed a name.
        let nobody = || Self {
            names: Arc::default(),
            leaving: CancellationToken::new(),
            health_watches: Budget::new(1),
            pages: Budget::new(1),
        };
        extensions.get().cloned().unwrap_or_else(|| Arc::new(nobody()))
    }
}
