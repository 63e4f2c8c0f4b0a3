//! How old an answer may be, and when asking again can return something new. Used by `orders`.

use std::time::{Duration, SystemTime};

use crate::accounts::calls_per_day;
use crate::pb::Order;
use crate::providers::Rules;
use crate::store::{CLOCKS_DIFFER, Encoded};

/// The upper bound of a freshness that grows with the day's calls.
const LONGEST: Duration = Duration::from_hours(6);

/// The maximum age of an answer if the caller sets none. Under a daily limit it grows with the used
/// calls, so that the day's calls last the whole day.
pub(super) fn default_max_age(rules: &Rules, spent: usize) -> Duration {
    if rules.calls_per_order_per_day.is_none() {
        return rules.freshness;
    }
    let doublings = u32::try_from(spent.saturating_sub(2)).unwrap_or(u32::MAX);
    let factor = 2_u32.checked_pow(doublings).unwrap_or(u32::MAX);
    rules.freshness.saturating_mul(factor).min(LONGEST.max(rules.freshness))
}

/// What the age of a state depends on.
#[derive(Clone, Copy)]
pub(super) struct Observation {
    /// Whether the state is terminal: then it never gets old.
    terminal: bool,
    /// When the state was observed.
    at: Option<SystemTime>,
}

impl From<&Order> for Observation {
    fn from(state: &Order) -> Self {
        Self { terminal: state.terminal, at: observed(state) }
    }
}

impl From<&Encoded> for Observation {
    fn from(state: &Encoded) -> Self {
        Self { terminal: state.terminal, at: state.observed }
    }
}

/// Whether the state is fresh enough for a question asked at that time. A state from the future comes
/// from a machine whose clock is ahead, so its age is unknown.
pub(super) fn is_young(
    state: Observation,
    max_age: Duration,
    arrival: SystemTime,
    now: SystemTime,
) -> bool {
    let fits = |observed| observed <= now && observed + max_age >= arrival;
    state.terminal || state.at.is_some_and(fits)
}

/// Whether the state was observed at that time or later. A terminal state does not change, so it
/// satisfies any time. A state further in the future than clocks may differ says nothing.
pub(super) fn reaches(state: Observation, min_observe_time: SystemTime, now: SystemTime) -> bool {
    let fits = |observed| observed >= min_observe_time && observed <= now + CLOCKS_DIFFER;
    state.terminal || state.at.is_some_and(fits)
}

/// When the state was observed.
pub(super) fn observed(state: &Order) -> Option<SystemTime> {
    state.observe_time.and_then(|time| SystemTime::try_from(time).ok())
}

/// When asking again without `max_age` can return something new; `None` for a terminal order. A state
/// that seems to be from the future counts as observed now.
pub(super) fn refresh_time(
    rules: &Rules,
    state: Observation,
    spent: &[SystemTime],
    now: SystemTime,
) -> Option<SystemTime> {
    let observed = state.at.filter(|_| !state.terminal)?.min(now);
    let limit = calls_per_day(rules, false).and_then(|limit| usize::try_from(limit).ok());
    let taken = spent.len();
    // Each slot that becomes free shortens the freshness and may allow a call.
    let times =
        (0..=taken).filter(|freed| limit.is_none_or(|limit| taken - freed < limit)).map(|freed| {
            let old = observed + default_max_age(rules, taken - freed);
            let slot = freed.checked_sub(1).and_then(|last| spent.get(last));
            slot.map_or(old, |free_at| old.max(*free_at))
        });
    times.min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Known;

    fn refresh(rules: &Rules, known: &Known, now: SystemTime) -> Option<SystemTime> {
        refresh_time(rules, known.state.as_ref()?.into(), &known.spent, now)
    }

    const RULES: Rules = Rules {
        freshness: Duration::from_mins(15),
        calls_per_minute: Some(200),
        calls_per_order_per_day: Some(10),
        longest_call: Duration::from_secs(10),
    };

    #[test]
    fn a_state_reaches_a_time_by_its_own_unless_it_is_terminal_or_from_the_future() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_hours(400_000);
        let (instant, second) = (Duration::from_nanos(1), Duration::from_secs(1));
        for (terminal, at, earliest, expected) in [
            (false, Some(now), now, true),
            (false, Some(now), now + instant, false),
            (false, Some(now + CLOCKS_DIFFER), now + second, true),
            // No clock that is right can have written it.
            (false, Some(now + CLOCKS_DIFFER + instant), now, false),
            (false, None, now, false),
            (true, None, now + CLOCKS_DIFFER, true),
            (true, Some(now - second), now, true),
        ] {
            let state = Observation { terminal, at };
            assert_eq!(reaches(state, earliest, now), expected, "{terminal} {at:?} {earliest:?}");
        }
    }

    #[test]
    fn freshness_grows_as_the_daily_limit_is_spent() {
        let minutes = |spent| default_max_age(&RULES, spent).as_secs() / 60;
        let stretched: Vec<_> = (0..9).map(minutes).collect();
        assert_eq!(stretched, [15, 15, 15, 30, 60, 120, 240, 360, 360]);
        assert_eq!(minutes(usize::MAX), 360);
        let unlimited = Rules { calls_per_order_per_day: None, ..RULES };
        assert_eq!(default_max_age(&unlimited, 9), RULES.freshness);
        let long = Rules { freshness: Duration::from_hours(8), ..RULES };
        assert_eq!(default_max_age(&long, 9), long.freshness);
    }

    #[test]
    fn the_refresh_time_waits_for_freshness_and_a_free_slot() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_hours(1_000_000 / 3600);
        let state = Order { observe_time: Some(start.into()), ..Order::default() };
        let day = |hours| start + Duration::from_hours(hours);
        let mut known = Known { state: Some(state), spent: vec![day(20); 3] };
        assert_eq!(refresh(&RULES, &known, start), Some(start + Duration::from_mins(30)));
        known.spent = (1..=9).map(|slot| day(slot * 2)).collect();
        assert_eq!(refresh(&RULES, &known, start), Some(start + Duration::from_hours(6)));
        // Six calls of the previous day shorten the freshness as they leave the 24-hour window.
        known.spent = (0..6).map(|slot| start + Duration::from_mins(5 + slot)).collect();
        assert_eq!(refresh(&RULES, &known, start), Some(start + Duration::from_mins(15)));
        known.spent = (11..=19).map(day).collect();
        assert_eq!(refresh(&RULES, &known, start), Some(day(12)), "two of nine must be free");
        known.spent.clear();
        let before = start - Duration::from_hours(1000);
        let soon = before + Duration::from_mins(15);
        assert_eq!(refresh(&RULES, &known, before), Some(soon), "observed in the future");
        known.state.as_mut().unwrap().terminal = true;
        assert_eq!(refresh(&RULES, &known, start), None);
    }
}
