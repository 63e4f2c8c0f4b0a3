//! The calls of one account: each waits for its turn, goes by the breaker, and is made once more
//! where that is allowed and can help. Used by `orders` for every question to a vendor.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout};

use super::accounts::Account;
use super::breaker::{Breaker, Change, Leave, Verdict};
use super::retry::{self, ATTEMPTS, Budget};
use super::standing::Hindrance;
use crate::clock::Clock;
use crate::error::{Error, Trouble};
use crate::pb::{ErrorReason, Order};
use crate::providers::{Means, Query};
use crate::random;

/// How many calls may wait for their turn at one account.
const QUEUE: usize = 1000;

/// What the calls of an account share.
pub(super) struct Calls {
    turns: Semaphore,
    /// How many may be under way at one time.
    most: usize,
    queue: Semaphore,
    history: Mutex<History>,
}

#[derive(Default)]
struct History {
    breaker: Breaker,
    budget: Budget,
}

impl Calls {
    /// Of an account that may have so many calls under way at one time.
    pub(super) fn new(most: usize) -> Self {
        Self {
            turns: Semaphore::new(most),
            most,
            queue: Semaphore::new(QUEUE),
            history: Mutex::default(),
        }
    }

    /// How many may be under way at one time.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many have their turn now, and how many wait for it.
    pub(super) fn count(&self) -> (f64, f64) {
        let taken = |places: &Semaphore, most: usize| {
            let taken = most.saturating_sub(places.available_permits());
            u32::try_from(taken).map_or(f64::INFINITY, f64::from)
        };
        (taken(&self.turns, self.most), taken(&self.queue, QUEUE))
    }

    /// Waits for a turn, for so long.
    async fn permit(&self, patience: Duration) -> Result<SemaphorePermit<'_>, Error> {
        if let Ok(permit) = self.turns.try_acquire() {
            return Ok(permit);
        }
        let most = self.most;
        let Ok(_place) = self.queue.try_acquire() else {
            return Err(Error::unavailable(format!(
                "{most} calls are under way at the vendor, and {QUEUE} more wait for their turn; \
                 ask again later"
            )));
        };
        match timeout(patience, self.turns.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_closed)) => Err(Error::internal("the calls of an account were closed")),
            Err(_elapsed) => Err(Error::unavailable(format!(
                "{most} calls are under way at the vendor, and this one's turn did not come \
                 within {patience:?}; ask again later"
            ))),
        }
    }
}

/// The turn to ask for one order: it counts as under way until this is dropped.
pub(super) struct Turn<'a> {
    account: &'a Account,
    attempts: u32,
    comes_again: bool,
    _permit: SemaphorePermit<'a>,
}

/// A call that the breaker has let through. However it ends, the breaker hears of it.
struct Admitted<'a> {
    account: &'a Account,
    leave: Leave,
}

impl Account {
    /// Waits for the turn to ask the vendor: as long as its longest call may take, in which time
    /// each call that is under way now has ended, unless it is made twice.
    ///
    /// # Errors
    /// `PROVIDER_UNAVAILABLE`: at once where the vendor is left alone or too many wait, and where
    /// the turn does not come.
    pub(super) async fn turn(&self, clock: &dyn Clock) -> Result<Turn<'_>, Error> {
        let refusal = self.calls.history().breaker.refusal(clock.now());
        if let Some(wait) = refusal {
            return Err(left_alone(wait));
        }
        let permit = self.calls.permit(self.rules.longest_call).await?;
        Ok(Turn { account: self, attempts: 0, comes_again: false, _permit: permit })
    }

    fn admit(&self, clock: &dyn Clock) -> Result<Admitted<'_>, Error> {
        let leave = self.calls.history().breaker.admit(clock.now()).map_err(left_alone)?;
        Ok(Admitted { account: self, leave })
    }

    /// Whether a failed call may be made once more. One that the vendor may have counted may not
    /// where calls are counted, nor any that the vendor wants to come later.
    fn may_repeat(&self, error: &Error) -> bool {
        error.trouble == Some(Trouble::Passing) && (error.unsent || !self.is_limited())
    }
}

impl Turn<'_> {
    /// Asks the vendor, if the breaker lets the call through.
    ///
    /// # Errors
    /// What the vendor's module fails with; `PROVIDER_UNAVAILABLE` where the vendor is left alone.
    pub(super) async fn attempt(
        &mut self,
        query: &Query,
        means: Means<'_>,
        clock: &dyn Clock,
    ) -> Result<Order, Error> {
        self.comes_again = false;
        let admitted = self.account.admit(clock)?;
        self.attempts += 1;
        let outcome = self.account.ask(query, means).await;
        self.comes_again = admitted.settle(outcome.as_ref().err(), self.attempts, clock);
        outcome
    }

    /// Whether another attempt may help and may be made: then it waits until it is due.
    pub(super) async fn comes_again(&self) -> bool {
        if self.comes_again {
            sleep(retry::pause(self.attempts, random::fraction())).await;
        }
        self.comes_again
    }
}

impl Admitted<'_> {
    /// Notes how an attempt ended, the `attempts`-th of its question. Whether to make another one.
    fn settle(&self, error: Option<&Error>, attempts: u32, clock: &dyn Clock) -> bool {
        let Some(verdict) = verdict(error) else { return false };
        let mut history = self.account.calls.history();
        if attempts == 1 {
            history.budget.earn();
        }
        let change = history.breaker.settle(self.leave, verdict, clock.now(), random::fraction());
        // Under the lock, so that health tells the last change last.
        match change {
            Some(Change::Opened(pause)) => {
                self.account.standing.note(Hindrance::Failing, true);
                tracing::warn!(
                    account = self.account.name,
                    seconds = pause.as_secs(),
                    "the vendor fails, and is left alone until a probe is answered"
                );
            }
            Some(Change::Closed) => {
                self.account.standing.note(Hindrance::Failing, false);
                tracing::info!(account = self.account.name, "the vendor answers again");
            }
            None => {}
        }
        attempts < ATTEMPTS
            && error.is_some_and(|error| self.account.may_repeat(error))
            && history.breaker.refusal(clock.now()).is_none()
            && history.budget.spend()
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        // Does nothing where the call was settled.
        self.account.calls.history().breaker.abandon(self.leave);
    }
}

/// What an attempt's end says of the vendor; `None` where the vendor was not asked.
fn verdict(error: Option<&Error>) -> Option<Verdict> {
    let Some(error) = error else { return Some(Verdict::Answered) };
    match error.trouble {
        Some(Trouble::Passing) => return Some(Verdict::Failed(None)),
        Some(Trouble::Lasting) => return Some(Verdict::Failed(error.retry_after)),
        None => {}
    }
    let answered = match error.reason {
        ErrorReason::OrderNotFound
        | ErrorReason::OrderExpired
        | ErrorReason::InvalidRequest
        | ErrorReason::ProviderCredentialsRejected
        | ErrorReason::ProviderError
        // A whole answer came, in time. One order that cannot be read must not keep the others
        // from being asked for, and asking does a vendor no harm that answers.
        | ErrorReason::ProviderResponseInvalid => true,
        // The vendor's own word; our own limits say nothing of it.
        ErrorReason::ProviderQuotaExhausted => error.closes.is_some(),
        _ => false,
    };
    answered.then_some(Verdict::Answered)
}

fn left_alone(wait: Duration) -> Error {
    Error::unavailable("the vendor fails, and is left alone for now; ask again later")
        .retry_after(wait)
}
