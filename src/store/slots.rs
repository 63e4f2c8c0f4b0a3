//! The arithmetic of limits: the slots of a window, and the pause of an account. Used by the ledger of
//! the stores that hold their state in this process.
//!
//! Why not a token bucket, or a window on the sending side: a vendor counts arrivals. A call uses a
//! slot before it is sent; the slot becomes free one period after the *latest* time at which the vendor
//! can have counted the call. When the answer arrives, that time is known to be past, and the slot
//! becomes free one period later. So no span of one period ever sees more calls than the limit,
//! whatever was delayed on its way.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::ends::{self, LONGEST_PAUSE};
use super::{Call, Window};

/// The slots of one window: when each becomes free, by the mark of its call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Slots(BTreeMap<String, SystemTime>);

impl Slots {
    /// How long the window stays full for a call; `None` if it has a free slot. A slot that the call
    /// itself holds does not count against it.
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
        // Waiting never satisfies a limit of 0; the configuration rejects it.
        let free_at = taken.get(first_to_wait_for)?;
        Some(free_at.duration_since(now).unwrap_or_default())
    }

    /// When the slot that a call reserves now becomes free. A slot that it already holds never becomes
    /// free earlier than was recorded before.
    pub(super) fn taken_until(&self, window: &Window, call: &Call, now: SystemTime) -> SystemTime {
        let free_at = now + call.in_flight + window.period;
        self.0.get(&call.mark()).map_or(free_at, |held| free_at.max(*held))
    }

    /// When the call's slot becomes free once its answer has arrived; `None` if that changes nothing.
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

    /// The calls whose slots have become free.
    pub(super) fn expired(&self, now: SystemTime) -> impl Iterator<Item = &String> {
        self.0.iter().filter(move |(_, free_at)| **free_at <= now).map(|(mark, _)| mark)
    }

    /// The calls whose slots become free later than is possible in a window of that period: the latest
    /// possible time, and how far the slot is beyond it.
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

    /// Whether every slot is free.
    pub(super) fn is_expired(&self, now: SystemTime) -> bool {
        self.0.values().all(|free_at| *free_at <= now)
    }

    /// The calls that hold a slot, and until when.
    pub(super) fn used(&self, now: SystemTime) -> impl Iterator<Item = (&String, SystemTime)> {
        self.0.iter().filter(move |(_, at)| **at > now).map(|(mark, free_at)| (mark, *free_at))
    }

    /// When each used slot becomes free, earliest first.
    pub(super) fn spent(&self, now: SystemTime) -> Vec<SystemTime> {
        sorted(self.0.values().copied(), now)
    }

    /// Records until when a call holds a slot, or that it holds none. Returns the previous record.
    pub(super) fn set(&mut self, mark: String, free_at: Option<SystemTime>) -> Option<SystemTime> {
        match free_at {
            Some(free_at) => self.0.insert(mark, free_at),
            None => self.0.remove(&mark),
        }
    }

    /// Whether nothing is recorded.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The times in the future, earliest first.
fn sorted(times: impl Iterator<Item = SystemTime>, now: SystemTime) -> Vec<SystemTime> {
    let mut times: Vec<_> = times.filter(|time| *time > now).collect();
    times.sort_unstable();
    times
}

/// The pause of an account whose vendor reports too many calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pause {
    /// When the pause ends, or admits its next probe.
    pub(super) until: SystemTime,
    /// How long to wait after each probe; zero if only the time ends the pause.
    pub(super) probe_every: Duration,
    /// Whether a probe was admitted since the pause began.
    pub(super) probing: bool,
}

impl Pause {
    /// Creates a pause that starts now.
    pub(super) fn new(wait: Duration, probe: bool, now: SystemTime) -> Self {
        let wait = wait.min(LONGEST_PAUSE);
        let probe_every = if probe { wait } else { Duration::ZERO };
        Self { until: now + wait, probe_every, probing: false }
    }

    /// The longest time that it can last from now.
    pub(super) fn longest(self) -> Duration {
        if self.probe_every.is_zero() { LONGEST_PAUSE } else { self.probe_every }
    }

    /// Admits a call. Returns the pause that then remains, if any: the call may be its probe.
    ///
    /// # Errors
    /// How long the account stays paused.
    pub(super) fn admit(self, now: SystemTime) -> Result<Option<Self>, Duration> {
        match self.until.duration_since(now) {
            Ok(left) if !left.is_zero() => Err(left),
            _ if self.probe_every.is_zero() => Ok(None),
            _ => Ok(Some(Self { until: now + self.probe_every, probing: true, ..self })),
        }
    }
}
