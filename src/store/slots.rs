//! The arithmetic of limits: slots of a window, and the pause of an account. Used by the ledger
//! of the stores that hold them in this process.
//!
//! Why no token bucket and no window on the sending side: a vendor counts arrivals. A call takes a
//! slot before it is sent, free again a period after the *latest* time at which the vendor can
//! have counted it; when its answer comes, that time is known to be past, and the slot is free a
//! period later. So whatever was delayed on its way, no span of a period sees more than the limit.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::ends::{self, LONGEST_PAUSE};
use super::{Call, Window};

/// The slots of one window: when each is free again, by the mark of the call that took it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Slots(BTreeMap<String, SystemTime>);

impl Slots {
    /// How long the window is full for a call; `None` where there is room. A slot that the call
    /// holds itself does not stand in its way.
    pub(super) fn full_for(
        &self,
        window: &Window,
        mark: &str,
        now: SystemTime,
    ) -> Option<Duration> {
        let others = self.0.iter().filter(|(other, _)| *other != mark);
        let taken = sorted(others.map(|(_, free_at)| *free_at), now);
        let limit = usize::try_from(window.max_calls).unwrap_or(usize::MAX);
        let first_to_wait_for = taken.len().checked_sub(limit)?;
        // A limit of 0 is never kept by waiting; the configuration refuses it.
        let free_at = taken.get(first_to_wait_for)?;
        Some(free_at.duration_since(now).unwrap_or_default())
    }

    /// When the slot that a call takes now is free again. One that it holds already is never
    /// free earlier than was said.
    pub(super) fn taken_until(&self, window: &Window, call: &Call, now: SystemTime) -> SystemTime {
        let free_at = now + call.in_flight + window.period;
        self.0.get(&call.mark()).map_or(free_at, |held| free_at.max(*held))
    }

    /// When the call's slot is free again once its answer has come; `None` where that changes
    /// nothing.
    pub(super) fn settled(
        &self,
        window: &Window,
        mark: &str,
        now: SystemTime,
    ) -> Option<SystemTime> {
        let free_at = now + window.period;
        self.0.get(mark).is_some_and(|held| free_at < *held).then_some(free_at)
    }

    /// Whether the call holds a slot.
    pub(super) fn holds(&self, mark: &str, now: SystemTime) -> bool {
        self.0.get(mark).is_some_and(|free_at| *free_at > now)
    }

    /// The calls whose slots are free again.
    pub(super) fn expired(&self, now: SystemTime) -> impl Iterator<Item = &String> {
        self.0.iter().filter(move |(_, free_at)| **free_at <= now).map(|(mark, _)| mark)
    }

    /// The calls whose slots are free later than can be true in a window of that period: when they
    /// are free at the latest, and how far beyond that they are now.
    pub(super) fn beyond(
        &self,
        period: Duration,
        now: SystemTime,
    ) -> impl Iterator<Item = (&String, SystemTime, Duration)> {
        self.0.iter().filter_map(move |(mark, free_at)| {
            let longest = period + ends::flight(mark);
            let beyond = ends::beyond(*free_at, longest, now)?;
            Some((mark, now + longest, beyond))
        })
    }

    /// Whether every slot is free again.
    pub(super) fn is_expired(&self, now: SystemTime) -> bool {
        self.0.values().all(|free_at| *free_at <= now)
    }

    /// When each taken slot is free again, earliest first.
    pub(super) fn spent(&self, now: SystemTime) -> Vec<SystemTime> {
        sorted(self.0.values().copied(), now)
    }

    /// Notes until when a call holds a slot, or that it holds none. What was noted before.
    pub(super) fn set(&mut self, mark: String, free_at: Option<SystemTime>) -> Option<SystemTime> {
        match free_at {
            Some(free_at) => self.0.insert(mark, free_at),
            None => self.0.remove(&mark),
        }
    }

    /// Whether nothing is noted.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The times that are yet to come, earliest first.
fn sorted(times: impl Iterator<Item = SystemTime>, now: SystemTime) -> Vec<SystemTime> {
    let mut times: Vec<_> = times.filter(|time| *time > now).collect();
    times.sort_unstable();
    times
}

/// The pause of an account whose vendor says that it is asked too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pause {
    /// Until when.
    pub(super) until: SystemTime,
    /// How long to wait after each probe; zero where the time alone ends it.
    pub(super) probe_every: Duration,
    /// Whether a probe was admitted since.
    pub(super) probing: bool,
}

impl Pause {
    /// A pause from now on.
    pub(super) fn new(wait: Duration, probe: bool, now: SystemTime) -> Self {
        let wait = wait.min(LONGEST_PAUSE);
        let probe_every = if probe { wait } else { Duration::ZERO };
        Self { until: now + wait, probe_every, probing: false }
    }

    /// The longest that it can last from now on.
    pub(super) fn longest(self) -> Duration {
        if self.probe_every.is_zero() { LONGEST_PAUSE } else { self.probe_every }
    }

    /// Admits a call, and says what is left of the pause then: the call may be its probe.
    ///
    /// # Errors
    /// For how long the account is still paused.
    pub(super) fn admit(self, now: SystemTime) -> Result<Option<Self>, Duration> {
        match self.until.duration_since(now) {
            Ok(left) if !left.is_zero() => Err(left),
            _ if self.probe_every.is_zero() => Ok(None),
            _ => Ok(Some(Self { until: now + self.probe_every, probing: true, ..self })),
        }
    }
}
