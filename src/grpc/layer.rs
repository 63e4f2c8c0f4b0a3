//! The one layer around every call of the service. It admits the call, identifies the caller,
//! enforces the deadline, gives every failure a status with details, and keeps the call's record.
//! Used by `grpc` only; `app` puts it on a listener.
//!
//! A `GetOrder` that memory can answer takes a shorter way: the answer is copied out of the cache as it
//! is encoded there, without a timer, a task or a second message. All other calls go through the
//! service that `tonic` generates. Callers cannot tell the two ways apart.
#![allow(clippy::disallowed_types, reason = "one of the modules of tonic::Status")]

use std::convert::Infallible;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt as _;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use prost::Message as _;
use prost::bytes::Bytes;
use tokio::time::timeout_at;
use tonic::body::Body;
use tonic::codegen::StdError;
use tonic::{Code, Status};
use tower::{Service, ServiceExt as _};

use super::REQUEST_LIMIT;
use super::admission::Admission;
use super::auth::{Clients, Identity};
use super::context::{CallContext, Deadline, out_of_time};
use super::message::{Found, Gathered, framed};
use super::meters::Meters;
use super::method::Method;
use super::record::{Record, SharedRecord};
use super::wanted::wanted;
use super::{order_of, status};
use crate::error::Error;
use crate::orders::Orders;
use crate::pb::{ErrorReason, GetOrderRequest};
use crate::peer::{Peer, Reply};

/// How long the layer waits beyond a call's deadline. Handlers know more about what they were doing,
/// so they get the time to answer for themselves.
const GRACE: Duration = Duration::from_millis(50);

/// The compression that messages use, and the compressions that can be read.
const ENCODING: &str = "grpc-encoding";
const ACCEPT_ENCODING: &str = "grpc-accept-encoding";

/// The content type of every answer.
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// A service that limits its calls in number and in time, and that identifies its callers.
pub struct CallLayer<S> {
    /// The service that `tonic` generates.
    pub(super) inner: S,
    pub(super) orders: Orders,
    pub(super) admission: Admission,
    pub(super) clients: Clients,
    /// How long a call may take that is no watch.
    pub(super) limit: Duration,
    pub(super) meters: Arc<Meters>,
}

/// A service that `tonic` generates.
pub trait Generated:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Generated for S where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

impl<S: Generated> CallLayer<S> {
    /// Answers a call.
    pub async fn call<B>(self: Arc<Self>, request: Request<B>, peer: Arc<Peer>) -> Reply
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<StdError> + Send + Unpin,
    {
        let method = Method::of(request.uri().path());
        let mut record = Record::new(method, request.headers(), &self.meters);
        if !speaks_grpc(request.headers()) {
            let message = "the content-type is not application/grpc";
            let _ = record.fail(&Error::new(ErrorReason::InvalidRequest, message));
            return unsupported().into();
        }
        let deadline = Deadline::new(request.headers(), record.begin(), self.limit);
        let identity = match self.enter(method, &mut record, request.headers(), deadline, &peer) {
            Ok(identity) => identity,
            Err(error) => return record.fail(&error).into_http().into(),
        };
        let (parts, body) = request.into_parts();
        let mut body = Gathered::new(body);
        if method == Method::GetOrder {
            poll_fn(|context| {
                body.gather(REQUEST_LIMIT, context);
                Poll::Ready(())
            })
            .await;
            let hit = body.message().and_then(|message| self.hit(message, &identity, &mut record));
            if let Some(frame) = hit {
                let mut response = Response::new(Body::new(Found::new(frame)));
                response.headers_mut().insert(CONTENT_TYPE, GRPC);
                return Reply { response, outstanding: Some(Box::new(record)) };
            }
        }
        let record = SharedRecord::new(record);
        let leaving = peer.leaving.clone();
        let context = CallContext { deadline, identity, record, leaving };
        Box::pin(self.ask(method, Request::from_parts(parts, Body::new(body)), context)).await
    }

    /// Admits a call of an identified caller, or returns why not.
    fn enter(
        &self,
        method: Method,
        record: &mut Record,
        headers: &HeaderMap,
        deadline: Deadline,
        peer: &Peer,
    ) -> Result<Identity, Error> {
        if deadline.answer <= record.begin() {
            return Err(out_of_time());
        }
        match method {
            Method::GetOrder | Method::BatchGetOrders => record.hold(self.admission.call()?),
            Method::WatchOrder => record.hold(self.admission.watch()?),
            Method::Unknown => {}
        }
        let identity = self.clients.identify(headers, peer)?;
        record.caller(&identity.caller.name);
        Ok(identity)
    }

    /// The framed answer to a plain question that memory can answer. `None` leaves everything else to
    /// the handler: other answers, every mistake in the question, and a panic.
    fn hit(&self, message: &[u8], identity: &Identity, record: &mut Record) -> Option<Bytes> {
        let hit = || {
            let request = GetOrderRequest::decode(message).ok()?;
            let wanted = wanted(&self.orders, request.max_age, request.min_observe_time).ok()?;
            let order = order_of(request);
            let share = identity.try_permits(1).ok()?;
            let hit = self.orders.hit(&identity.caller, &order, wanted)?;
            Some((hit, order, share))
        };
        let (hit, order, share) = catch_unwind(AssertUnwindSafe(hit)).ok().flatten()?;
        record.hold_share(share);
        record.asks(order.provider, &order.id);
        record.hit(hit.account());
        Some(framed(hit.size(), |frame| hit.encode(frame)))
    }

    /// Answers any call, by the generated service.
    async fn ask(&self, method: Method, mut request: Request<Body>, context: CallContext) -> Reply {
        let (deadline, record) = (context.deadline, context.record.clone());
        // A message itself says whether it is compressed. Short ones are not, even where the client
        // is set to compress, but tonic would refuse them because of the header.
        let compression = request.headers_mut().remove(ENCODING).is_some();
        request.extensions_mut().insert(context);
        let call = AssertUnwindSafe(self.inner.clone().oneshot(request)).catch_unwind();
        let span = record.lock().span();
        let answer = match span.within(timeout_at(deadline.answer + GRACE, call)).await {
            Ok(Ok(Ok(answer))) => answer,
            Ok(Err(_panic)) => {
                record.lock().fail(&Error::internal("the handler panicked")).into_http()
            }
            Err(_elapsed) => record.lock().fail(&out_of_time()).into_http(),
        };
        let response = explained(answer, method, compression, &record);
        // The call keeps its permits until its caller has read the answer.
        Reply { response, outstanding: Some(Box::new(record)) }
    }
}

/// Whether a request speaks gRPC with protobuf messages, as the contract needs.
fn speaks_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    ["application/grpc", "application/grpc+proto"]
        .iter()
        .any(|ours| kind.eq_ignore_ascii_case(ours))
}

/// Answers a request for a service that this server does not have.
pub async fn no_such_service(headers: HeaderMap) -> Response<Body> {
    if !speaks_grpc(&headers) {
        return unsupported();
    }
    let message = "this server has no such service";
    status::status(&Error::new(ErrorReason::Unimplemented, message)).into_http()
}

/// A caller that does not speak gRPC gets an HTTP answer, as gRPC's protocol says.
fn unsupported() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    response
}

/// Adds details to a failure without any, which is one that tonic answers itself. Handlers' failures
/// already have details. `compression` is whether the caller has named one.
fn explained(
    mut answer: Response<Body>,
    method: Method,
    compression: bool,
    record: &SharedRecord,
) -> Response<Body> {
    let headers = answer.headers();
    if headers.contains_key("grpc-status-details-bin") {
        return answer;
    }
    match Status::from_header_map(headers).map(|status| (status.code(), status)) {
        // The outcome of a stream is known at its end.
        None if method.streams() => {}
        None | Some((Code::Ok, _)) => record.lock().succeed(),
        // The caller no longer listens.
        Some((Code::Cancelled, _)) => {}
        Some((code, status)) => {
            let code = if compression && status.message().contains("compressed-flag") {
                let none = HeaderValue::from_static("identity");
                answer.headers_mut().insert(ACCEPT_ENCODING, none);
                Code::Unimplemented
            } else {
                code
            };
            // Other headers stay, such as the list of compressions that can be read. The added ones
            // are plain ASCII, so this cannot fail.
            let _ = record.lock().fail(&unread(code)).add_header(answer.headers_mut());
        }
    }
    answer
}

/// Why a request could not be read, by tonic's status code.
fn unread(code: Code) -> Error {
    let (reason, message) = match code {
        Code::Unimplemented => (
            ErrorReason::Unimplemented,
            "this server has no such method, or does not support the request's compression",
        ),
        Code::OutOfRange => (ErrorReason::InvalidRequest, "the request is larger than 64 KiB"),
        _ => (ErrorReason::InvalidRequest, "the request is not a message of the contract"),
    };
    Error::new(reason, message)
}

#[cfg(test)]
mod tests {
    use std::task::Context;

    use futures_util::future::{self, BoxFuture};
    use http::Extensions;

    use super::super::admission::Limits;
    use super::*;
    use crate::accounts::Accounts;
    use crate::clock::SystemClock;
    use crate::store::Memory;
    use crate::telemetry::LogCalls;
    use crate::telemetry::metrics::Metrics;

    /// A service that panics, or never answers.
    #[derive(Clone)]
    struct Bad {
        panics: bool,
    }

    impl Service<Request<Body>> for Bad {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            let panics = self.panics;
            Box::pin(async move {
                assert!(!panics, "a panic that is meant");
                future::pending().await
            })
        }
    }

    /// The gRPC status that a call of `method` gets, where the limit is one call.
    async fn call(calls: &Arc<CallLayer<Bad>>, method: &str) -> String {
        let path = format!("/orderquery.v1.OrderService/{method}");
        let request = Request::post(path).header("content-type", "application/grpc");
        let peer = Peer::of(&Extensions::new());
        let request = request.body(Body::empty()).unwrap();
        let reply = Arc::clone(calls).call(request, peer).await;
        reply.response.headers()["grpc-status"].to_str().unwrap().to_owned()
    }

    fn calls(panics: bool) -> Arc<CallLayer<Bad>> {
        let limit = Duration::from_millis(1);
        let limits = Limits { max_in_flight: 1, max_watches: 1 };
        let metrics = Metrics::default();
        let clock = Arc::new(SystemClock);
        let store = Arc::new(Memory::new(0, clock.clone()));
        Arc::new(CallLayer {
            inner: Bad { panics },
            orders: Orders::new(Accounts::new(Vec::new()), store, clock),
            admission: Admission::new(&limits, &metrics),
            clients: Clients::default(),
            limit,
            meters: Arc::new(Meters::new(&metrics, LogCalls::All)),
        })
    }

    #[tokio::test]
    async fn a_call_that_panics_or_hangs_releases_its_permit() {
        for (panics, status) in [(true, Code::Internal), (false, Code::DeadlineExceeded)] {
            let calls = calls(panics);
            for method in ["GetOrder", "BatchGetOrders", "WatchOrder"].repeat(2) {
                let expected = (status as i32).to_string();
                assert_eq!(call(&calls, method).await, expected, "{method}");
            }
        }
    }

    #[tokio::test]
    async fn a_dropped_call_releases_its_permit() {
        let calls = calls(false);
        for _ in 0..2 {
            assert_eq!(call(&calls, "GetOrder").now_or_never(), None);
        }
    }
}
