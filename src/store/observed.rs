//! Wraps a store to measure and trace its operations. `store` wraps every store that it opens.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{
    AccountKey, Call, FenceState, Held, Known, OrderKey, Outcome, Reservation, Snapshot, Store,
    WindowKey,
};
use crate::error::Error;
use crate::pb::Order;
use crate::providers::{Token, TokenStore};
use crate::telemetry::metrics::{ByWord, Counter, Histogram, Metrics};
use crate::telemetry::spans;

/// A store with metrics and traces.
pub(super) struct Observed<S> {
    /// The kind of store, in one word.
    system: &'static str,
    store: S,
    seconds: ByWord<Histogram>,
    errors: ByWord<Counter>,
}

impl<S: Store> Observed<S> {
    pub(super) fn new(system: &'static str, store: S, metrics: &Metrics) -> Self {
        let (seconds, errors) =
            (metrics.store_seconds.by_last([]), metrics.store_errors.by_last([]));
        Self { system, store, seconds, errors }
    }

    /// Observes one operation.
    async fn observe<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let begin = Instant::now();
        let span = spans::store(self.system, self.store.is_shared(), operation);
        let outcome = span.around(work).await;
        self.seconds.of(operation).observe(begin.elapsed());
        // Fetch the counter in any case, so that the series starts at 0 before the first failure.
        self.errors.of(operation).add(outcome.is_err().into());
        outcome
    }
}

#[async_trait]
impl<S: Store> Store for Observed<S> {
    fn snapshot(&self, order: &OrderKey, window: Option<&WindowKey>) -> Snapshot {
        self.store.snapshot(order, window)
    }

    async fn get(
        &self,
        order: &OrderKey,
        window: Option<&WindowKey>,
    ) -> Result<Option<Known>, Error> {
        self.observe("get", self.store.get(order, window)).await
    }

    async fn put(&self, order: &OrderKey, state: &Order) -> Result<(), Error> {
        self.observe("put", self.store.put(order, state)).await
    }

    async fn reserve(&self, call: &Call) -> Result<Reservation, Error> {
        self.observe("reserve", self.store.reserve(call)).await
    }

    async fn finish(&self, call: &Call, outcome: Outcome<'_>) -> Result<Vec<SystemTime>, Error> {
        self.observe("finish", self.store.finish(call, outcome)).await
    }

    async fn cancel(&self, call: &Call) -> Result<(), Error> {
        self.observe("cancel", self.store.cancel(call)).await
    }

    async fn pause(&self, account: &AccountKey, wait: Duration, probe: bool) -> Result<(), Error> {
        self.observe("pause", self.store.pause(account, wait, probe)).await
    }

    async fn spent(&self, window: &WindowKey) -> Result<Vec<SystemTime>, Error> {
        self.observe("spent", self.store.spent(window)).await
    }

    async fn ping(&self) -> Result<(), Error> {
        self.store.ping().await
    }

    async fn opened(&self) {
        self.store.opened().await;
    }

    async fn close(&self) {
        self.store.close().await;
    }

    fn fence(&self) -> FenceState {
        self.store.fence()
    }

    fn held(&self) -> Held {
        self.store.held()
    }

    fn is_shared(&self) -> bool {
        self.store.is_shared()
    }
}

#[async_trait]
impl<S: Store> TokenStore for Observed<S> {
    async fn load(&self, identity: &str) -> Result<Option<Token>, Error> {
        self.observe("load", self.store.load(identity)).await
    }

    async fn save(&self, identity: &str, token: &Token) -> Result<(), Error> {
        self.observe("save", self.store.save(identity, token)).await
    }

    async fn remove_if(&self, identity: &str, token: &Token) -> Result<(), Error> {
        self.observe("remove_if", self.store.remove_if(identity, token)).await
    }

    async fn lease(&self, what: &str, owner: &str, life: Duration) -> Result<bool, Error> {
        self.observe("lease", self.store.lease(what, owner, life)).await
    }

    async fn release(&self, what: &str, owner: &str) -> Result<(), Error> {
        self.observe("release", self.store.release(what, owner)).await
    }
}
