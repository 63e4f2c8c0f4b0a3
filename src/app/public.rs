//! What the listener for callers serves: the service, health and reflection. Used by `app`.

use std::io;
use std::sync::Arc;

use http::Request;
use tonic::service::Routes;

use super::{Config, reflection};
use crate::grpc::auth::Clients;
use crate::grpc::{self, Admission};
use crate::orders::Orders;
use crate::peer::Peer;
use crate::server::{Arriving, Handler, Replying};
use crate::telemetry::metrics::Metrics;

/// Calls of the service need no router: they go there at once.
struct Public<S> {
    calls: Arc<grpc::CallLayer<S>>,
    /// Health, reflection, and the answer to everything else.
    routes: Routes,
}

impl<S: grpc::Generated> Handler for Public<S> {
    fn bounds_itself(&self, path: &str) -> bool {
        path.starts_with(grpc::PATH)
    }

    fn handle(&self, request: Request<Arriving>, peer: &Arc<Peer>) -> Replying {
        if self.bounds_itself(request.uri().path()) {
            Box::pin(Arc::clone(&self.calls).call(request, Arc::clone(peer)))
        } else {
            self.routes.handle(request, peer)
        }
    }
}

/// Creates the handler.
///
/// # Errors
/// If the contract cannot be described for reflection.
pub(super) fn handler(
    config: &Config,
    orders: Orders,
    callers: Clients,
    admission: Admission,
    metrics: &Metrics,
    health: Routes,
) -> io::Result<Arc<dyn Handler>> {
    let time = config.server.request_timeout;
    let log_calls = config.telemetry.log_calls;
    let calls = Arc::new(grpc::service(orders, callers, admission, time, metrics, log_calls));
    let mut routes = health;
    if config.server.reflection {
        routes = reflection::add(routes).map_err(io::Error::other)?;
    }
    let routes = routes.into_axum_router().fallback(grpc::no_such_service).into();
    Ok(Arc::new(Public { calls, routes }))
}
