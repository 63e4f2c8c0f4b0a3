//! Detects stored times that cannot be true. Stored times outlive the clock that wrote them: if that
//! clock was ahead and was corrected since, slots, pauses and leases would last for as long as it was
//! ahead. No rule lasts longer than the bounds here, so a time beyond them is wrong and is cut to them.
//! Used by the stores.
//!
//! A cut admits no call too early: it is made after the call was sent, and the whole rule applies again
//! from then on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use crate::pb::Order;

/// The longest period of a window.
pub(super) const LONGEST_PERIOD: Duration = Duration::from_hours(24);

/// The longest time a call may be in flight: five times the longest `timeout`, plus the margin that
/// `orders` adds. Used for slots that do not state it themselves.
pub(super) const LONGEST_FLIGHT: Duration = Duration::from_mins(26);

/// The longest pause of an account.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_hours(1);

/// The longest lifetime of a token.
pub(super) const LONGEST_TOKEN: Duration = Duration::from_hours(24);

/// How far the clocks of processes that share a store may differ, before a time written by one counts
/// as a future time for another.
pub(crate) const CLOCKS_DIFFER: Duration = Duration::from_mins(2);

/// Smaller differences are not reported: clocks are corrected by less all the time, and times are
/// rounded.
const TOLERANCE: Duration = Duration::from_secs(1);

/// How far `end` lies beyond `longest` from now; `None` if `end` can be true.
pub(super) fn beyond(end: SystemTime, longest: Duration, now: SystemTime) -> Option<Duration> {
    end.duration_since(now + longest).ok().filter(|beyond| *beyond > TOLERANCE)
}

/// How far in the future an order seems to be observed; zero if it is within the allowed clock
/// difference.
pub(super) fn ahead(order: &Order, now: SystemTime) -> Duration {
    let observed = order.observe_time.and_then(|time| SystemTime::try_from(time).ok());
    let ahead = observed.and_then(|observed| observed.duration_since(now).ok());
    ahead.filter(|ahead| *ahead > CLOCKS_DIFFER).unwrap_or_default()
}

/// How long the call behind a slot may be in flight: see [`Call::mark`].
///
/// [`Call::mark`]: super::Call::mark
pub(super) fn flight(mark: &str) -> Duration {
    let millis = mark.rsplit_once('~').and_then(|(_, digits)| digits.parse().ok());
    millis.map_or(LONGEST_FLIGHT, Duration::from_millis)
}

/// Whether the clock warning was already logged.
#[derive(Debug, Default)]
pub(super) struct Ahead(AtomicBool);

impl Ahead {
    /// Logs, only once, which clock was ahead and by how much at least.
    pub(super) fn report(&self, clock: &'static str, by: Duration) {
        if !by.is_zero() && !self.0.swap(true, Ordering::Relaxed) {
            let seconds = by.as_secs();
            tracing::warn!(
                clock,
                seconds,
                "the store holds impossible times: a clock was ahead when they were written; \
                 limits, pauses, leases and tokens are shortened to what the rules allow"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_end_past_its_rule_is_clamped() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        let seconds = Duration::from_secs;
        for (end, expected) in [
            (now - seconds(9), None),
            (now + seconds(60), None),
            (now + seconds(61), None),
            (now + Duration::from_millis(61_001), Some(Duration::from_millis(1001))),
            (now + seconds(3660), Some(seconds(3600))),
        ] {
            assert_eq!(beyond(end, seconds(60), now), expected);
        }
    }

    #[test]
    fn a_slot_states_its_time_in_flight_or_gets_the_longest() {
        for (mark, expected) in [
            ("1f-3~30000", Duration::from_secs(30)),
            ("a~b~0", Duration::ZERO),
            // Written by a version that did not state it, or not written by us.
            ("1f-3", LONGEST_FLIGHT),
            ("1f-3~", LONGEST_FLIGHT),
            ("1f-3~soon", LONGEST_FLIGHT),
        ] {
            assert_eq!(flight(mark), expected, "{mark}");
        }
    }
}
