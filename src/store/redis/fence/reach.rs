//! How far a replica's calls can reach. Used by the fence: each member announces it before it makes them.

use std::time::Duration;

use super::super::scripts::millis;

/// The fewest calls for one order that a replica announces: each further announcement takes a beat.
const LEAST_CALLS: u64 = 2;

/// How far a replica's calls can reach: what counts for it if it is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::store::redis) struct Reach {
    /// The longest that a call may be in flight, in milliseconds.
    pub(super) flight: u64,
    /// The most calls for one order in a day.
    pub(super) most: u64,
}

impl Reach {
    /// The reach of a call, which is one of `calls` for its order in a day.
    pub(in crate::store::redis) fn of(in_flight: Duration, calls: usize) -> Self {
        let calls = u64::try_from(calls).unwrap_or(u64::MAX).checked_next_power_of_two();
        Self { flight: millis(in_flight), most: calls.unwrap_or(u64::MAX).max(LEAST_CALLS) }
    }

    /// Includes the other one. Returns whether that changed anything.
    pub(super) fn grow(&mut self, other: Self) -> bool {
        let before = *self;
        self.flight = self.flight.max(other.flight);
        self.most = self.most.max(other.most);
        *self != before
    }
}
