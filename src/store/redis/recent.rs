//! The orders that this process has kept or recalled lately: they are known without asking the
//! server, and while it is gone. Used by the store alone.

use std::time::SystemTime;

use moka::sync::Cache;
use prost::Message as _;

use crate::pb::Order;
use crate::store::newer;

/// How many bytes of orders are held; the ones asked for least go first. The server has them all.
const BYTES: u64 = 64 * 1024 * 1024;

/// Orders by their key.
pub(super) struct Recent(Cache<String, Order>);

impl Recent {
    pub(super) fn new() -> Self {
        Self(Cache::builder().max_capacity(BYTES).weigher(weight).build())
    }

    pub(super) fn get(&self, order: &str) -> Option<Order> {
        self.0.get(order)
    }

    /// Notes what was asked to be kept, by the rule of all stores. What is known then.
    pub(super) fn keep(&self, order: &str, state: Order, now: SystemTime) -> Order {
        self.note(order, state, |state, known| newer(state, known, now))
    }

    /// Notes what the server has kept. Its word on what is final counts; what it says of other
    /// orders may be late, or it may have lost what is known here. What is known then.
    pub(super) fn learn(&self, order: &str, state: Order, now: SystemTime) -> Order {
        self.note(order, state, |state, known| {
            newer(state, known, now) || state.terminal && !known.terminal
        })
    }

    fn note(&self, order: &str, state: Order, wins: impl Fn(&Order, &Order) -> bool) -> Order {
        let entry = self.0.entry_by_ref(order).and_upsert_with(|known| match known {
            Some(known) if !wins(&state, known.value()) => known.into_value(),
            _ => state,
        });
        entry.into_value()
    }
}

/// About how many bytes an order takes.
#[allow(clippy::ptr_arg, reason = "the cache hands it over so")]
fn weight(key: &String, state: &Order) -> u32 {
    let bytes = key.len() + size_of::<Order>() + state.encoded_len();
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
