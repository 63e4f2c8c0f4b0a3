//! The routes of the admin listener, for probes and scrapers: gRPC health and the metrics page. Used by
//! `app`.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::Request;
use axum::response::IntoResponse;
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use tokio::sync::watch::Receiver;
use tonic::service::Routes;

use crate::budget::{Budget, Share};
use crate::grpc::Admission;
use crate::grpc::auth::Clients;
use crate::orders::Orders;
use crate::peer::Peer;
use crate::telemetry::metrics::{self, Metrics};

/// The health service and `GET /metrics`. Every other path is a 404: a probe of a wrong path must not
/// count an empty answer as success.
pub(super) fn routes(
    health: Routes,
    orders: Orders,
    callers: Clients,
    admission: Admission,
    ready: Receiver<bool>,
    metrics: Metrics,
) -> Routes {
    let page = get(move |request: Request| {
        let pages = Arc::clone(&Peer::of(request.extensions()).pages);
        callers.measure();
        admission.measure();
        metrics.ready.with([]).set(f64::from(*ready.borrow()));
        page(pages, orders.clone(), metrics.clone())
    });
    let routes = health.into_axum_router().route("/metrics", page);
    routes.fallback(|| async { StatusCode::NOT_FOUND }).into()
}

/// The current metrics. The number of pages in flight is limited, because each page queries the store
/// and holds memory until its last byte is sent.
async fn page(
    pages: Arc<Budget>,
    orders: Orders,
    metrics: Metrics,
) -> Result<impl IntoResponse, (StatusCode, String)> {
    let place = pages.take(1).ok_or_else(|| {
        let text = "too many requests are in progress; retry later\n".to_owned();
        (StatusCode::SERVICE_UNAVAILABLE, text)
    })?;
    orders.measure(&metrics).await;
    let text = metrics.page().map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error))?;
    let page = Bytes::from_owner(Page { text, _place: place });
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], page))
}

/// A page that holds its share of the budget until it is sent.
struct Page {
    text: String,
    _place: Share,
}

impl AsRef<[u8]> for Page {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}
