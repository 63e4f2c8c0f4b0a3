//! The one layer around every call of the service. It admits the call, identifies the caller,
//! enforces the deadline, gives every failure a status with details, and keeps the call's log line
//! and span. Used by `grpc` only.
#![allow(clippy::disallowed_types, reason = "one of the modules of tonic::Status")]

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use tokio::time::{Instant, timeout_at};
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tower::Service;

use super::admission::{Admission, Limits, RETRY};
use super::auth::Clients;
use super::context::{CallContext, Deadline, out_of_time};
use super::meters::Meters;
use super::record::Record;
use super::status;
use crate::error::Error;
use crate::pb::ErrorReason;
use crate::peer::{Outstanding, Peer};
use crate::telemetry::metrics::Metrics;

/// How long the layer waits beyond a call's deadline. Handlers know more about what they were doing,
/// so they get the time to answer for themselves.
const GRACE: Duration = Duration::from_millis(50);

/// The compression that messages use, and the compressions that can be read.
const ENCODING: &str = "grpc-encoding";
const ACCEPT_ENCODING: &str = "grpc-accept-encoding";

/// How a method answers, and so what limits it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// With one message.
    Answer,
    /// With a stream of messages, until its caller has enough.
    Stream,
    /// With an error: there is no such method.
    Unknown,
}

/// The methods. A name outside this table must not reach a log: its caller wrote it.
const METHODS: [(&str, Kind); 3] =
    [("GetOrder", Kind::Answer), ("BatchGetOrders", Kind::Answer), ("WatchOrder", Kind::Stream)];

/// A service that limits its calls in number and in time, and that identifies its callers.
#[derive(Clone)]
pub struct CallLayer<S> {
    inner: S,
    admission: Admission,
    clients: Clients,
    limit: Duration,
    meters: Arc<Meters>,
}

impl<S> CallLayer<S> {
    pub(super) fn new(
        inner: S,
        admission: Admission,
        clients: Clients,
        limits: &Limits,
        metrics: &Metrics,
    ) -> Self {
        let meters = Arc::new(Meters::new(
            METHODS.map(|(name, kind)| (name, kind == Kind::Stream)),
            metrics,
        ));
        Self { inner, admission, clients, limit: limits.request_timeout, meters }
    }

    /// Admits a call of an identified caller, or returns why not.
    fn enter(
        &self,
        kind: Kind,
        record: &Record,
        request: &Request<Body>,
    ) -> Result<CallContext, Error> {
        let deadline = Deadline::new(request.headers(), self.limit);
        self.admit(kind, record, deadline)?;
        let peer = Peer::of(request.extensions());
        let identity = self.clients.identify(request.headers(), &peer)?;
        record.caller(&identity.caller.name);
        Ok(CallContext { deadline, identity, record: record.clone(), leaving: peer.leaving })
    }

    fn admit(&self, kind: Kind, record: &Record, deadline: Deadline) -> Result<(), Error> {
        if deadline.answer <= Instant::now() {
            return Err(out_of_time());
        }
        match kind {
            Kind::Answer => record.hold(self.admission.call()?),
            Kind::Stream => record.hold(self.admission.watch()?),
            Kind::Unknown => {}
        }
        Ok(())
    }
}

impl<S: NamedService> NamedService for CallLayer<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for CallLayer<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + NamedService,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let (name, kind) = method(S::NAME, request.uri().path());
        let record = Record::new(name, kind == Kind::Stream, request.headers(), &self.meters);
        if !speaks_grpc(request.headers()) {
            let message = "the content-type is not application/grpc";
            let _ = record.fail(&Error::new(ErrorReason::InvalidRequest, message));
            return Box::pin(async { Ok(unsupported()) });
        }
        let context = match self.enter(kind, &record, &request) {
            Ok(context) => context,
            Err(error) => return Box::pin(async move { Ok(record.fail(&error).into_http()) }),
        };
        let deadline = context.deadline;
        // A message itself says whether it is compressed. Short ones are not, even where the client
        // is set to compress, but tonic would refuse them because of the header.
        let compression = request.headers_mut().remove(ENCODING).is_some();
        request.extensions_mut().insert(context);
        let call = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        Box::pin(async move {
            let span = record.span();
            let answer = match span.within(timeout_at(deadline.answer + GRACE, call)).await {
                Ok(Ok(Ok(answer))) => answer,
                Ok(Err(_panic)) => {
                    record.fail(&Error::internal("the handler panicked")).into_http()
                }
                Err(_elapsed) => record.fail(&out_of_time()).into_http(),
            };
            let mut answer = explained(answer, kind, compression, &record);
            // The call keeps its permits until its caller has read the answer.
            answer.extensions_mut().insert(Outstanding::new(move || refusal(&record)));
            Ok(answer)
        })
    }
}

/// The method of the service that a path names.
fn method(service: &str, path: &str) -> (&'static str, Kind) {
    let name = path.strip_prefix('/').and_then(|path| path.strip_prefix(service));
    let name = name.and_then(|name| name.strip_prefix('/'));
    let known = METHODS.into_iter().find(|(known, _)| name == Some(*known));
    known.unwrap_or(("", Kind::Unknown))
}

/// The trailers of an answer that exceeds the memory budget.
fn refusal(record: &Record) -> HeaderMap {
    let message = "this server holds too many answers that their callers have not read; read the \
                   answers, and retry later";
    let error = Error::new(ErrorReason::ServerOverloaded, message).retry_after(RETRY);
    let mut trailers = HeaderMap::new();
    // The text is plain ASCII, so this cannot fail.
    let _ = record.fail(&error).add_header(&mut trailers);
    trailers
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
    kind: Kind,
    compression: bool,
    record: &Record,
) -> Response<Body> {
    let headers = answer.headers();
    if headers.contains_key("grpc-status-details-bin") {
        return answer;
    }
    match Status::from_header_map(headers).map(|status| (status.code(), status)) {
        // The outcome of a stream is known at its end.
        None if kind == Kind::Stream => {}
        None | Some((Code::Ok, _)) => record.succeed(),
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
            let _ = record.fail(&unread(code)).add_header(answer.headers_mut());
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
    use futures_util::future;

    use super::*;

    /// A service that panics, or never answers.
    #[derive(Clone)]
    struct Bad {
        panics: bool,
    }

    impl NamedService for Bad {
        const NAME: &'static str = "orderquery.v1.OrderService";
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
    async fn call(calls: &mut CallLayer<Bad>, method: &str) -> String {
        let path = format!("/orderquery.v1.OrderService/{method}");
        let request = Request::post(path).header("content-type", "application/grpc");
        let answer = calls.call(request.body(Body::empty()).unwrap()).await.unwrap();
        answer.headers()["grpc-status"].to_str().unwrap().to_owned()
    }

    fn calls(panics: bool) -> CallLayer<Bad> {
        let request_timeout = Duration::from_millis(1);
        let limits = Limits { request_timeout, max_in_flight: 1, max_watches: 1 };
        let metrics = Metrics::default();
        let admission = Admission::new(&limits, &metrics);
        CallLayer::new(Bad { panics }, admission, Clients::default(), &limits, &metrics)
    }

    #[tokio::test]
    async fn a_call_that_panics_or_hangs_releases_its_permit() {
        for (panics, status) in [(true, Code::Internal), (false, Code::DeadlineExceeded)] {
            let mut calls = calls(panics);
            for method in ["GetOrder", "BatchGetOrders", "WatchOrder"].repeat(2) {
                let expected = (status as i32).to_string();
                assert_eq!(call(&mut calls, method).await, expected, "{method}");
            }
        }
    }

    #[tokio::test]
    async fn a_dropped_call_releases_its_permit() {
        let mut calls = calls(false);
        for _ in 0..2 {
            assert_eq!(call(&mut calls, "GetOrder").now_or_never(), None);
        }
    }
}
