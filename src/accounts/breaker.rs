//! The circuit breaker of one account: when a failing vendor is not asked. Pure states and transitions;
//! time and chance are parameters. Used by the limiter.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

/// How many calls must fail in a row to open the breaker. One alone may be an unlucky order, and a
/// vendor that is rarely asked has no failure rate.
const FAILURES_IN_A_ROW: u32 = 5;

/// The window of the failure rate, in seconds: older calls say little about now.
const WINDOW: u64 = 10;

/// How many calls the window must hold before half of them failing is a rate and not chance.
const LEAST_CALLS: u32 = 20;

/// The first and the longest pause; the pause doubles with each probe that fails. The longest bounds
/// how late a caller finds out that the vendor is back.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// The wait reported to other callers while a probe is under way: nobody knows when it is answered.
const PROBE_WAIT: Duration = Duration::from_secs(1);

/// How a call ended, as far as its vendor is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The vendor answered, whatever the answer.
    Answered,
    /// The vendor failed; the duration is how long it asks not to be called, if it says so.
    Failed(Option<Duration>),
}

/// A transition of the breaker that is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transition {
    /// The vendor is not asked, at first for this long.
    Opened(Duration),
    /// A probe was answered: every call is admitted again.
    Closed,
}

/// Permission for one call, stamped with the breaker's generation; results of an older one are ignored:
/// a call that began before the breaker opened neither closes it nor opens it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket(u64);

/// The breaker of one account.
#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
    generation: u64,
}

#[derive(Debug)]
enum State {
    /// Every call is admitted.
    Closed { in_a_row: u32, window: Window },
    /// No call is admitted before `until`; the next one after it is the probe.
    Open { until: SystemTime, pause: Duration },
    /// The probe is under way; the other calls wait for its outcome.
    HalfOpen { until: SystemTime, pause: Duration },
}

impl State {
    fn closed() -> Self {
        Self::Closed { in_a_row: 0, window: Window::default() }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: State::closed(), generation: 0 }
    }
}

impl Breaker {
    /// How long no call is admitted; `None` if a call is admitted now.
    pub(super) fn refusal(&self, now: SystemTime) -> Option<Duration> {
        match self.state {
            State::Closed { .. } => None,
            State::Open { until, .. } => {
                until.duration_since(now).ok().filter(|wait| !wait.is_zero())
            }
            State::HalfOpen { .. } => Some(PROBE_WAIT),
        }
    }

    /// Admits a call; the first one after the pause is the probe.
    ///
    /// # Errors
    /// How long no call is admitted.
    pub(super) fn admit(&mut self, now: SystemTime) -> Result<Ticket, Duration> {
        if let Some(wait) = self.refusal(now) {
            return Err(wait);
        }
        if let State::Open { until, pause } = self.state {
            self.transition(State::HalfOpen { until, pause });
        }
        Ok(Ticket(self.generation))
    }

    /// Records how a call ended. `chance`, from 0 to 1, spreads the end of the pause over its second
    /// half, so that replicas do not probe at the same time.
    pub(super) fn record(
        &mut self,
        ticket: Ticket,
        outcome: Outcome,
        now: SystemTime,
        chance: f64,
    ) -> Option<Transition> {
        if ticket.0 != self.generation {
            return None;
        }
        match (&mut self.state, outcome) {
            (State::Closed { in_a_row, window }, outcome) => {
                let failed = matches!(outcome, Outcome::Failed(_));
                window.count(failed, now);
                *in_a_row = if failed { *in_a_row + 1 } else { 0 };
                let fails = *in_a_row >= FAILURES_IN_A_ROW || window.is_half_failures();
                let Outcome::Failed(asked) = outcome else { return None };
                fails.then(|| Transition::Opened(self.open(FIRST_PAUSE, asked, now, chance)))
            }
            (State::HalfOpen { .. }, Outcome::Answered) => {
                self.transition(State::closed());
                Some(Transition::Closed)
            }
            (State::HalfOpen { pause, .. }, Outcome::Failed(asked)) => {
                let pause = (*pause * 2).min(LONGEST_PAUSE);
                self.open(pause, asked, now, chance);
                None
            }
            // An open breaker issues no tickets.
            (State::Open { .. }, _) => None,
        }
    }

    /// Returns a ticket: its call was never made, or says nothing about the vendor. If it was the
    /// probe, the next call is the probe.
    pub(super) fn abandon(&mut self, ticket: Ticket) {
        if let State::HalfOpen { until, pause } = self.state
            && ticket.0 == self.generation
        {
            self.transition(State::Open { until, pause });
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
        self.transition(State::Open { until: now + wait, pause });
        wait
    }

    fn transition(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
    }
}

/// The calls of the last seconds, grouped by second.
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
    fn the_breaker_opens_when_half_of_20_calls_in_the_window_fail() {
        // The pause between calls in ms, every n-th call that fails, and the call that opens the
        // breaker.
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
                let ticket = breaker.admit(now).unwrap();
                let failed = Outcome::Failed(None);
                let outcome = if n.is_multiple_of(nth) { failed } else { Outcome::Answered };
                breaker.record(ticket, outcome, now, 0.5).is_some()
            });
            assert_eq!(opened, expected, "{pause} {nth}");
        }
    }

    #[test]
    fn results_of_calls_from_before_a_transition_are_ignored() {
        let mut breaker = Breaker::default();
        let early: Vec<_> = (0..20).map(|_| breaker.admit(at(0)).unwrap()).collect();
        for ticket in &early[..5] {
            breaker.record(*ticket, Outcome::Failed(None), at(0), 1.0);
        }
        assert_eq!(breaker.refusal(at(1)), Some(Duration::from_millis(1999)));
        breaker.record(early[5], Outcome::Answered, at(1), 1.0);
        breaker.record(early[6], Outcome::Failed(None), at(1), 1.0);
        assert_eq!(breaker.refusal(at(1)), Some(Duration::from_millis(1999)));
        let probe = breaker.admit(at(2000)).unwrap();
        breaker.abandon(early[7]);
        breaker.record(early[8], Outcome::Answered, at(2000), 1.0);
        assert_eq!(breaker.refusal(at(2000)), Some(PROBE_WAIT));
        assert_eq!(
            breaker.record(probe, Outcome::Answered, at(2000), 1.0),
            Some(Transition::Closed)
        );
        for ticket in &early[9..] {
            breaker.record(*ticket, Outcome::Failed(None), at(2000), 1.0);
        }
        assert_eq!(breaker.refusal(at(2000)), None);
    }

    #[derive(Debug, Clone)]
    enum Event {
        Wait(u64),
        Call,
        End(usize, Option<Outcome>),
    }

    fn event() -> impl Strategy<Value = Event> {
        let outcome = prop_oneof![
            2 => Just(Some(Outcome::Answered)),
            5 => Just(Some(Outcome::Failed(None))),
            1 => (0..90u64).prop_map(|s| Some(Outcome::Failed(Some(Duration::from_secs(s))))),
            1 => Just(None),
        ];
        prop_oneof![
            2 => (0..70_000u64).prop_map(Event::Wait),
            1 => Just(Event::Wait(2_000)),
            5 => Just(Event::Call),
            5 => (0..8usize, outcome).prop_map(|(which, outcome)| Event::End(which, outcome)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever happens, an open breaker admits only one call at a time, and never stays open longer
        /// than it reports.
        #[test]
        fn an_open_breaker_admits_one_probe_at_a_time_and_on_time(
            events in proptest::collection::vec((event(), 0.0..=1.0), 0..300),
        ) {
            let mut breaker = Breaker::default();
            let mut now = at(0);
            let mut is_open = false;
            let mut under_way: Vec<(Ticket, bool)> = Vec::new();
            for (event, chance) in events {
                match event {
                    Event::Wait(millis) => now += Duration::from_millis(millis),
                    Event::Call => {
                        let probes = under_way.iter().filter(|(_, is_probe)| *is_probe).count();
                        match breaker.admit(now) {
                            Ok(ticket) => {
                                prop_assert!(!is_open || probes == 0, "two probes");
                                under_way.push((ticket, is_open));
                            }
                            Err(wait) => {
                                prop_assert!(is_open, "refused for no reason");
                                prop_assert!(wait > Duration::ZERO && wait <= 90 * PROBE_WAIT);
                            }
                        }
                    }
                    Event::End(which, outcome) if which < under_way.len() => {
                        let (ticket, is_probe) = under_way.remove(which);
                        let transition = outcome.map(|it| breaker.record(ticket, it, now, chance));
                        if outcome.is_none() {
                            breaker.abandon(ticket);
                        }
                        match transition.flatten() {
                            Some(Transition::Opened(_)) => {
                                prop_assert!(!is_open);
                                is_open = true;
                            }
                            Some(Transition::Closed) => {
                                prop_assert!(is_open && is_probe);
                                is_open = false;
                            }
                            None => {}
                        }
                    }
                    Event::End(..) => {}
                }
            }
            // All calls end, time passes, and the next call is admitted.
            for (ticket, _) in under_way {
                breaker.abandon(ticket);
            }
            let wait = breaker.refusal(now).unwrap_or_default();
            prop_assert!(breaker.admit(now + wait).is_ok());
        }
    }
}
