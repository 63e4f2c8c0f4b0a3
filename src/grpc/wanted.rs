//! What a request wants of its answers, read from the wire. Used by `grpc`.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;

use crate::error::Error;
use crate::orders::{MinObserveTime, Orders, Wanted};

/// The first and the last second of a protobuf timestamp: the years 1 to 9999.
const FIRST_SECOND: i64 = -62_135_596_800;
const LAST_SECOND: i64 = 253_402_300_799;

/// Checks what `GetOrder` and `BatchGetOrders` want.
pub(super) fn wanted(
    orders: &Orders,
    max_age: Option<prost_types::Duration>,
    min_observe_time: Option<Timestamp>,
) -> Result<Wanted, Error> {
    let max_age = max_age_of(max_age)?;
    Ok(Wanted { max_age, min_observe_time: min_observe_time_of(orders, min_observe_time)? })
}

/// The oldest answer that the caller accepts. The bounds are protobuf's own: prost's conversion
/// panics far outside them.
fn max_age_of(max_age: Option<prost_types::Duration>) -> Result<Option<Duration>, Error> {
    let Some(prost_types::Duration { seconds, nanos }) = max_age else { return Ok(None) };
    let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds <= 315_576_000_000);
    let nanos = u32::try_from(nanos).ok().filter(|nanos| *nanos <= 999_999_999);
    let max_age = seconds.zip(nanos).map(|(seconds, nanos)| Duration::new(seconds, nanos));
    let message = "max_age must be a duration of 0 to 10,000 years";
    max_age.map(Some).ok_or_else(|| Error::invalid("max_age", message))
}

/// The time at which an answer must have been observed. The bounds are protobuf's own: prost's
/// conversion would move a time outside them.
pub(super) fn min_observe_time_of(
    orders: &Orders,
    time: Option<Timestamp>,
) -> Result<Option<MinObserveTime>, Error> {
    let Some(time) = time else { return Ok(None) };
    let is_valid = (FIRST_SECOND..=LAST_SECOND).contains(&time.seconds)
        && (0..=999_999_999).contains(&time.nanos);
    let time = Some(time).filter(|_| is_valid).and_then(|time| SystemTime::try_from(time).ok());
    let message = "min_observe_time must be a time in the years 1 to 9999";
    let time = time.ok_or_else(|| Error::invalid("min_observe_time", message))?;
    orders.min_observe_time(time).map(Some)
}
