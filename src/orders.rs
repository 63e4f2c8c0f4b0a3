//! The use case: return an order as fresh as the caller asks for, within the vendor's rules. `grpc`
//! asks questions here; `app` provides the accounts and the store.

mod freshness;
mod hit;
mod measures;
mod question;
mod search;
mod single_flight;
mod wanted;
mod watch;

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use lru::LruCache;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

pub use self::hit::Hit;
pub use self::wanted::{MinObserveTime, Wanted};
pub use self::watch::Watching;

use self::question::Question;
use self::single_flight::{Group, Joined, Outcome, Shared};
use crate::accounts::{Accounts, Caller, Priority};
use crate::clock::Clock;
use crate::error::Error;
use crate::pb::{ErrorReason, GetOrderResponse, OrderRef, Source};
use crate::store::{Known, OrderKey, Store};
use crate::telemetry::spans;

/// How long a vendor's not-found answer is cached.
const NOT_FOUND_FRESHNESS: Duration = Duration::from_secs(5);

/// How many not-found answers are cached.
const NOT_FOUND_LIMIT: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// Answers questions about orders.
#[derive(Clone)]
pub struct Orders(Arc<Inner>);

/// The answer to a question.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The response for the caller.
    pub response: GetOrderResponse,
    /// How long the vendor took, from when the request for the order was sent; only if this process
    /// asked the vendor for this answer.
    pub vendor_latency: Option<Duration>,
}

impl From<GetOrderResponse> for Answer {
    /// Builds an answer for which no vendor was asked.
    fn from(response: GetOrderResponse) -> Self {
        Self { response, vendor_latency: None }
    }
}

/// Negative cache: the not-found error and when it was observed.
type NotFound = LruCache<OrderKey, (Error, SystemTime)>;

struct Inner {
    accounts: Accounts,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    searches: Arc<Group>,
    not_found: Mutex<NotFound>,
    watching: watch::Watchers,
    tasks: TaskTracker,
}

impl Orders {
    /// Creates the service with these accounts and this store.
    #[must_use]
    pub fn new(accounts: Accounts, store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner {
            accounts,
            store,
            clock,
            searches: Arc::default(),
            not_found: Mutex::new(LruCache::new(NOT_FOUND_LIMIT)),
            watching: watch::Watchers::default(),
            tasks: TaskTracker::new(),
        }))
    }

    /// Returns, for each account, whether its vendor can be asked now, as far as is known. It cannot
    /// while it rejects the account's credentials, or while it fails and its breaker is open.
    pub fn availability(&self) -> impl Iterator<Item = (&str, tokio::sync::watch::Receiver<bool>)> {
        let accounts = self.0.accounts.iter();
        accounts.map(|account| (&*account.name, account.availability.subscribe()))
    }

    /// Returns the order, at most `max_age` old. Without `max_age` the account's configured freshness
    /// applies, and an older answer is allowed while the vendor cannot be asked. No answer was observed
    /// before `min_observe_time`.
    ///
    /// The vendor is asked in a separate task: a caller whose deadline passes stops waiting, but the
    /// call runs to its end and its answer is stored.
    ///
    /// # Errors
    /// `INVALID_REQUEST`, `PROVIDER_NOT_CONFIGURED` and `CALLER_FORBIDDEN` before anything is sent,
    /// `PROVIDER_QUOTA_EXHAUSTED` and `STORE_UNAVAILABLE` instead of a call that must not be made,
    /// `DEADLINE_EXCEEDED` at the deadline, and the errors of the vendor's module.
    pub async fn get(
        &self,
        caller: &Caller,
        order: &OrderRef,
        wanted: Wanted,
        deadline: Instant,
    ) -> Result<Answer, Error> {
        let question = self.question(caller, order, wanted)?;
        let answer = self.answer(&question, deadline).await;
        let answer = answer.map_err(|error| question.failed(error, order))?;
        measures::answered(&question, &answer, self.0.clock.now());
        Ok(answer)
    }

    /// Resolves once no call to a vendor is under way, every answer is stored, and the store is closed. Wait
    /// for this only after the last question.
    pub async fn idle(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
        self.0.store.close().await;
    }

    fn question(
        &self,
        caller: &Caller,
        order: &OrderRef,
        wanted: Wanted,
    ) -> Result<Question, Error> {
        let account = self.0.accounts.choose(caller, order)?;
        Question::new(account, caller, order, wanted, self.0.clock.now())
    }

    /// Answers a question by its deadline.
    async fn answer(&self, question: &Question, deadline: Instant) -> Result<Answer, Error> {
        let now = Instant::now();
        // The last tenth of the time is reserved for returning an older answer, if one is allowed.
        let stale_after = now + deadline.saturating_duration_since(now) / 10 * 9;
        // A search under way now was already under way when the question arrived, so its answer is
        // fresh enough for any `max_age`. It may be too early for `min_observe_time`.
        let mut under_way = self.0.searches.under_way(&question.key);
        let mut permit = None;
        loop {
            if let Some(answer) = self.at_hand(question) {
                return answer.map(Answer::from);
            }
            // A watch holds its own permit.
            if permit.is_none() && question.class.priority != Priority::Background {
                match question.account.caller_permit() {
                    Ok(share) => permit = Some(share),
                    Err(error) => return self.stale_or(question, error),
                }
            }
            let (mut search, leads) = match self.join(question, under_way.take()) {
                Joined::Shared(search) => (search, false),
                Joined::Leading(search) => (search, true),
                Joined::Known(answer) => return answer.map(Answer::from),
            };
            let outcome = match question.max_age {
                Some(_) => timeout_at(deadline, search.outcome()).await,
                None => match timeout_at(stale_after, search.outcome()).await {
                    Ok(outcome) => Ok(outcome),
                    Err(_elapsed) => match self.stale(question, None) {
                        Some(stale) => return Ok(stale.into()),
                        None => timeout_at(deadline, search.outcome()).await,
                    },
                },
            };
            let Ok(outcome) = outcome else { return Err(out_of_time()) };
            // The last caller that shares the search gets its outcome without a copy.
            drop(search);
            if let Some(answer) = self.settle(question, Arc::unwrap_or_clone(outcome), leads) {
                return answer;
            }
        }
    }

    /// Turns a search's outcome into the question's answer. `None` if the question must be asked again:
    /// the outcome is good enough for the search's leader, and not for this question, which joined it.
    /// What the question's own search asked the vendor for always counts, so that the vendor is asked
    /// once.
    fn settle(
        &self,
        question: &Question,
        outcome: Outcome,
        leads: bool,
    ) -> Option<Result<Answer, Error>> {
        let now = self.0.clock.now();
        let counts = |known: &Known, asked_here: bool| {
            let state = known.state.as_ref();
            leads || state.is_none_or(|state| question.counts(state, asked_here, now))
        };
        match outcome {
            // The vendor was asked before this caller's `min_observe_time`.
            Outcome::Live(known, latency) if !counts(&known, latency.is_some()) => None,
            Outcome::Live(known, vendor_latency) => {
                let response = question.found(known, Source::Live, now);
                Some(Ok(Answer { response, vendor_latency }))
            }
            // The leader accepted an older answer than this caller does.
            Outcome::Cached(known) if !question.is_satisfied_by(&known, now) => None,
            Outcome::Cached(known) => Some(Ok(question.found(known, Source::Cache, now).into())),
            // The leader was stopped by limits of its own, which do not apply to this question.
            Outcome::Failed(error, class) if question.may_fare_better(&error, &class) => None,
            // The order may exist since, because the caller has seen it.
            Outcome::Failed(error, _) if !leads && self.came_too_early(question, &error) => None,
            Outcome::Failed(error, _) => Some(self.stale_or(question, error)),
        }
    }

    fn not_found(&self) -> MutexGuard<'_, NotFound> {
        self.0.not_found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the cached not-found answer, if it is fresh enough.
    fn not_found_at_hand(&self, question: &Question) -> Option<Error> {
        let mut not_found = self.not_found();
        let (error, observed) = not_found.get(&question.key)?;
        let max_age = question.max_age.unwrap_or(NOT_FOUND_FRESHNESS).min(NOT_FOUND_FRESHNESS);
        let is_fresh = *observed + max_age > question.arrival;
        (is_fresh && question.is_reached_at(*observed)).then(|| error.clone())
    }

    /// Whether the error says that the vendor does not know the order, as of a time that is too early for
    /// the question.
    fn came_too_early(&self, question: &Question, error: &Error) -> bool {
        let observed = || self.not_found().peek(&question.key).map(|(_, observed)| *observed);
        error.reason == ErrorReason::OrderNotFound
            && question.min_observe_time.is_some()
            && observed().is_some_and(|observed| !question.is_reached_at(observed))
    }

    /// Returns an answer that needs no I/O.
    fn at_hand(&self, question: &Question) -> Option<Result<GetOrderResponse, Error>> {
        if let Some(error) = self.not_found_at_hand(question) {
            return Some(Err(error));
        }
        let known = self.0.store.peek(&question.key, question.day_window.as_ref())?;
        let now = self.0.clock.now();
        question.is_satisfied_by(&known, now).then(|| Ok(question.found(known, Source::Cache, now)))
    }

    /// Returns the last known state if it may replace the answer, else the error.
    fn stale_or(&self, question: &Question, error: Error) -> Result<Answer, Error> {
        self.stale(question, Some(&error)).map(Answer::from).ok_or(error)
    }

    /// Returns the last known state if it may replace `error`, or end a wait.
    fn stale(&self, question: &Question, error: Option<&Error>) -> Option<GetOrderResponse> {
        let may_stand_in = error.is_none_or(|error| error.verdict().allows_stale);
        if !may_stand_in || question.max_age.is_some() {
            return None;
        }
        let known = self.0.store.peek(&question.key, question.day_window.as_ref())?;
        let now = self.0.clock.now();
        if !question.is_reached_by(known.state.as_ref()?.into(), now) {
            return None;
        }
        let mut answer = question.found(known, Source::Stale, now);
        let wait = error.and_then(|error| error.retry_after).unwrap_or_default();
        let earliest = (now + wait).into();
        answer.refresh_time = Some(later(answer.refresh_time, earliest));
        Some(answer)
    }

    /// Joins the search under way for the question's order, or leads a new one.
    fn join(
        &self,
        question: &Question,
        under_way: Option<Shared>,
    ) -> Joined<Result<GetOrderResponse, Error>> {
        let lead = |leader| {
            let span = spans::search(question.account.provider, &question.account.name);
            // In a box, because the runtime moves a task several times before it runs.
            self.0.tasks.spawn(Box::pin(self.clone().lead(question.clone(), leader, span)));
        };
        let joined = match under_way {
            Some(search) => Joined::Shared(search),
            None => self.0.searches.join(&question.key, || self.at_hand(question), lead),
        };
        if matches!(joined, Joined::Shared(_)) {
            question.account.meters.joined.inc();
        }
        joined
    }
}

fn out_of_time() -> Error {
    let message = "no answer arrived before the deadline; retry with a longer deadline";
    Error::new(ErrorReason::DeadlineExceeded, message)
}

fn later(
    time: Option<prost_types::Timestamp>,
    other: prost_types::Timestamp,
) -> prost_types::Timestamp {
    let order = |time: &prost_types::Timestamp| (time.seconds, time.nanos);
    time.filter(|time| order(time) > order(&other)).unwrap_or(other)
}
