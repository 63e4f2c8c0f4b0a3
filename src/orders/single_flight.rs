//! Searches under way, by order: equal questions share one search. Used by `orders`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::accounts::QuotaClass;
use crate::error::Error;
use crate::store::{Known, OrderKey};

/// The outcome of a search.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    /// The vendor was asked, for this question or by another process at the same time. The duration is
    /// set if this process asked.
    Live(Known, Option<Duration>),
    /// The vendor was not asked: the known state was fresh enough for the leader.
    Cached(Known),
    /// The search failed for a question of that class.
    Failed(Error, QuotaClass),
}

/// The result of joining.
pub(super) enum Joined<T> {
    /// A search was under way: the question shares it.
    Shared(Shared),
    /// No search was under way: the question leads this new one.
    Leading(Shared),
    /// An answer has become known since the question last checked.
    Known(T),
}

/// A search under way.
#[derive(Clone)]
pub(super) struct Shared(watch::Receiver<Option<Arc<Outcome>>>);

impl Shared {
    /// Waits for the outcome. This has no time limit; the caller sets its own.
    pub(super) async fn outcome(&mut self) -> Arc<Outcome> {
        let outcome = self.0.wait_for(Option::is_some).await.ok().and_then(|ended| ended.clone());
        outcome.unwrap_or_else(|| {
            // The search's task has panicked.
            let error = Error::internal("a task that asks a vendor panicked");
            Arc::new(Outcome::Failed(error, QuotaClass::default()))
        })
    }
}

/// All searches under way.
#[derive(Default)]
pub(super) struct Group(Mutex<HashMap<OrderKey, Shared>>);

/// The obligation to end a search: dropping the leader ends it in any case.
pub(super) struct Leader {
    group: Arc<Group>,
    order: OrderKey,
    outcome: watch::Sender<Option<Arc<Outcome>>>,
}

impl Group {
    fn lock(&self) -> MutexGuard<'_, HashMap<OrderKey, Shared>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the search under way for an order.
    pub(super) fn under_way(&self, order: &OrderKey) -> Option<Shared> {
        self.lock().get(order).cloned()
    }

    /// Joins the search under way, or begins one and hands it to `lead`. If `known` returns an answer,
    /// no search begins: one may have arrived since the question last checked.
    pub(super) fn join<T>(
        self: &Arc<Self>,
        order: &OrderKey,
        known: impl FnOnce() -> Option<T>,
        lead: impl FnOnce(Leader),
    ) -> Joined<T> {
        let mut searches = self.lock();
        if let Some(shared) = searches.get(order) {
            return Joined::Shared(shared.clone());
        }
        if let Some(answer) = known() {
            return Joined::Known(answer);
        }
        let (outcome, ended) = watch::channel(None);
        let shared = Shared(ended);
        searches.insert(order.clone(), shared.clone());
        drop(searches);
        lead(Leader { group: Arc::clone(self), order: order.clone(), outcome });
        Joined::Leading(shared)
    }
}

impl Leader {
    /// Ends the search for everyone who shares it. A later question begins a new search.
    pub(super) fn complete(self, outcome: Outcome) {
        self.group.lock().remove(&self.order);
        self.outcome.send_replace(Some(Arc::new(outcome)));
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        // After `complete` another search may be under way; this must not end that one.
        let mut searches = self.group.lock();
        if searches
            .get(&self.order)
            .is_some_and(|shared| shared.0.same_channel(&self.outcome.subscribe()))
        {
            searches.remove(&self.order);
        }
    }
}
