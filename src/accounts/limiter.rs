//! How the calls of one account go to its vendor: each waits for a permit, passes the breaker, and is
//! retried once if that is allowed and can help. Used by the account.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout};

use super::availability::{Availability, Impairment};
use super::breaker::{Breaker, Outcome, Ticket, Transition};
use super::retry::{self, ATTEMPTS, Budget};
use crate::chance;
use crate::clock::Clock;
use crate::error::{Error, Exchange};
use crate::providers::Rules;

/// How many calls of one account may wait for a permit.
const QUEUE: usize = 1000;

/// The state that an account's calls share.
pub(super) struct Limiter {
    /// The account's name, for the log.
    account: String,
    concurrency: Semaphore,
    max_concurrency: usize,
    queue: Semaphore,
    /// How long a call waits for its permit: as long as the longest call may take.
    patience: Duration,
    /// Whether the vendor counts calls; if so, a call that it may have counted is not repeated.
    is_counted: bool,
    history: Mutex<History>,
    availability: Arc<Availability>,
}

#[derive(Default)]
struct History {
    breaker: Breaker,
    budget: Budget,
}

impl Limiter {
    /// Creates the limiter of an account with these rules that may have `max_concurrency` calls under
    /// way at one time.
    pub(super) fn new(
        account: &str,
        max_concurrency: usize,
        rules: &Rules,
        availability: Arc<Availability>,
    ) -> Self {
        Self {
            account: account.to_owned(),
            concurrency: Semaphore::new(max_concurrency),
            max_concurrency,
            queue: Semaphore::new(QUEUE),
            patience: rules.longest_call,
            is_counted: rules.are_counted(),
            history: Mutex::default(),
            availability,
        }
    }

    /// How many calls may be under way at one time.
    pub(super) fn max_concurrency(&self) -> usize {
        self.max_concurrency
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many calls are under way now, and how many wait for a permit.
    pub(super) fn count(&self) -> (f64, f64) {
        let used = |permits: &Semaphore, all: usize| {
            let used = all.saturating_sub(permits.available_permits());
            u32::try_from(used).map_or(f64::INFINITY, f64::from)
        };
        (used(&self.concurrency, self.max_concurrency), used(&self.queue, QUEUE))
    }

    /// Waits for a permit to ask the vendor. It waits as long as the longest call may take; in that
    /// time every call under way now ends, unless it is retried.
    ///
    /// # Errors
    /// `PROVIDER_UNAVAILABLE`: at once while the breaker is open or too many calls wait, and when no
    /// permit becomes free in time.
    pub(super) async fn acquire(&self, clock: &dyn Clock) -> Result<ConcurrencyPermit<'_>, Error> {
        let refusal = self.history().breaker.refusal(clock.now());
        if let Some(wait) = refusal {
            return Err(breaker_is_open(wait));
        }
        let permit = self.permit().await?;
        Ok(ConcurrencyPermit { limiter: self, attempts: 0, should_retry: false, _permit: permit })
    }

    async fn permit(&self) -> Result<SemaphorePermit<'_>, Error> {
        if let Ok(permit) = self.concurrency.try_acquire() {
            return Ok(permit);
        }
        let most = self.max_concurrency;
        let Ok(_place) = self.queue.try_acquire() else {
            return Err(Error::unavailable(format!(
                "{most} calls to the vendor are in progress, and {QUEUE} more are waiting for a \
                 permit; retry later"
            )));
        };
        let patience = self.patience;
        match timeout(patience, self.concurrency.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_closed)) => {
                Err(Error::internal("the concurrency limit of an account was closed"))
            }
            Err(_elapsed) => Err(Error::unavailable(format!(
                "{most} calls to the vendor are in progress, and none of them ended within \
                 {patience:?}; retry later"
            ))),
        }
    }

    /// Records how the question's attempt number `attempts` ended. Returns whether to retry: not if the
    /// vendor counts calls and may have counted this one.
    fn note(
        &self,
        ticket: Ticket,
        error: Option<&Error>,
        attempts: u32,
        was_sent: bool,
        clock: &dyn Clock,
    ) -> bool {
        let Some(outcome) = outcome(error) else { return false };
        let mut history = self.history();
        if attempts == 1 {
            history.budget.earn();
        }
        let transition = history.breaker.record(ticket, outcome, clock.now(), chance::part());
        // Done under the lock, so that health reports the last transition last.
        match transition {
            Some(Transition::Opened(pause)) => {
                self.availability.set(Impairment::Failing, true);
                tracing::warn!(
                    account = self.account,
                    seconds = pause.as_secs(),
                    "the vendor is failing: its circuit breaker is open until a probe is answered"
                );
            }
            Some(Transition::Closed) => {
                self.availability.set(Impairment::Failing, false);
                tracing::info!(
                    account = self.account,
                    "the vendor answers again: its circuit breaker is closed"
                );
            }
            None => {}
        }
        attempts < ATTEMPTS
            && error.is_some_and(|error| error.verdict().may_retry)
            && outcome == Outcome::Failed(None)
            && !(was_sent && self.is_counted)
            && history.breaker.refusal(clock.now()).is_none()
            && history.budget.spend()
    }
}

/// The permit to ask for one order: the question counts as under way until this is dropped.
pub(crate) struct ConcurrencyPermit<'a> {
    limiter: &'a Limiter,
    attempts: u32,
    should_retry: bool,
    _permit: SemaphorePermit<'a>,
}

/// A call that the breaker has admitted. However it ends, its ticket returns to the breaker.
struct Admitted<'a> {
    limiter: &'a Limiter,
    ticket: Ticket,
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        // Has no effect if the call's outcome was recorded.
        self.limiter.history().breaker.abandon(self.ticket);
    }
}

impl ConcurrencyPermit<'_> {
    /// Makes the call if the breaker admits it. Afterwards `was_sent` reports whether the vendor may
    /// have counted it.
    ///
    /// # Errors
    /// The call's own errors; `PROVIDER_UNAVAILABLE` while the breaker is open.
    pub(crate) async fn attempt<T>(
        &mut self,
        clock: &dyn Clock,
        call: impl Future<Output = Result<T, Error>>,
        was_sent: impl FnOnce() -> bool,
    ) -> Result<T, Error> {
        self.should_retry = false;
        let limiter = self.limiter;
        let ticket = limiter.history().breaker.admit(clock.now()).map_err(breaker_is_open)?;
        let admitted = Admitted { limiter, ticket };
        let result = call.await;
        let error = result.as_ref().err();
        // A call that never tried to reach the vendor is not an attempt.
        if outcome(error).is_some() {
            self.attempts += 1;
        }
        self.should_retry = limiter.note(admitted.ticket, error, self.attempts, was_sent(), clock);
        result
    }

    /// Whether a retry may help and is allowed; if so, waits until it is due.
    pub(crate) async fn should_retry(&self) -> bool {
        if self.should_retry {
            sleep(retry::pause(self.attempts, chance::part())).await;
        }
        self.should_retry
    }
}

/// How an attempt ended, as far as its vendor is concerned; `None` if the vendor was not asked.
fn outcome(error: Option<&Error>) -> Option<Outcome> {
    match error.map(|error| error.exchange) {
        None | Some(Exchange::Answered | Exchange::TooOften { .. }) => Some(Outcome::Answered),
        Some(Exchange::Failed { retry_after }) => Some(Outcome::Failed(retry_after)),
        Some(Exchange::NotSent) => None,
    }
}

fn breaker_is_open(wait: Duration) -> Error {
    Error::unavailable("the vendor is failing and its circuit breaker is open; retry later")
        .retry_after(wait)
}
