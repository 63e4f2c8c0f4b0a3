//! When a vendor that fails is left alone: the breaker of one account, as states and what changes
//! them. The time and the chance come from outside. Used by `calls`.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

/// How many calls must fail one after the other. One alone may be an unlucky order, and a vendor
/// that is seldom asked has no rate.
const FAILURES_IN_A_ROW: u32 = 5;

/// How far back the rate of failures looks, in seconds: what was longer ago says little of now.
const WINDOW: u64 = 10;

/// How many calls the window must hold before half of them is a rate and not chance.
const LEAST_CALLS: u32 = 20;

/// How long a vendor is left alone at first, and at most; it doubles with each probe that fails.
/// The longest is as long as one waits to learn that a vendor is back.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// What others are told to wait while a probe is under way: nobody knows when it is answered.
const PROBE_WAIT: Duration = Duration::from_secs(1);

/// What a call's end says of its vendor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It answered, whatever it said.
    Answered,
    /// It failed; the time is how long it asks to be left alone, where it does.
    Failed(Option<Duration>),
}

/// What has become of the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// The vendor is left alone, for so long at first.
    Opened(Duration),
    /// A probe was answered: all may ask again.
    Closed,
}

/// The leave to make one call. It is of a time between two changes, and tells nothing of another:
/// a call that began before the breaker opened neither closes it nor opens it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leave(u64);

/// The breaker of one account.
#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
    changes: u64,
}

#[derive(Debug)]
enum State {
    /// All may ask.
    Closed { in_a_row: u32, window: Window },
    /// Nobody may before that time, and then one.
    Open { until: SystemTime, pause: Duration },
    /// One has asked, and the others wait for what becomes of it.
    Probing { until: SystemTime, pause: Duration },
}

impl State {
    fn closed() -> Self {
        Self::Closed { in_a_row: 0, window: Window::default() }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: State::closed(), changes: 0 }
    }
}

impl Breaker {
    /// For how long nobody may ask, unless one may.
    pub(super) fn refusal(&self, now: SystemTime) -> Option<Duration> {
        match self.state {
            State::Closed { .. } => None,
            State::Open { until, .. } => {
                until.duration_since(now).ok().filter(|wait| !wait.is_zero())
            }
            State::Probing { .. } => Some(PROBE_WAIT),
        }
    }

    /// Lets a call through; one that comes first after the pause is the probe.
    ///
    /// # Errors
    /// For how long nobody may ask.
    pub(super) fn admit(&mut self, now: SystemTime) -> Result<Leave, Duration> {
        if let Some(wait) = self.refusal(now) {
            return Err(wait);
        }
        if let State::Open { until, pause } = self.state {
            self.turn(State::Probing { until, pause });
        }
        Ok(Leave(self.changes))
    }

    /// Notes how a call ended. `chance`, from 0 to 1, spreads the pause over its second half, so
    /// that replicas do not probe in step.
    pub(super) fn settle(
        &mut self,
        leave: Leave,
        verdict: Verdict,
        now: SystemTime,
        chance: f64,
    ) -> Option<Change> {
        if leave.0 != self.changes {
            return None;
        }
        match (&mut self.state, verdict) {
            (State::Closed { in_a_row, window }, verdict) => {
                let failed = matches!(verdict, Verdict::Failed(_));
                window.count(failed, now);
                *in_a_row = if failed { *in_a_row + 1 } else { 0 };
                let fails = *in_a_row >= FAILURES_IN_A_ROW || window.is_half_failures();
                let Verdict::Failed(asked) = verdict else { return None };
                fails.then(|| Change::Opened(self.open(FIRST_PAUSE, asked, now, chance)))
            }
            (State::Probing { .. }, Verdict::Answered) => {
                self.turn(State::closed());
                Some(Change::Closed)
            }
            (State::Probing { pause, .. }, Verdict::Failed(asked)) => {
                let pause = (*pause * 2).min(LONGEST_PAUSE);
                self.open(pause, asked, now, chance);
                None
            }
            // Nobody has leave to call here.
            (State::Open { .. }, _) => None,
        }
    }

    /// Notes that a call has ended without telling anything, or was never made. Of a probe, the
    /// next call takes the place.
    pub(super) fn abandon(&mut self, leave: Leave) {
        if let State::Probing { until, pause } = self.state
            && leave.0 == self.changes
        {
            self.turn(State::Open { until, pause });
        }
    }

    fn open(
        &mut self,
        pause: Duration,
        asked: Option<Duration>,
        now: SystemTime,
        chance: f64,
    ) -> Duration {
        let spread = (pause / 2).mul_f64(1.0 + chance.clamp(0.0, 1.0));
        let wait = spread.max(asked.unwrap_or_default());
        self.turn(State::Open { until: now + wait, pause });
        wait
    }

    fn turn(&mut self, state: State) {
        self.state = state;
        self.changes += 1;
    }
}

/// The calls of the last seconds, by the second.
#[derive(Debug, Default)]
struct Window(VecDeque<Second>);

#[derive(Debug)]
struct Second {
    at: u64,
    calls: u32,
    failures: u32,
}

impl Window {
    fn count(&mut self, failed: bool, now: SystemTime) {
        let at = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        while self.0.front().is_some_and(|second| second.at + WINDOW <= at) {
            self.0.pop_front();
        }
        let failures = u32::from(failed);
        match self.0.back_mut() {
            Some(last) if last.at == at => {
                last.calls += 1;
                last.failures += failures;
            }
            _ => self.0.push_back(Second { at, calls: 1, failures }),
        }
    }

    fn is_half_failures(&self) -> bool {
        let sum = |part: fn(&Second) -> u32| self.0.iter().map(part).sum::<u32>();
        let (calls, failures) = (sum(|second| second.calls), sum(|second| second.failures));
        calls >= LEAST_CALLS && failures * 2 >= calls
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000) + Duration::from_millis(millis)
    }

    #[test]
    fn half_of_enough_calls_within_the_window_is_a_rate() {
        // The pause between calls in ms, each so many-th fails, and the call that opens it.
        let cases: [(u64, u64, Option<u64>); 4] = [
            (0, 2, Some(20)),
            (400, 2, Some(20)),
            // Fewer than 20 calls in 10 s.
            (600, 2, None),
            (0, 3, None),
        ];
        for (pause, nth, expected) in cases {
            let mut breaker = Breaker::default();
            let opened = (1..1000).find(|n| {
                let now = at(n * pause);
                let leave = breaker.admit(now).unwrap();
                let failed = Verdict::Failed(None);
                let verdict = if n.is_multiple_of(nth) { failed } else { Verdict::Answered };
                breaker.settle(leave, verdict, now, 0.5).is_some()
            });
            assert_eq!(opened, expected, "{pause} {nth}");
        }
    }

    #[test]
    fn what_was_under_way_before_a_change_tells_nothing_after_it() {
        let mut breaker = Breaker::default();
        let early: Vec<_> = (0..20).map(|_| breaker.admit(at(0)).unwrap()).collect();
        for leave in &early[..5] {
            breaker.settle(*leave, Verdict::Failed(None), at(0), 1.0);
        }
        assert_eq!(breaker.refusal(at(1)), Some(Duration::from_millis(1999)));
        breaker.settle(early[5], Verdict::Answered, at(1), 1.0);
        breaker.settle(early[6], Verdict::Failed(None), at(1), 1.0);
        assert_eq!(breaker.refusal(at(1)), Some(Duration::from_millis(1999)));
        let probe = breaker.admit(at(2000)).unwrap();
        breaker.abandon(early[7]);
        breaker.settle(early[8], Verdict::Answered, at(2000), 1.0);
        assert_eq!(breaker.refusal(at(2000)), Some(PROBE_WAIT));
        assert_eq!(breaker.settle(probe, Verdict::Answered, at(2000), 1.0), Some(Change::Closed));
        for leave in &early[9..] {
            breaker.settle(*leave, Verdict::Failed(None), at(2000), 1.0);
        }
        assert_eq!(breaker.refusal(at(2000)), None);
    }

    #[derive(Debug, Clone)]
    enum Event {
        Wait(u64),
        Call,
        End(usize, Option<Verdict>),
    }

    fn event() -> impl Strategy<Value = Event> {
        let verdict = prop_oneof![
            2 => Just(Some(Verdict::Answered)),
            5 => Just(Some(Verdict::Failed(None))),
            1 => (0..90u64).prop_map(|s| Some(Verdict::Failed(Some(Duration::from_secs(s))))),
            1 => Just(None),
        ];
        prop_oneof![
            2 => (0..70_000u64).prop_map(Event::Wait),
            1 => Just(Event::Wait(2_000)),
            5 => Just(Event::Call),
            5 => (0..8usize, verdict).prop_map(|(which, verdict)| Event::End(which, verdict)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever happens, an open breaker lets one call through at a time, and never stays
        /// open for longer than it says.
        #[test]
        fn a_probe_is_alone_and_comes_in_time(
            events in proptest::collection::vec((event(), 0.0..=1.0), 0..300),
        ) {
            let mut breaker = Breaker::default();
            let mut now = at(0);
            let mut is_open = false;
            let mut under_way: Vec<(Leave, bool)> = Vec::new();
            for (event, chance) in events {
                match event {
                    Event::Wait(millis) => now += Duration::from_millis(millis),
                    Event::Call => {
                        let probes = under_way.iter().filter(|(_, is_probe)| *is_probe).count();
                        match breaker.admit(now) {
                            Ok(leave) => {
                                prop_assert!(!is_open || probes == 0, "two probes");
                                under_way.push((leave, is_open));
                            }
                            Err(wait) => {
                                prop_assert!(is_open, "refused for no reason");
                                prop_assert!(wait > Duration::ZERO && wait <= 90 * PROBE_WAIT);
                            }
                        }
                    }
                    Event::End(which, verdict) if which < under_way.len() => {
                        let (leave, is_probe) = under_way.remove(which);
                        let change = verdict.map(|it| breaker.settle(leave, it, now, chance));
                        if verdict.is_none() {
                            breaker.abandon(leave);
                        }
                        match change.flatten() {
                            Some(Change::Opened(_)) => {
                                prop_assert!(!is_open);
                                is_open = true;
                            }
                            Some(Change::Closed) => {
                                prop_assert!(is_open && is_probe);
                                is_open = false;
                            }
                            None => {}
                        }
                    }
                    Event::End(..) => {}
                }
            }
            // All calls end, time passes, and the next one is let through.
            for (leave, _) in under_way {
                breaker.abandon(leave);
            }
            let wait = breaker.refusal(now).unwrap_or_default();
            prop_assert!(breaker.admit(now + wait).is_ok());
        }
    }
}
