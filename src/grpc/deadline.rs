//! The time that a call has, and what becomes of one that uses it up or panics. Wrapped around
//! the service by `grpc`: tonic's own timer answers CANCELLED, and none where the header is
//! malformed.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use tokio::time::{Instant, timeout_at};
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use super::status;
use crate::error::Error;
use crate::pb::ErrorReason;

/// What may be told in the log of a call's path, which its caller writes.
const METHODS: [&str; 3] = ["/GetOrder", "/BatchGetOrders", "/WatchOrder"];

/// How much longer than its deadline a call is waited for: handlers know more of what they were
/// doing, and answer for themselves.
const GRACE: Duration = Duration::from_millis(50);

/// When the answer must be on its way; put into every request by [`Bounded`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(Instant);

impl Deadline {
    pub(super) fn of<T>(request: &tonic::Request<T>) -> Instant {
        // Without the layer nobody waits: that cannot be overlooked.
        request.extensions().get().map_or_else(Instant::now, |Self(instant)| *instant)
    }
}

/// A service whose calls end by their deadline, whatever they do.
#[derive(Clone)]
pub struct Bounded<S> {
    inner: S,
    limit: Duration,
}

impl<S> Bounded<S> {
    /// Calls without a deadline have this long, and none has longer.
    pub(super) fn new(inner: S, limit: Duration) -> Self {
        Self { inner, limit }
    }
}

impl<S: NamedService> NamedService for Bounded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Bounded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let time = grpc_timeout(request.headers()).map_or(self.limit, |time| time.min(self.limit));
        let path = request.uri().path().to_owned();
        let deadline = Instant::now() + time;
        request.extensions_mut().insert(Deadline(deadline));
        if time.is_zero() {
            return Box::pin(async move { Ok(refuse(&path, &out_of_time())) });
        }
        let call = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        Box::pin(async move {
            match timeout_at(deadline + GRACE, call).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_panic)) => Ok(refuse(&path, &Error::internal("the handler panicked"))),
                Err(_elapsed) => Ok(refuse(&path, &out_of_time())),
            }
        })
    }
}

fn out_of_time() -> Error {
    let message = "the call's deadline passed before it was answered; ask again, with more time";
    Error::new(ErrorReason::DeadlineExceeded, message)
}

/// Logs and answers that a call of this path does not come to its handler's answer.
pub(super) fn refuse(path: &str, error: &Error) -> Response<Body> {
    let method = METHODS.iter().find(|method| path.ends_with(**method)).unwrap_or(&"");
    status::fail(method.trim_start_matches('/'), "", error).into_http()
}

/// The caller's `grpc-timeout`: one to eight digits and a unit. A malformed one counts as none.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        let read = |text: &str| {
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-timeout"),
                text.parse().unwrap(),
            )]);
            grpc_timeout(&headers)
        };
        assert_eq!(read("200m"), Some(Duration::from_millis(200)));
        assert_eq!(read("1H"), Some(Duration::from_hours(1)));
        assert_eq!(read("2M"), Some(Duration::from_mins(2)));
        assert_eq!(read("3S"), Some(Duration::from_secs(3)));
        assert_eq!(read("0u"), Some(Duration::ZERO));
        assert_eq!(read("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for malformed in ["", "S", "5", "5s", "-5S", "+5S", "1.5S", "123456789S", " 5S", "5 S"] {
            assert_eq!(read(malformed), None, "{malformed:?}");
        }
    }
}
