//! What a call carries from the layer to its handler: its deadline, its caller, its record and the
//! signal that its connection ends. Used by `grpc` only.
//!
//! tonic's own timer answers CANCELLED, and a malformed header sets no timer, so the deadline's
//! header is read here.
#![allow(clippy::disallowed_types, reason = "one of the modules of tonic::Status")]

use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

use super::auth::Identity;
use super::record::SharedRecord;
use super::status;
use crate::error::Error;
use crate::pb::ErrorReason;

/// The context of a call; [`CallLayer`](super::layer::CallLayer) puts it into every request.
#[derive(Clone)]
pub(super) struct CallContext {
    pub(super) deadline: Deadline,
    pub(super) identity: Identity,
    pub(super) record: SharedRecord,
    /// Canceled when the connection is about to end.
    pub(super) leaving: CancellationToken,
}

impl CallContext {
    /// Splits a request into its context and its message.
    ///
    /// # Errors
    /// `INTERNAL` for a request that has not passed the layer: nothing has checked who sent it.
    pub(super) fn of<T>(request: Request<T>) -> Result<(Self, T), Status> {
        let (_, mut extensions, message) = request.into_parts();
        let context = extensions.remove::<Self>();
        let missing =
            || status::status(&Error::internal("a request has not passed the call layer"));
        Ok((context.ok_or_else(missing)?, message))
    }
}

/// When a call must be answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    /// When the answer must be on its way, or the stream must have begun.
    pub(super) answer: Instant,
    /// When a stream must end; `None` where its caller sets no deadline.
    pub(super) stream: Option<Instant>,
}

impl Deadline {
    /// The deadline of a call that arrived then: its caller's, but at most `limit` for the answer.
    pub(super) fn new(headers: &HeaderMap, arrival: Instant, limit: Duration) -> Self {
        let time = grpc_timeout(headers);
        Self {
            answer: arrival + time.map_or(limit, |time| time.min(limit)),
            // A time too far away for an `Instant` counts as none.
            stream: time.and_then(|time| arrival.checked_add(time)),
        }
    }
}

/// The error of a call that ran out of time, where nothing more is known about it.
pub(super) fn out_of_time() -> Error {
    let message = "the call's deadline passed before it was answered; retry with a longer deadline";
    Error::new(ErrorReason::DeadlineExceeded, message)
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
    fn grpc_timeouts_are_parsed() {
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
