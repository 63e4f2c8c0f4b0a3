//! `OrderService` over gRPC: checks a request, asks `orders`, answers. Used by `app`, which puts
//! the service on a listener.
#![allow(clippy::disallowed_types, reason = "one of the modules of tonic::Status")]

mod admission;
pub mod auth;
mod context;
mod layer;
mod message;
mod meters;
mod method;
mod record;
mod status;
mod wanted;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream;
use prost::Message as _;
use tokio::time::{Instant, sleep_until};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

pub use self::admission::{Admission, Limits};
use self::auth::{Clients, Identity};
use self::context::{CallContext, out_of_time};
pub use self::layer::{CallLayer, Generated, no_such_service};
use self::meters::Meters;
use self::record::{Counts, SharedRecord};
use self::wanted::{min_observe_time_of, wanted};
use crate::error::Error;
use crate::orders::{Answer, Orders, Watching};
use crate::pb::order_result::Result as OrderOutcome;
use crate::pb::order_service_server::{OrderService, OrderServiceServer};
use crate::pb::{
    BatchGetOrdersRequest, BatchGetOrdersResponse, ErrorReason, GetOrderRequest, GetOrderResponse,
    OrderRef, OrderResult, Source, WatchOrderRequest, WatchOrderResponse,
};
use crate::telemetry::LogCalls;
use crate::telemetry::metrics::Metrics;

/// The largest accepted request, in bytes. `app` applies it to the other services too.
pub const REQUEST_LIMIT: usize = 64 * 1024;

/// The path of the service, which limits its calls itself.
pub const PATH: &str = "/orderquery.v1.OrderService/";

/// The most orders that one batch may ask for.
const BATCH_LIMIT: usize = 100;

/// The largest answer to a batch, in bytes: gRPC clients read no more by default.
const BATCH_ANSWER_LIMIT: usize = 4 * 1024 * 1024;

/// The service, ready for a listener. It authenticates its callers. Every call except a watch ends
/// within `request_timeout`; a watch ends with its connection. Calls without a permit of `admission`
/// are refused. `log_calls` says which calls are logged.
#[must_use]
pub fn service(
    orders: Orders,
    clients: Clients,
    admission: Admission,
    request_timeout: Duration,
    metrics: &Metrics,
    log_calls: LogCalls,
) -> CallLayer<OrderServiceServer<impl OrderService>> {
    let service = Service { orders: orders.clone(), admission: admission.clone() };
    CallLayer {
        inner: OrderServiceServer::new(service).max_decoding_message_size(REQUEST_LIMIT),
        orders,
        admission,
        clients,
        limit: request_timeout,
        meters: Arc::new(Meters::new(metrics, log_calls)),
    }
}

struct Service {
    orders: Orders,
    admission: Admission,
}

#[tonic::async_trait]
impl OrderService for Service {
    async fn get_order(
        &self,
        request: Request<GetOrderRequest>,
    ) -> Result<Response<GetOrderResponse>, Status> {
        let (CallContext { deadline, identity, record, .. }, request) = CallContext::of(request)?;
        let (max_age, min_observe_time) = (request.max_age, request.min_observe_time);
        let order = order_of(request);
        record.lock().asks(order.provider, &order.id);
        let answer = async {
            record.lock().hold_share(identity.permits(1)?);
            let wanted = wanted(&self.orders, max_age, min_observe_time)?;
            self.orders.get(&identity.caller, &order, wanted, deadline.answer).await
        };
        let answer = answer.await.map_err(|error| record.lock().fail(&error))?;
        record.lock().found(&answer);
        Ok(Response::new(answer.response))
    }

    async fn batch_get_orders(
        &self,
        request: Request<BatchGetOrdersRequest>,
    ) -> Result<Response<BatchGetOrdersResponse>, Status> {
        let (CallContext { deadline, identity, record, .. }, request) = CallContext::of(request)?;
        // The last tenth of the time is left for sending: the answer must reach the caller before the
        // deadline.
        let now = Instant::now();
        let deadline = now + deadline.answer.saturating_duration_since(now) / 10 * 9;
        let answer = self.batch(&identity, request, deadline, &record).await;
        answer.map(Response::new).map_err(|error| record.lock().fail(&error))
    }

    type WatchOrderStream = Pin<Box<dyn Stream<Item = Result<WatchOrderResponse, Status>> + Send>>;

    async fn watch_order(
        &self,
        request: Request<WatchOrderRequest>,
    ) -> Result<Response<Self::WatchOrderStream>, Status> {
        let (context, request) = CallContext::of(request)?;
        let CallContext { deadline, identity, record, leaving } = context;
        let order = request.order.unwrap_or_default();
        record.lock().asks(order.provider, &order.id);
        let watching = min_observe_time_of(&self.orders, request.min_observe_time)
            .and_then(|earliest| self.orders.watch(&identity.caller, &order, earliest));
        let watching = watching.map_err(|error| record.lock().fail(&error))?;
        let (watching, deadline) = (Some(watching), deadline.stream);
        let watch = Watch { watching, identity, leaving, deadline, record };
        Ok(Response::new(Box::pin(stream::unfold(watch, Watch::next))))
    }
}

impl Service {
    /// The result of each order of a batch. Equal orders are asked for once.
    async fn batch(
        &self,
        identity: &Identity,
        request: BatchGetOrdersRequest,
        deadline: Instant,
        record: &SharedRecord,
    ) -> Result<BatchGetOrdersResponse, Error> {
        let BatchGetOrdersRequest { orders, max_age, min_observe_time } = request;
        if !(1..=BATCH_LIMIT).contains(&orders.len()) {
            return Err(Error::invalid("orders", format!("a batch has 1 to {BATCH_LIMIT} orders")));
        }
        let wanted = wanted(&self.orders, max_age, min_observe_time)?;
        let mut places = HashMap::new();
        let mut distinct = Vec::new();
        let places: Vec<usize> = orders
            .iter()
            .map(|order| {
                *places.entry(order).or_insert_with(|| {
                    let answer = self.orders.get(&identity.caller, order, wanted, deadline);
                    distinct.push((order, answer));
                    distinct.len() - 1
                })
            })
            .collect();
        record.lock().hold_further(self.admission.batch(distinct.len())?);
        record.lock().hold_share(identity.permits(distinct.len())?);
        let (distinct, calls): (Vec<_>, Vec<_>) = distinct.into_iter().unzip();
        let outcomes = join_all(calls).await;
        let mut failed = 0;
        for (order, outcome) in distinct.into_iter().zip(&outcomes) {
            if let Err(error) = outcome {
                record.lock().order_failed(order, error);
                failed += 1;
            }
        }
        let is_cached = |outcome: &&Result<Answer, Error>| {
            outcome.as_ref().is_ok_and(|answer| answer.response.source() == Source::Cache)
        };
        let cached = outcomes.iter().filter(is_cached).count();
        record.lock().counts(Counts { orders: outcomes.len(), failed, cached });
        let distinct: Vec<OrderResult> = outcomes.into_iter().map(result).collect();
        let sizes: Vec<usize> = distinct.iter().map(OrderResult::encoded_len).collect();
        if places.iter().filter_map(|place| sizes.get(*place)).sum::<usize>() > BATCH_ANSWER_LIMIT {
            let message = "the answer would be larger than 4 MiB; ask for fewer orders at a time";
            return Err(Error::invalid("orders", message));
        }
        // Where no two orders are equal, each is at its own place.
        let results = if places.len() == distinct.len() {
            distinct
        } else {
            places.iter().filter_map(|place| distinct.get(*place).cloned()).collect()
        };
        Ok(BatchGetOrdersResponse { results })
    }
}

/// The result of one order of a batch.
fn result(outcome: Result<Answer, Error>) -> OrderResult {
    let result = match outcome {
        Ok(answer) => OrderOutcome::Found(answer.response),
        Err(error) => OrderOutcome::Error(status::in_batch(&error)),
    };
    OrderResult { result: Some(result) }
}

/// The order that a question is for.
fn order_of(request: GetOrderRequest) -> OrderRef {
    let GetOrderRequest { provider, id, account, machine_no, .. } = request;
    OrderRef { provider, id, account, machine_no }
}

/// One `WatchOrder` stream.
struct Watch {
    /// `None` once an error has been sent.
    watching: Option<Watching>,
    identity: Identity,
    leaving: CancellationToken,
    /// The caller's own deadline, if it has set one.
    deadline: Option<Instant>,
    record: SharedRecord,
}

impl Watch {
    async fn next(mut self) -> Option<(Result<WatchOrderResponse, Status>, Self)> {
        let deadline = async {
            match self.deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let news = tokio::select! {
            // Deliver pending news before ending the stream.
            biased;
            news = self.watching.as_mut()?.next() => news,
            () = self.leaving.cancelled() => Some(Err(Error::new(
                ErrorReason::ServerDraining,
                "this connection is about to close; watch again on a new connection",
            )
            .retry_after(Duration::ZERO))),
            () = deadline => Some(Err(out_of_time())),
        };
        // A caller whose token is no longer valid gets no more news.
        let news = news.map(|news| self.identity.check().and(news));
        match news {
            None => {
                self.record.lock().succeed();
                None
            }
            Some(Ok(message)) => {
                self.record.lock().sends(&message);
                Some((Ok(message), self))
            }
            Some(Err(error)) => {
                self.watching = None;
                let status = self.record.lock().fail(&error);
                Some((Err(status), self))
            }
        }
    }
}
