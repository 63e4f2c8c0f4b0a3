//! The orders that this process has kept or recalled lately: they are known without asking the
//! server, and while it is gone. Used by the store alone.

use std::time::SystemTime;

use crate::pb::Order;
use crate::store::cache::Cache;
use crate::store::newer;

/// Orders by their key. The server has them all.
pub(super) struct Recent(pub(super) Cache);

impl Recent {
    pub(super) fn get(&self, order: &str) -> Option<Order> {
        self.0.get(order)
    }

    /// Notes what was asked to be kept, by the rule of all stores. What is known then.
    pub(super) fn keep(&self, order: &str, state: Order, now: SystemTime) -> Order {
        self.0.update(order, state, |state, known| newer(state, known, now))
    }

    /// Notes what the server has kept. Its word on what is final counts; what it says of other
    /// orders may be late, or it may have lost what is known here. What is known then.
    pub(super) fn learn(&self, order: &str, state: Order, now: SystemTime) -> Order {
        self.0.update(order, state, |state, known| {
            newer(state, known, now) || state.terminal && !known.terminal
        })
    }
}
