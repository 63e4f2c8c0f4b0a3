//! Metrics of questions and accounts: counted as events happen, or computed on request. Used by
//! `orders`; `app` requests the latter.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use tokio::time::timeout;

use super::freshness::observed;
use super::question::Question;
use super::{Answer, Orders};
use crate::accounts::{Account, Impairment, Priority, Quota, QuotaClass};
use crate::error::{Error, outcome};
use crate::pb::{GetOrderResponse, Order, Source};
use crate::store::{Encoded, Held};
use crate::telemetry::metrics::Metrics;

/// How long to wait for the store to report an account's remaining calls.
const PATIENCE: Duration = Duration::from_secs(1);

impl Orders {
    /// Updates the gauges: the store's memory, and each account's limits, permits and availability.
    pub async fn measure(&self, metrics: &Metrics) {
        let Held { cache, terminal, spent_calls } = self.0.store.held();
        for (kind, bytes) in [("cache", cache), ("terminal", terminal), ("calls", spent_calls)] {
            #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
            metrics.store_memory.with([kind]).set(bytes as f64);
        }
        let fence = self.0.store.fence();
        #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
        for (gauge, value) in [
            (&metrics.store_open, f64::from(fence.open)),
            (&metrics.store_replicas, fence.replicas as f64),
            (&metrics.store_missing, fence.missing_calls as f64),
        ] {
            gauge.with([]).set(value);
        }
        metrics.store_losses.with([]).raise_to(fence.losses);
        join_all(self.0.accounts.iter().map(|account| self.measure_account(account, metrics)))
            .await;
    }

    async fn measure_account(&self, account: &Arc<Account>, metrics: &Metrics) {
        let name = &*account.name;
        let (under_way, waiting) = account.concurrency();
        let meters = &account.meters;
        meters.vendor_calls_under_way.set(under_way);
        meters.vendor_calls_waiting.set(waiting);
        account.measure_places();
        for (impairment, gauge) in [
            (Impairment::CredentialsRejected, &meters.credentials_refused),
            (Impairment::Failing, &meters.breaker_open),
        ] {
            gauge.set(f64::from(account.availability.has(impairment)));
        }
        let class = QuotaClass { priority: Priority::Background, share: None };
        let store = Arc::clone(&self.0.store);
        let quota = Quota::new(Arc::clone(account), store, &String::new().into(), class, None);
        for window in quota.minute_windows() {
            let limit = window.limit.name();
            metrics.quota_limit.with([name, limit]).set(f64::from(window.max_calls));
            if let Ok(Ok(spent)) = timeout(PATIENCE, self.0.store.spent(&window.key)).await {
                let spent = u32::try_from(spent.len()).unwrap_or(u32::MAX);
                let left = window.max_calls.saturating_sub(spent);
                metrics.quota_left.with([name, limit]).set(f64::from(left));
            } else {
                metrics.quota_left.forget([name, limit]);
            }
        }
    }
}

/// Counts an answer that a caller got.
pub(super) fn answered(question: &Question, answer: &Answer, now: SystemTime) {
    let GetOrderResponse { order, source, .. } = &answer.response;
    let source = Source::try_from(*source).unwrap_or_default();
    let observed = order.as_ref().filter(|order| !order.terminal).and_then(observed);
    count(&question.account, source, observed, now);
}

/// Counts a plain answer from memory.
pub(super) fn hit(account: &Account, state: &Encoded, now: SystemTime) {
    count(account, Source::Cache, state.observed.filter(|_| !state.terminal), now);
}

/// Counts an answer from that source. `observed` is when its state was observed, if it can get old.
fn count(account: &Account, source: Source, observed: Option<SystemTime>, now: SystemTime) {
    account.meters.answers(source).inc();
    if let Some(age) = observed.and_then(|observed| now.duration_since(observed).ok()) {
        account.meters.answer_age.get().observe(age);
    }
}

/// Counts the calls that one attempt sent. Each call but the last was repeated with another token.
pub(super) fn called(account: &Account, sent: u64, result: &Result<Order, Error>) {
    if let Some(refused) = sent.checked_sub(1) {
        account.meters.vendor_calls.of(outcome(result)).inc();
        if refused > 0 {
            account.meters.vendor_calls.of("TOKEN_REFUSED").add(refused);
        }
    }
}
