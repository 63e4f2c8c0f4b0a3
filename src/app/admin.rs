//! What the listener for probes and scrapers serves: gRPC health, and the page of metrics. Used by
//! `app`.

use std::sync::Arc;

use axum::body::Bytes;
use axum::response::IntoResponse;
use axum::routing::get;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use tokio::sync::watch::Receiver;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::service::Routes;

use crate::metrics::{self, READY};
use crate::orders::Orders;

/// How many pages may be under way: more than there are scrapers. Each asks the store, and takes
/// memory until its last byte is sent.
const PAGES: usize = 32;

/// The health service, and `GET /metrics`. Nothing else is there: a probe that asks for another page
/// must not take an empty answer for a good one.
pub(super) fn routes(health: Routes, orders: Orders, ready: Receiver<bool>) -> Routes {
    let places = Arc::new(Semaphore::new(PAGES));
    let metrics = get(move || page(Arc::clone(&places), orders.clone(), *ready.borrow()));
    let routes = health.into_axum_router().route("/metrics", metrics);
    routes.fallback(|| async { StatusCode::NOT_FOUND }).into()
}

/// What is measured, now. One page too many is turned away.
async fn page(
    places: Arc<Semaphore>,
    orders: Orders,
    ready: bool,
) -> Result<impl IntoResponse, (StatusCode, String)> {
    let place = places.try_acquire_owned().map_err(|_| {
        let text = format!("{PAGES} pages are under way; ask again later\n");
        (StatusCode::SERVICE_UNAVAILABLE, text)
    })?;
    READY.set([], f64::from(ready));
    orders.measure().await;
    let text = metrics::page().map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error))?;
    let page = Bytes::from_owner(Page { text, _place: place });
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], page))
}

/// A page that keeps its place until it is sent.
struct Page {
    text: String,
    _place: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Page {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}
