//! What is known of the other end of a connection. `server` puts it into every request; `grpc`
//! and `health` read it.

use std::sync::Arc;

use http::Extensions;
use tokio_util::sync::CancellationToken;

/// The other end of the connection that a request came on.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// The DNS names and URIs of its certificate, which a trusted authority vouches for. Empty
    /// where it showed none.
    pub names: Arc<[String]>,
    /// Canceled when the connection is about to end: streams that have no end of their own must
    /// end now.
    pub leaving: CancellationToken,
}

impl Peer {
    /// The peer that sent a request with these extensions.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Self {
        // Without `server` there is no connection that could end, and nobody vouches for anyone.
        extensions.get().cloned().unwrap_or_default()
    }
}
