//! A store whose operations are measured, and traced. Used by `store` for the one that is opened.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Call, Held, Known, Store, Take};
use crate::error::Error;
use crate::metrics::{STORE_ERRORS, STORE_SECONDS};
use crate::pb::Order;
use crate::providers::{Token, TokenStore};
use crate::spans;

/// A store that is observed.
pub(super) struct Observed<S> {
    /// What kind it is, in one word.
    pub(super) system: &'static str,
    pub(super) store: S,
}

impl<S: Store> Observed<S> {
    /// Observes one operation.
    async fn observe<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let begin = Instant::now();
        let span = spans::store(self.system, self.store.is_shared(), operation);
        let outcome = span.around(work).await;
        STORE_SECONDS.observe([operation], begin.elapsed());
        // With 0 the series begins, long before the first failure.
        STORE_ERRORS.add([operation], outcome.is_err().into());
        outcome
    }
}

#[async_trait]
impl<S: Store> Store for Observed<S> {
    fn glance(&self, order: &str, window: Option<&str>) -> Option<Known> {
        self.store.glance(order, window)
    }

    async fn recall(&self, order: &str, window: Option<&str>) -> Result<Option<Known>, Error> {
        self.observe("recall", self.store.recall(order, window)).await
    }

    async fn keep(&self, order: &str, state: &Order) -> Result<(), Error> {
        self.observe("keep", self.store.keep(order, state)).await
    }

    async fn take(&self, call: &Call) -> Result<Take, Error> {
        self.observe("take", self.store.take(call)).await
    }

    async fn settle(&self, call: &Call) -> Result<(), Error> {
        self.observe("settle", self.store.settle(call)).await
    }

    async fn give_back(&self, call: &Call) -> Result<(), Error> {
        self.observe("give_back", self.store.give_back(call)).await
    }

    async fn close(&self, account: &str, wait: Duration, probe: bool) -> Result<(), Error> {
        self.observe("close", self.store.close(account, wait, probe)).await
    }

    async fn reopen(&self, account: &str) -> Result<(), Error> {
        self.observe("reopen", self.store.reopen(account)).await
    }

    async fn ping(&self) -> Result<(), Error> {
        self.store.ping().await
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

    async fn drop_if(&self, identity: &str, token: &Token) -> Result<(), Error> {
        self.observe("drop_if", self.store.drop_if(identity, token)).await
    }

    async fn lease(&self, what: &str, owner: &str, life: Duration) -> Result<bool, Error> {
        self.observe("lease", self.store.lease(what, owner, life)).await
    }

    async fn release(&self, what: &str, owner: &str) -> Result<(), Error> {
        self.observe("release", self.store.release(what, owner)).await
    }
}
