//! The use case: an order as fresh as asked, within the vendor's rules. Used by `grpc`, which
//! asks, and by `app`, which hands it the accounts and the store.

mod accounts;
mod caller;
mod flights;
mod freshness;
mod question;
mod quota;
mod watch;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use moka::sync::Cache;
use tokio::time::{Instant, sleep_until, timeout_at};

pub use accounts::{Account, Accounts};
pub use caller::Caller;
pub use watch::Watching;

use self::flights::{Flights, Landed, Pilot};
use self::freshness::observed;
use self::question::Question;
use crate::clock::Clock;
use crate::error::Error;
use crate::pb::{ErrorReason, GetOrderResponse, Order, OrderRef, Source};
use crate::providers::Means;
use crate::store::{Known, Store};

/// For how long it is remembered that a vendor does not know an order.
const NOT_FOUND_FRESHNESS: Duration = Duration::from_secs(5);

/// How many orders that vendors do not know are remembered.
const NOT_FOUND_LIMIT: u64 = 10_000;

/// Answers questions about orders.
#[derive(Clone)]
pub struct Orders(Arc<Inner>);

struct Inner {
    accounts: Accounts,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    flights: Arc<Flights>,
    /// That a vendor does not know an order, and of when that is.
    not_found: Cache<String, (Error, SystemTime)>,
    watching: watch::Watchers,
}

impl Orders {
    /// Asks with these accounts, and remembers in this store.
    #[must_use]
    pub fn new(accounts: Accounts, store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner {
            accounts,
            store,
            clock,
            flights: Arc::default(),
            not_found: Cache::new(NOT_FOUND_LIMIT),
            watching: watch::Watchers::default(),
        }))
    }

    /// For each account, whether its vendor can be asked now as far as is known: not while it
    /// turns the account's credentials down.
    pub fn askable(&self) -> impl Iterator<Item = (&str, tokio::sync::watch::Receiver<bool>)> {
        self.0.accounts.iter().map(|account| (account.name.as_str(), account.askable.subscribe()))
    }

    /// The order, at most `max_age` old; without one, as fresh as the account is configured for,
    /// and older where the vendor cannot be asked now.
    ///
    /// The vendor is asked in a task of its own: a caller whose deadline passes stops waiting,
    /// and the call goes on to its end and is remembered.
    ///
    /// # Errors
    /// `INVALID_REQUEST`, `PROVIDER_NOT_CONFIGURED` and `CALLER_FORBIDDEN` before anything is sent,
    /// `PROVIDER_QUOTA_EXHAUSTED` and `STORE_UNAVAILABLE` instead of a call that must not be
    /// made, `DEADLINE_EXCEEDED` at the deadline, and what the vendor's module fails with.
    pub async fn get(
        &self,
        caller: &Caller,
        order: &OrderRef,
        max_age: Option<Duration>,
        deadline: Instant,
    ) -> Result<GetOrderResponse, Error> {
        let question = self.question(caller, order, max_age)?;
        let answer = self.answer(&question, deadline).await;
        answer.map_err(|error| question.failed(error, order))
    }

    fn question(
        &self,
        caller: &Caller,
        order: &OrderRef,
        max_age: Option<Duration>,
    ) -> Result<Question, Error> {
        let account = self.0.accounts.choose(caller, order)?;
        Question::new(account, caller, order, max_age, self.0.clock.now())
    }

    /// The answer to a question, by its deadline.
    async fn answer(
        &self,
        question: &Question,
        deadline: Instant,
    ) -> Result<GetOrderResponse, Error> {
        let now = Instant::now();
        // The last tenth is for an older answer, where one will do.
        let content_at = now + deadline.saturating_duration_since(now) / 10 * 9;
        // What is under way now was under way at the arrival, and is young enough for anyone.
        let mut under_way = self.0.flights.under_way(&question.key);
        loop {
            if let Some(answer) = self.at_hand(question) {
                return answer;
            }
            let mut flight = match under_way.take().map_or_else(|| self.join(question), Ok) {
                Ok(flight) => flight,
                Err(answer) => return answer,
            };
            let landed = tokio::select! {
                biased;
                landed = flight.landed() => landed,
                () = sleep_until(content_at), if question.max_age.is_none() => {
                    if let Some(stale) = self.stale(question, None) {
                        return Ok(stale);
                    }
                    match timeout_at(deadline, flight.landed()).await {
                        Ok(landed) => landed,
                        Err(_elapsed) => return Err(out_of_time()),
                    }
                }
                () = sleep_until(deadline) => return Err(out_of_time()),
            };
            match landed.as_ref() {
                Landed::Live(known) => return Ok(question.found(known, Source::Live)),
                // Who began was content with less, so this question asks for itself.
                Landed::Kept(known) if !question.is_content(known, self.0.clock.now()) => {}
                Landed::Kept(known) => return Ok(question.found(known, Source::Cache)),
                // Its own limits are what stopped who began, and they are not this question's.
                Landed::Failed(error, asker) if question.may_fare_better(error, asker) => {}
                Landed::Failed(error, _) => {
                    let stale = self.stale(question, Some(error));
                    return stale.ok_or_else(|| error.clone());
                }
            }
        }
    }

    /// What can be answered without asking anyone.
    fn at_hand(&self, question: &Question) -> Option<Result<GetOrderResponse, Error>> {
        if let Some((error, observed)) = self.0.not_found.get(&question.key) {
            let max_age = question.max_age.unwrap_or(NOT_FOUND_FRESHNESS).min(NOT_FOUND_FRESHNESS);
            if observed + max_age > question.arrival {
                return Some(Err(error));
            }
        }
        let known = self.0.store.glance(&question.key, question.day_window.as_deref())?;
        question
            .is_content(&known, self.0.clock.now())
            .then(|| Ok(question.found(&known, Source::Cache)))
    }

    /// The last state that is known, where it may take the place of `error` or of a wait.
    fn stale(&self, question: &Question, error: Option<&Error>) -> Option<GetOrderResponse> {
        let replaced = error.is_none_or(|error| {
            matches!(
                error.reason,
                ErrorReason::ProviderQuotaExhausted
                    | ErrorReason::ProviderUnavailable
                    | ErrorReason::StoreUnavailable
            )
        });
        if !replaced || question.max_age.is_some() {
            return None;
        }
        let known = self.0.store.glance(&question.key, question.day_window.as_deref())?;
        known.state.as_ref()?;
        let mut answer = question.found(&known, Source::Stale);
        let wait = error.and_then(|error| error.retry_after).unwrap_or_default();
        let earliest = (self.0.clock.now() + wait).into();
        answer.refresh_time = Some(later(answer.refresh_time, earliest));
        Some(answer)
    }

    /// Joins the call for the question's order, or makes one.
    fn join(
        &self,
        question: &Question,
    ) -> Result<flights::Flight, Result<GetOrderResponse, Error>> {
        self.0.flights.join(
            &question.key,
            || self.at_hand(question),
            |pilot| {
                tokio::spawn(self.clone().fly(question.clone(), pilot));
            },
        )
    }

    async fn fly(self, question: Question, pilot: Pilot) {
        let landed = match self.find(&question).await {
            Ok(landed) => landed,
            Err(error) => Landed::Failed(error, question.asker.clone()),
        };
        if let Landed::Live(Known { state: Some(state), .. }) = &landed {
            self.0.watching.learned(&question.key, state);
        }
        pilot.land(landed);
    }

    /// Finds the order: in the store, with another process that is asking for it, or at the vendor.
    async fn find(&self, question: &Question) -> Result<Landed, Error> {
        let Some(known) = self.recall(question).await? else { return self.ask(question).await };
        if question.is_content(&known, self.0.clock.now()) {
            return Ok(Landed::Kept(known));
        }
        if !self.0.store.is_shared() {
            return self.ask(question).await;
        }
        let lease = question.lease();
        if let Some(known) = self.await_lease(question, &lease, &known).await? {
            return Ok(Landed::Live(known));
        }
        let landed = self.ask(question).await;
        // Where this fails the lease ends by itself.
        let _ = self.0.store.release(&lease.what, &lease.owner).await;
        landed
    }

    /// What the store knows. `None` where it cannot be asked and nothing depends on it.
    async fn recall(&self, question: &Question) -> Result<Option<Known>, Error> {
        match self.0.store.recall(&question.key, question.day_window.as_deref()).await {
            Ok(known) => Ok(Some(known.unwrap_or_default())),
            Err(_) if !question.account.is_limited() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits until the order's lease is ours (`None`), or the process that has it has an answer.
    async fn await_lease(
        &self,
        question: &Question,
        lease: &question::Lease,
        before: &Known,
    ) -> Result<Option<Known>, Error> {
        let observed_before = before.state.as_ref().and_then(observed);
        let give_up = Instant::now() + lease.life * 2;
        loop {
            let leased = self.0.store.lease(&lease.what, &lease.owner, lease.life).await;
            // Without leases each process asks for itself; the quota holds all the same.
            if leased.unwrap_or(true) {
                return Ok(None);
            }
            tokio::time::sleep(question::LEASE_POLL).await;
            if let Some(known) = self.recall(question).await?
                && known.state.as_ref().and_then(observed) > observed_before
            {
                return Ok(Some(known));
            }
            if Instant::now() >= give_up {
                return Err(Error::unavailable(
                    "other replicas keep asking for the order and get no answer; ask again later",
                ));
            }
        }
    }

    /// Asks the vendor, and remembers the answer.
    async fn ask(&self, question: &Question) -> Result<Landed, Error> {
        let gate = question.gate(Arc::clone(&self.0.store));
        let means = Means { gate: &gate, tokens: self.0.store.as_ref() };
        let asked = self.0.clock.now();
        let outcome = question.account.ask(&question.query, means).await;
        self.note(question, outcome.as_ref(), asked).await;
        let state = outcome?;
        if let Err(error) = self.0.store.keep(&question.key, &state).await {
            let detail = error.detail;
            tracing::debug!(detail, "an answer could not be remembered");
        }
        let spent = self.recall(question).await.ok().flatten().unwrap_or_default().spent;
        Ok(Landed::Live(Known { state: Some(state), spent }))
    }

    /// Remembers what an outcome says of the account and the order.
    async fn note(&self, question: &Question, outcome: Result<&Order, &Error>, asked: SystemTime) {
        let account = &question.account;
        let noted = match outcome {
            Err(Error { closes: Some(closing), retry_after: Some(wait), .. }) => {
                let probe = *closing == crate::error::Closing::UntilProbed;
                let seconds = wait.as_secs();
                tracing::warn!(
                    account = account.name,
                    seconds,
                    "the vendor is left alone for a while"
                );
                self.0.store.close(&account.key, *wait, probe).await
            }
            Ok(_) => self.0.store.reopen(&account.key).await,
            // Answers as well.
            Err(error)
                if matches!(
                    error.reason,
                    ErrorReason::OrderNotFound
                        | ErrorReason::OrderExpired
                        | ErrorReason::InvalidRequest
                ) =>
            {
                self.0.store.reopen(&account.key).await
            }
            Err(_) => Ok(()),
        };
        if let Err(error) = noted {
            tracing::debug!(detail = error.detail, "an account's state could not be remembered");
        }
        match outcome {
            Ok(_) => self.0.not_found.invalidate(&question.key),
            Err(error) if error.reason == ErrorReason::OrderNotFound => {
                let answer = (error.clone(), asked);
                self.0.not_found.insert(question.key.clone(), answer);
            }
            Err(_) => {}
        }
        account.note(outcome.err());
    }
}

fn out_of_time() -> Error {
    let message = "no answer came before the deadline; ask again, with more time";
    Error::new(ErrorReason::DeadlineExceeded, message)
}

fn later(
    time: Option<prost_types::Timestamp>,
    other: prost_types::Timestamp,
) -> prost_types::Timestamp {
    let order = |time: &prost_types::Timestamp| (time.seconds, time.nanos);
    time.filter(|time| order(time) > order(&other)).unwrap_or(other)
}
