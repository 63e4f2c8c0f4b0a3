//! `OrderService` over gRPC: checks a request, asks `orders`, answers. Used by `app`, which puts
//! the service on a listener.
#![allow(clippy::disallowed_types, reason = "one of the rooms of tonic::Status")]

mod deadline;
mod status;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use self::deadline::{Bounded, Deadline};
use crate::error::Error;
use crate::orders::Orders;
use crate::pb::order_service_server::{OrderService, OrderServiceServer};
use crate::pb::{
    BatchGetOrdersRequest, BatchGetOrdersResponse, GetOrderRequest, GetOrderResponse, OrderRef,
    WatchOrderRequest, WatchOrderResponse,
};

/// The largest request that is read, in bytes.
const REQUEST_LIMIT: usize = 64 * 1024;

/// The service, ready for a listener. No call takes longer than `request_timeout`.
#[must_use]
pub fn service(
    orders: Arc<Orders>,
    request_timeout: Duration,
) -> Bounded<OrderServiceServer<impl OrderService>> {
    let service = OrderServiceServer::new(Service { orders });
    Bounded::new(service.max_decoding_message_size(REQUEST_LIMIT), request_timeout)
}

struct Service {
    orders: Arc<Orders>,
}

#[tonic::async_trait]
impl OrderService for Service {
    async fn get_order(
        &self,
        request: Request<GetOrderRequest>,
    ) -> Result<Response<GetOrderResponse>, Status> {
        let deadline = Deadline::of(&request);
        let GetOrderRequest { provider, id, account, machine_no, max_age } = request.into_inner();
        let order = OrderRef { provider, id, account, machine_no };
        let answer = match check_max_age(max_age) {
            Ok(()) => self.orders.get(&order, deadline).await,
            Err(error) => Err(error),
        };
        answer.map(Response::new).map_err(|error| status::fail("GetOrder", &order.id, &error))
    }

    async fn batch_get_orders(
        &self,
        _: Request<BatchGetOrdersRequest>,
    ) -> Result<Response<BatchGetOrdersResponse>, Status> {
        Err(Status::unimplemented("BatchGetOrders is not built yet; call GetOrder for each order"))
    }

    type WatchOrderStream = Pin<Box<dyn Stream<Item = Result<WatchOrderResponse, Status>> + Send>>;

    async fn watch_order(
        &self,
        _: Request<WatchOrderRequest>,
    ) -> Result<Response<Self::WatchOrderStream>, Status> {
        Err(Status::unimplemented("WatchOrder is not built yet; call GetOrder from time to time"))
    }
}

/// Every answer comes from its vendor at once, so any age that makes sense is young enough. The
/// bounds are protobuf's own; prost's conversion panics far outside of them.
fn check_max_age(max_age: Option<prost_types::Duration>) -> Result<(), Error> {
    let fits = max_age.is_none_or(|age| {
        (0..=315_576_000_000).contains(&age.seconds) && (0..=999_999_999).contains(&age.nanos)
    });
    let message = "max_age must be a span of time of 0 to 10,000 years";
    fits.then_some(()).ok_or_else(|| Error::invalid("max_age", message))
}
