//! Retries: how long to wait before one, and how many a failing vendor may receive. Used by the
//! limiter.

use std::time::Duration;

/// The maximum number of attempts for one answer.
pub(super) const ATTEMPTS: u32 = 2;

/// The longest pause before the second attempt; each further one would double it. It is short because a
/// caller waits, and because a longer outage is the breaker's job.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// How many calls pay for one retry: in the long run a failing vendor gets at most a tenth more calls.
const CALLS_PER_RETRY: u32 = 10;

/// How many retries an account starts with, so that its first calls, and those of a rarely used
/// account, can be retried.
const RESERVE: u32 = 5;

/// How many retries can be saved, so that a quiet day does not pay for a storm.
const SAVED_RETRIES: u32 = 10;

/// The retries that an account has left. At any time a vendor has received at most the reserve plus a
/// tenth of the calls as retries.
#[derive(Debug)]
pub(super) struct Budget {
    /// Counted in calls: a retry costs [`CALLS_PER_RETRY`].
    calls: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self { calls: RESERVE * CALLS_PER_RETRY }
    }
}

impl Budget {
    /// Credits one call.
    pub(super) fn earn(&mut self) {
        self.calls = (self.calls + 1).min(SAVED_RETRIES * CALLS_PER_RETRY);
    }

    /// Spends one retry, if enough calls have paid for it.
    pub(super) fn spend(&mut self) -> bool {
        let left = self.calls.checked_sub(CALLS_PER_RETRY);
        self.calls = left.unwrap_or(self.calls);
        left.is_some()
    }
}

/// The pause after this many attempts: a random part of a span that doubles each time, so that callers
/// that failed together do not retry together.
pub(super) fn pause(attempts: u32, chance: f64) -> Duration {
    let doublings = attempts.saturating_sub(1).min(u32::BITS - 1);
    FIRST_PAUSE.saturating_mul(1 << doublings).mul_f64(chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn backoff_doubles_with_full_jitter() {
        let millis = |attempts, chance| pause(attempts, chance).as_millis();
        assert_eq!([1, 2, 3].map(|attempts| millis(attempts, 1.0)), [200, 400, 800]);
        assert_eq!([0.0, 0.25, 0.5].map(|chance| millis(1, chance)), [0, 50, 100]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn retries_never_exceed_the_reserve_plus_a_tenth_of_the_calls(
            are_calls in proptest::collection::vec(any::<bool>(), 0..1000),
        ) {
            let mut budget = Budget::default();
            let [mut calls, mut retries] = [0, 0];
            for is_call in are_calls {
                if is_call {
                    budget.earn();
                    calls += 1;
                } else {
                    retries += u32::from(budget.spend());
                }
                prop_assert!(retries <= 5 + calls / 10, "{retries} retries of {calls} calls");
            }
        }
    }

    #[test]
    fn an_account_starts_with_a_retry_reserve() {
        let mut budget = Budget::default();
        assert_eq!((0..100).filter(|_| budget.spend()).count(), 5);
        (0..9).for_each(|_| budget.earn());
        assert!(!budget.spend(), "a retry is paid for by ten calls");
        budget.earn();
        assert!(budget.spend());
    }

    #[test]
    fn the_retry_budget_is_capped() {
        let mut budget = Budget::default();
        (0..10_000).for_each(|_| budget.earn());
        assert_eq!((0..100).filter(|_| budget.spend()).count(), 10);
    }
}
