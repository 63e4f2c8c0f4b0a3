//! A store whose operations are measured. Used by `store` for the one that is opened.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Call, Known, Store, Take};
use crate::error::Error;
use crate::metrics::{STORE_ERRORS, STORE_SECONDS};
use crate::pb::Order;
use crate::providers::{Token, TokenStore};

/// A store that is measured.
pub(super) struct Observed<S>(pub(super) S);

/// Measures one operation.
async fn observe<T>(
    operation: &'static str,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let begin = Instant::now();
    let outcome = work.await;
    STORE_SECONDS.observe([operation], begin.elapsed());
    // With 0 the series begins, long before the first failure.
    STORE_ERRORS.add([operation], outcome.is_err().into());
    outcome
}

#[async_trait]
impl<S: Store> Store for Observed<S> {
    fn glance(&self, order: &str, window: Option<&str>) -> Option<Known> {
        self.0.glance(order, window)
    }

    async fn recall(&self, order: &str, window: Option<&str>) -> Result<Option<Known>, Error> {
        observe("recall", self.0.recall(order, window)).await
    }

    async fn keep(&self, order: &str, state: &Order) -> Result<(), Error> {
        observe("keep", self.0.keep(order, state)).await
    }

    async fn take(&self, call: &Call) -> Result<Take, Error> {
        observe("take", self.0.take(call)).await
    }

    async fn settle(&self, call: &Call) -> Result<(), Error> {
        observe("settle", self.0.settle(call)).await
    }

    async fn give_back(&self, call: &Call) -> Result<(), Error> {
        observe("give_back", self.0.give_back(call)).await
    }

    async fn close(&self, account: &str, wait: Duration, probe: bool) -> Result<(), Error> {
        observe("close", self.0.close(account, wait, probe)).await
    }

    async fn reopen(&self, account: &str) -> Result<(), Error> {
        observe("reopen", self.0.reopen(account)).await
    }

    async fn opened(&self) {
        self.0.opened().await;
    }

    fn is_shared(&self) -> bool {
        self.0.is_shared()
    }
}

#[async_trait]
impl<S: Store> TokenStore for Observed<S> {
    async fn load(&self, identity: &str) -> Result<Option<Token>, Error> {
        observe("load", self.0.load(identity)).await
    }

    async fn save(&self, identity: &str, token: &Token) -> Result<(), Error> {
        observe("save", self.0.save(identity, token)).await
    }

    async fn drop_if(&self, identity: &str, token: &Token) -> Result<(), Error> {
        observe("drop_if", self.0.drop_if(identity, token)).await
    }

    async fn lease(&self, what: &str, owner: &str, life: Duration) -> Result<bool, Error> {
        observe("lease", self.0.lease(what, owner, life)).await
    }

    async fn release(&self, what: &str, owner: &str) -> Result<(), Error> {
        observe("release", self.0.release(what, owner)).await
    }
}
