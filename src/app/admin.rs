//! What the listener for probes and scrapers serves: gRPC health, and the page of metrics. Used by
//! `app`.

use axum::response::IntoResponse;
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use tokio::sync::watch::Receiver;
use tonic::service::Routes;

use crate::metrics::{self, READY};
use crate::orders::Orders;

/// The health service, and `GET /metrics`. Nothing else is there: a probe that asks for another page
/// must not take an empty answer for a good one.
pub(super) fn routes(health: Routes, orders: Orders, ready: Receiver<bool>) -> Routes {
    let metrics = get(move || page(orders.clone(), *ready.borrow()));
    let routes = health.into_axum_router().route("/metrics", metrics);
    routes.fallback(|| async { StatusCode::NOT_FOUND }).into()
}

/// What is measured, now.
async fn page(orders: Orders, ready: bool) -> Result<impl IntoResponse, (StatusCode, String)> {
    READY.set([], f64::from(ready));
    orders.measure().await;
    let page = metrics::page().map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error))?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], page))
}
