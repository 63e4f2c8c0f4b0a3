//! The arithmetic of limits: slots of a window, and an account that is closed. Used by the stores
//! that hold them in this process.
//!
//! Why no token bucket and no window on the sending side: a vendor counts arrivals. A call takes a
//! slot before it is sent, free again a period after the *latest* time at which the vendor can
//! have counted it; when its answer comes, that time is known to be past, and the slot is free a
//! period later. So whatever was delayed on its way, no span of a period sees more than the limit.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::{Call, Window};

/// The slots of one window: when each is free again, by the call that took it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Slots(BTreeMap<String, SystemTime>);

impl Slots {
    /// How long the window is full; `None` where there is room. Forgets what is free again.
    pub(super) fn full_for(&mut self, window: &Window, now: SystemTime) -> Option<Duration> {
        self.forget_free(now);
        let taken = self.freed();
        let limit = usize::try_from(window.limit).unwrap_or(usize::MAX);
        let first_to_wait_for = taken.len().checked_sub(limit)?;
        // A limit of 0 is never kept by waiting; the configuration refuses it.
        let free_at = taken.get(first_to_wait_for)?;
        Some(free_at.duration_since(now).unwrap_or_default())
    }

    /// Forgets the slots that are free again.
    pub(super) fn forget_free(&mut self, now: SystemTime) {
        self.0.retain(|_, free_at| *free_at > now);
    }

    /// Takes a slot.
    pub(super) fn take(&mut self, call: &Call, window: &Window, now: SystemTime) {
        self.0.insert(call.id.clone(), now + call.in_flight + window.period);
    }

    /// Notes that the call's answer has come.
    pub(super) fn settle(&mut self, call: &Call, window: &Window, now: SystemTime) {
        if let Some(free_at) = self.0.get_mut(&call.id) {
            *free_at = (*free_at).min(now + window.period);
        }
    }

    /// Gives a slot back.
    pub(super) fn give_back(&mut self, call: &Call) {
        self.0.remove(&call.id);
    }

    /// When each slot is free again, earliest first.
    pub(super) fn freed(&self) -> Vec<SystemTime> {
        let mut times: Vec<_> = self.0.values().copied().collect();
        times.sort_unstable();
        times
    }

    /// Whether nothing is taken.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// An account that its vendor closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Closure {
    /// Until when.
    pub(super) until: SystemTime,
    /// How long to wait after each probe; zero where the time alone opens it.
    pub(super) probe_every: Duration,
    /// Whether a probe was let through since.
    pub(super) probing: bool,
}

impl Closure {
    /// Closed from now on.
    pub(super) fn new(wait: Duration, probe: bool, now: SystemTime) -> Self {
        let probe_every = if probe { wait } else { Duration::ZERO };
        Self { until: now + wait, probe_every, probing: false }
    }

    /// How long it is closed; `None` for the call that may go through, which then is the probe.
    pub(super) fn closed_for(&mut self, now: SystemTime) -> Option<Duration> {
        match self.until.duration_since(now) {
            Ok(left) if !left.is_zero() => Some(left),
            _ => {
                self.until = now + self.probe_every;
                self.probing = !self.probe_every.is_zero();
                None
            }
        }
    }
}
