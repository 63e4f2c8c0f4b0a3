//! The standard gRPC health service. Used by `app`, which puts the one service on both listeners.
//!
//! tonic-health supplies the protocol. Its own reporter says SERVING from the start and ends a Watch of
//! an unknown name, so this module decides each status itself.
#![allow(clippy::disallowed_types, reason = "one of the modules of tonic::Status")]

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream;
use tokio::sync::watch;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::budget::Share;
use crate::orders::Orders;
use crate::pb::order_service_server::OrderServiceServer;
use crate::peer::Peer;

/// The gRPC health service: whether each named service is serving.
#[derive(Clone)]
pub struct Health(Arc<HashMap<String, watch::Receiver<bool>>>);

impl Health {
    /// `ready` is the status of the server's own names; each account has a status of its own.
    #[must_use]
    pub fn new(orders: &Orders, ready: &watch::Receiver<bool>) -> Self {
        // Any answer proves that the process makes progress, so this one is always true.
        let (_, alive) = watch::channel(true);
        let order_service = <OrderServiceServer<()> as NamedService>::NAME;
        let services = ["", order_service, "readiness"]
            .map(|name| (name.to_owned(), ready.clone()))
            .into_iter()
            .chain([("liveness".to_owned(), alive)])
            .chain(
                orders
                    .availability()
                    .map(|(name, available)| (format!("account/{name}"), available)),
            )
            .collect();
        Self(Arc::new(services))
    }

    /// The service, ready for a listener.
    #[must_use]
    pub fn service(&self) -> health_server::HealthServer<Self> {
        health_server::HealthServer::new(self.clone())
    }
}

fn response(serving: bool) -> HealthCheckResponse {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match self.0.get(&request.get_ref().service) {
            Some(serving) => Ok(Response::new(response(*serving.borrow()))),
            None => Err(Status::not_found("this server has no service of that name")),
        }
    }

    type WatchStream =
        Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send + 'static>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let serving = self.0.get(&request.get_ref().service).cloned();
        let peer = Peer::of(request.extensions());
        let Some(place) = peer.health_watches.take(1) else {
            let message = "too many health watches are open; open only one on each connection";
            return Err(Status::resource_exhausted(message));
        };
        let leaving = peer.leaving.clone();
        let watch = Watch { serving, leaving, next: Next::First, _place: place };
        Ok(Response::new(Box::pin(stream::unfold(watch, Watch::next))))
    }
}

/// One Watch stream: the current status, every change, and UNAVAILABLE before the connection ends.
struct Watch {
    /// `None` for an unknown name.
    serving: Option<watch::Receiver<bool>>,
    leaving: CancellationToken,
    next: Next,
    _place: Share,
}

enum Next {
    First,
    Change,
    End,
}

impl Watch {
    async fn next(mut self) -> Option<(Result<HealthCheckResponse, Status>, Self)> {
        match self.next {
            Next::First => {}
            Next::Change => {
                tokio::select! {
                    // Deliver a pending change before ending the stream.
                    biased;
                    Some(()) = changed(self.serving.as_mut()) => {}
                    () = self.leaving.cancelled() => {
                        self.next = Next::End;
                        let gone = "this connection is about to close; watch again on a new \
                                    connection";
                        return Some((Err(Status::unavailable(gone)), self));
                    }
                }
            }
            Next::End => return None,
        }
        self.next = Next::Change;
        let status = match &mut self.serving {
            Some(serving) => response(*serving.borrow_and_update()),
            None => HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() },
        };
        Some((Ok(status), self))
    }
}

/// Resolves to `None` if nothing can change any more.
async fn changed(serving: Option<&mut watch::Receiver<bool>>) -> Option<()> {
    serving?.changed().await.ok()
}
