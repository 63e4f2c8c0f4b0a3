//! The use case: an order as fresh as asked, within the vendor's rules. Used by `grpc`, which
//! asks, and by `app`, which hands it the accounts and the store.

mod accounts;
mod breaker;
mod caller;
mod calls;
mod flights;
mod freshness;
mod measures;
mod outcome;
mod proof;
mod question;
mod quota;
mod retry;
mod standing;
mod watch;

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use lru::LruCache;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::task::TaskTracker;

pub use accounts::{Account, Accounts};
pub use caller::Caller;
pub use proof::{Proved, Shared};
pub use watch::Watching;

use self::calls::Turn;
use self::flights::{Flight, Flights, Landed, Pilot};
use self::freshness::observed;
use self::question::Question;
use crate::clock::Clock;
use crate::error::Error;
use crate::metrics::{JOINED, RETRIES};
use crate::pb::{ErrorReason, GetOrderResponse, OrderRef, Source};
use crate::providers::Means;
use crate::spans::{self, Span};
use crate::store::{Known, Store};

/// For how long it is remembered that a vendor does not know an order.
const NOT_FOUND_FRESHNESS: Duration = Duration::from_secs(5);

/// How many orders that vendors do not know are remembered.
const NOT_FOUND_LIMIT: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// Answers questions about orders.
#[derive(Clone)]
pub struct Orders(Arc<Inner>);

/// What a question gets.
#[derive(Debug, Clone)]
pub struct Answer {
    /// What the caller gets.
    pub response: GetOrderResponse,
    /// How long the vendor took, from when the request for the order was sent; only where this
    /// process has asked it for this answer.
    pub vendor_latency: Option<Duration>,
}

impl From<GetOrderResponse> for Answer {
    /// An answer that no vendor was asked for.
    fn from(response: GetOrderResponse) -> Self {
        Self { response, vendor_latency: None }
    }
}

/// That a vendor does not know an order, and of when that is.
type NotFound = LruCache<String, (Error, SystemTime)>;

struct Inner {
    accounts: Accounts,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    flights: Arc<Flights>,
    not_found: Mutex<NotFound>,
    watching: watch::Watchers,
    tasks: TaskTracker,
}

impl Orders {
    /// Asks with these accounts, and remembers in this store.
    #[must_use]
    pub fn new(accounts: Accounts, store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        accounts.iter().for_each(|account| measures::begin(account));
        Self(Arc::new(Inner {
            accounts,
            store,
            clock,
            flights: Arc::default(),
            not_found: Mutex::new(LruCache::new(NOT_FOUND_LIMIT)),
            watching: watch::Watchers::default(),
            tasks: TaskTracker::new(),
        }))
    }

    /// For each account, whether its vendor can be asked now as far as is known: not while it
    /// turns the account's credentials down, nor while it fails and its breaker is open.
    pub fn askable(&self) -> impl Iterator<Item = (&str, tokio::sync::watch::Receiver<bool>)> {
        self.0.accounts.iter().map(|account| (account.name.as_str(), account.standing.askable()))
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
    ) -> Result<Answer, Error> {
        let question = self.question(caller, order, max_age)?;
        let answer = self.answer(&question, deadline).await;
        let answer = answer.map_err(|error| question.failed(error, order))?;
        measures::answered(&question, &answer, self.0.clock.now());
        Ok(answer)
    }

    /// Resolves once no call to a vendor is under way and every answer is stored. Whoever waits for
    /// it lets nobody ask any more.
    pub async fn idle(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
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
    async fn answer(&self, question: &Question, deadline: Instant) -> Result<Answer, Error> {
        let now = Instant::now();
        // The last tenth is for an older answer, where one will do.
        let content_at = now + deadline.saturating_duration_since(now) / 10 * 9;
        // What is under way now was under way at the arrival, and is young enough for anyone.
        let mut under_way = self.0.flights.under_way(&question.key);
        let mut place = None;
        loop {
            if let Some(answer) = self.at_hand(question) {
                return answer.map(Answer::from);
            }
            // A watch has a place of its own.
            if place.is_none() && question.asker.priority != quota::Priority::Poller {
                match question.account.place() {
                    Ok(taken) => place = Some(taken),
                    Err(error) => {
                        let stale = self.stale(question, Some(&error));
                        return stale.map(Answer::from).ok_or(error);
                    }
                }
            }
            let mut flight = match self.join(question, under_way.take()) {
                Ok(flight) => flight,
                Err(answer) => return answer.map(Answer::from),
            };
            let landed = tokio::select! {
                biased;
                landed = flight.landed() => landed,
                () = sleep_until(content_at), if question.max_age.is_none() => {
                    if let Some(stale) = self.stale(question, None) {
                        return Ok(stale.into());
                    }
                    match timeout_at(deadline, flight.landed()).await {
                        Ok(landed) => landed,
                        Err(_elapsed) => return Err(out_of_time()),
                    }
                }
                () = sleep_until(deadline) => return Err(out_of_time()),
            };
            match landed.as_ref() {
                Landed::Live(known, vendor_latency) => {
                    let response = question.found(known.clone(), Source::Live, self.0.clock.now());
                    return Ok(Answer { response, vendor_latency: *vendor_latency });
                }
                // Who began was content with less, so this question asks for itself.
                Landed::Kept(known) if !question.is_content(known, self.0.clock.now()) => {}
                Landed::Kept(known) => {
                    let now = self.0.clock.now();
                    return Ok(question.found(known.clone(), Source::Cache, now).into());
                }
                // Its own limits are what stopped who began, and they are not this question's.
                Landed::Failed(error, asker) if question.may_fare_better(error, asker) => {}
                Landed::Failed(error, _) => {
                    let stale = self.stale(question, Some(error));
                    return stale.map(Answer::from).ok_or_else(|| error.clone());
                }
            }
        }
    }

    fn not_found(&self) -> MutexGuard<'_, NotFound> {
        self.0.not_found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What can be answered without asking anyone.
    fn at_hand(&self, question: &Question) -> Option<Result<GetOrderResponse, Error>> {
        if let Some((error, observed)) = self.not_found().get(&question.key).cloned() {
            let max_age = question.max_age.unwrap_or(NOT_FOUND_FRESHNESS).min(NOT_FOUND_FRESHNESS);
            if observed + max_age > question.arrival {
                return Some(Err(error));
            }
        }
        let known = self.0.store.glance(&question.key, question.day_window.as_deref())?;
        let now = self.0.clock.now();
        question.is_content(&known, now).then(|| Ok(question.found(known, Source::Cache, now)))
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
        let now = self.0.clock.now();
        let mut answer = question.found(known, Source::Stale, now);
        let wait = error.and_then(|error| error.retry_after).unwrap_or_default();
        let earliest = (now + wait).into();
        answer.refresh_time = Some(later(answer.refresh_time, earliest));
        Some(answer)
    }

    /// Joins the call that is under way for the question's order, or makes one.
    fn join(
        &self,
        question: &Question,
        under_way: Option<Flight>,
    ) -> Result<Flight, Result<GetOrderResponse, Error>> {
        let mut is_pilot = false;
        let flight = under_way.map_or_else(
            || {
                let at_hand = || self.at_hand(question);
                self.0.flights.join(&question.key, at_hand, |pilot| {
                    is_pilot = true;
                    let span = spans::search(question.account.provider, &question.account.name);
                    self.0.tasks.spawn(self.clone().fly(question.clone(), pilot, span));
                })
            },
            Ok,
        )?;
        JOINED.add([&question.account.name], u64::from(!is_pilot));
        Ok(flight)
    }

    async fn fly(self, question: Question, pilot: Pilot, span: Span) {
        let landed = match span.around(self.find(&question)).await {
            Ok(landed) => landed,
            Err(error) => Landed::Failed(error, question.asker.clone()),
        };
        if let Landed::Live(Known { state: Some(state), .. }, _) = &landed {
            self.0.watching.learned(&question.key, state, self.0.clock.now());
        }
        pilot.land(landed);
    }

    /// Finds the order: in the store, with another process that is asking for it, or at the vendor.
    async fn find(&self, question: &Question) -> Result<Landed, Error> {
        let recalled = self.recall(question).await?;
        let known = match recalled {
            Some(known) if question.is_content(&known, self.0.clock.now()) => {
                return Ok(Landed::Kept(known));
            }
            recalled => recalled.filter(|_| self.0.store.is_shared()),
        };
        // Before the lease, which must not end while the turn is waited for.
        let turn = question.account.turn(self.0.clock.as_ref()).await?;
        let Some(known) = known else { return self.ask(question, turn, None).await };
        let lease = question.lease();
        if let Some(known) = self.await_lease(question, &lease, &known).await? {
            return Ok(Landed::Live(known, None));
        }
        let landed = self.ask(question, turn, Some(&lease)).await;
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
                && let Some(at) = known.state.as_ref().and_then(observed)
                // Not only a later one: what was known may have been of a clock that was ahead.
                && Some(at) != observed_before
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
    async fn ask(
        &self,
        question: &Question,
        mut turn: Turn<'_>,
        lease: Option<&question::Lease>,
    ) -> Result<Landed, Error> {
        let gate = question.gate(Arc::clone(&self.0.store));
        let means = Means { gate: &gate, tokens: self.0.store.as_ref() };
        let asked = self.0.clock.now();
        let outcome = loop {
            let outcome = turn.attempt(&question.query, means, self.0.clock.as_ref()).await;
            measures::called(&question.account, gate.sent(), &outcome);
            if !turn.comes_again().await {
                break outcome;
            }
            RETRIES.add([&question.account.name], 1);
            // It lasts for one attempt. Where it cannot be had again, the worst is that two ask.
            if let Some(lease) = lease {
                let _ = self.0.store.lease(&lease.what, &lease.owner, lease.life).await;
            }
        };
        let answered = self.0.clock.now();
        // Nothing is under way any more, however long the store takes.
        drop(turn);
        self.note(question, outcome.as_ref(), asked).await;
        let state = outcome?;
        if let Err(error) = self.0.store.keep(&question.key, &state).await {
            let detail = error.detail;
            tracing::debug!(detail, "an answer could not be remembered");
        }
        let spent = self.recall(question).await.ok().flatten().unwrap_or_default().spent;
        let vendor_latency = observed(&state).and_then(|sent| answered.duration_since(sent).ok());
        Ok(Landed::Live(Known { state: Some(state), spent }, vendor_latency))
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
