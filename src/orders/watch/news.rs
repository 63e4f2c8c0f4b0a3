//! What a poller has learned of its order, and whether its watchers must hear of it. Used by `watch`.

use std::sync::Arc;
use std::time::SystemTime;

use crate::error::Error;
use crate::orders::freshness::reaches;
use crate::pb::{Order, Source};
use crate::store::newer;

/// The latest news of a poller. Its watchers share the state.
#[derive(Clone, Default)]
pub(super) struct News {
    pub(super) latest: Option<Latest>,
    /// A watcher waits for a state observed at this time or later.
    pub(super) awaited: Option<SystemTime>,
    /// Why no more updates follow.
    pub(super) end: Option<Error>,
}

/// The latest state of an order.
#[derive(Clone)]
pub(super) struct Latest {
    pub(super) state: Arc<Order>,
    pub(super) source: Source,
    /// Whether this process asked the vendor for it: then its time is of our own clock.
    pub(super) asked_here: bool,
}

impl News {
    /// Adopts the state unless it is older. Returns true if watchers must be notified.
    pub(super) fn learn(
        &mut self,
        state: &Order,
        source: Source,
        asked_here: bool,
        now: SystemTime,
    ) -> bool {
        let known = self.latest.as_ref().map(|latest| &latest.state);
        if known.is_some_and(|known| !newer(state, known, now)) {
            return false;
        }
        // Who waits for a later state needs to hear of an unchanged one too.
        let matters = self.awaited.is_some() || known.is_none_or(|known| !same(known, state));
        self.latest = Some(Latest { state: Arc::new(state.clone()), source, asked_here });
        self.awaited = self.awaited.filter(|earliest| !self.reaches(*earliest, now));
        matters
    }

    /// Awaits a state observed at that time or later. Returns true if the latest one is older.
    pub(super) fn wait_for(&mut self, earliest: SystemTime, now: SystemTime) -> bool {
        let waits = !self.reaches(earliest, now);
        if waits {
            self.awaited = self.awaited.max(Some(earliest));
        }
        waits
    }

    /// Whether the latest state was observed at that time or later.
    fn reaches(&self, earliest: SystemTime, now: SystemTime) -> bool {
        let latest = self.latest.as_ref();
        latest.is_some_and(|latest| reaches(latest.state.as_ref().into(), earliest, now))
    }
}

/// Whether two states differ only in when they were observed.
pub(super) fn same(one: &Order, other: &Order) -> bool {
    Order { observe_time: None, ..one.clone() } == Order { observe_time: None, ..other.clone() }
}
