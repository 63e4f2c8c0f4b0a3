//! What several scripts are given in one form: a call's lease, the longest that a slot can be taken, and a
//! state. Used by the store.

use std::time::Duration;

use prost_types::Timestamp;

use super::super::Lease;
use super::super::ends::{CLOCKS_DIFFER, LONGEST_FLIGHT, LONGEST_PERIOD};
use super::scripts::{Input, millis};
use crate::pb::Order;

/// How long an order that is not terminal is stored.
const OPEN_ORDER_LIFE: Duration = Duration::from_hours(30 * 24);

impl Input {
    /// Adds a lease: its key, owner and life; an empty owner if there is none.
    pub(super) fn lease(self, lease: Option<&Lease>) -> Self {
        match lease {
            Some(Lease { key, owner, life, .. }) => {
                self.key("lease", key).argument(owner).argument(millis(*life))
            }
            None => self.key("lease", &"").argument("").argument(0),
        }
    }

    /// Adds the longest times that a slot can be used: its period, and its call's flight time.
    pub(super) fn longest(self) -> Self {
        self.argument(millis(LONGEST_PERIOD)).argument(millis(LONGEST_FLIGHT))
    }

    /// Adds a state to put; empty bytes if there is none.
    pub(super) fn state(self, state: Option<&Order>) -> Self {
        let none = Order::default();
        let bytes = state.map(prost::Message::encode_to_vec).unwrap_or_default();
        let state = state.unwrap_or(&none);
        self.argument(sortable(state.observe_time))
            .argument(u8::from(state.terminal))
            .argument(bytes)
            .argument(millis(OPEN_ORDER_LIFE))
            .argument(millis(CLOCKS_DIFFER))
    }
}

/// When a state was observed, as digits whose text order is the time order: Lua's numbers could not
/// hold the time.
pub(super) fn sortable(time: Option<Timestamp>) -> String {
    let (seconds, nanos) = time.map_or((i64::MIN, i32::MIN), |time| (time.seconds, time.nanos));
    format!("{:020}{:010}", seconds.abs_diff(i64::MIN), nanos.abs_diff(i32::MIN))
}
