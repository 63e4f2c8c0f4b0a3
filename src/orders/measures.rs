//! What is measured of questions and accounts: counted as it happens, or looked up when it is
//! asked for. Used by `orders`; `app` asks for the latter.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use tokio::time::timeout;

use super::freshness::observed;
use super::question::Question;
use super::{Answer, Orders};
use crate::accounts::{Account, Impairment, Priority, Quota, QuotaClass};
use crate::error::{Error, outcome};
use crate::metrics::{
    ANSWER_AGE_SECONDS, ANSWERS, BREAKER_OPEN, CREDENTIALS_REFUSED, JOINED, PAUSES, QUOTA_LEFT,
    QUOTA_LIMIT, QUOTA_REFUSALS, RETRIES, STORE_MEMORY, VENDOR_CALLS, VENDOR_CALLS_UNDER_WAY,
    VENDOR_CALLS_WAITING,
};
use crate::pb::{self, GetOrderResponse, Order, Source};
use crate::store::{Held, Limit};

/// How long the store may take to tell what is left of an account's limits.
const PATIENCE: Duration = Duration::from_secs(1);

impl Orders {
    /// Looks up what is so now: of the store's memory, and of each account's limits, permits and availability.
    pub async fn measure(&self) {
        let Held { cache, terminal, spent_calls } = self.0.store.held();
        for (kind, bytes) in [("cache", cache), ("terminal", terminal), ("calls", spent_calls)] {
            #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
            STORE_MEMORY.set([kind], bytes as f64);
        }
        join_all(self.0.accounts.iter().map(|account| self.measure_account(account))).await;
    }

    async fn measure_account(&self, account: &Arc<Account>) {
        let name = account.name.as_str();
        let (under_way, waiting) = account.concurrency();
        VENDOR_CALLS_UNDER_WAY.set([name], under_way);
        VENDOR_CALLS_WAITING.set([name], waiting);
        account.measure_places();
        for (impairment, gauge) in [
            (Impairment::CredentialsRejected, &CREDENTIALS_REFUSED),
            (Impairment::Failing, &BREAKER_OPEN),
        ] {
            gauge.set([name], f64::from(account.availability.has(impairment)));
        }
        let class = QuotaClass { priority: Priority::Background, share: None };
        let store = Arc::clone(&self.0.store);
        let quota = Quota::new(Arc::clone(account), store, &String::new().into(), class, None);
        for window in quota.minute_windows() {
            let limit = window.limit.name();
            QUOTA_LIMIT.set([name, limit], f64::from(window.max_calls));
            if let Ok(Ok(spent)) = timeout(PATIENCE, self.0.store.spent(&window.key)).await {
                let spent = u32::try_from(spent.len()).unwrap_or(u32::MAX);
                QUOTA_LEFT.set([name, limit], f64::from(window.max_calls.saturating_sub(spent)));
            } else {
                QUOTA_LEFT.forget([name, limit]);
            }
        }
    }
}

/// Creates each series of an account at 0: `increase()` misses the first event of a series born at 1.
pub(super) fn begin(account: &Account) {
    let name = account.name.as_str();
    for source in [Source::Live, Source::Cache, Source::Stale] {
        ANSWERS.add([name, &word(source)], 0);
    }
    VENDOR_CALLS.add([name, "OK"], 0);
    for limit in Limit::ALL {
        QUOTA_REFUSALS.add([name, limit.name()], 0);
    }
    for counter in [&JOINED, &RETRIES, &PAUSES] {
        counter.add([name], 0);
    }
}

/// Counts what a caller was told.
pub(super) fn answered(question: &Question, answer: &Answer, now: SystemTime) {
    let GetOrderResponse { order, source, .. } = &answer.response;
    let name = question.account.name.as_str();
    ANSWERS.add([name, &word(Source::try_from(*source).unwrap_or_default())], 1);
    let age = order.as_ref().filter(|order| !order.terminal).and_then(observed);
    if let Some(age) = age.and_then(|observed| now.duration_since(observed).ok()) {
        ANSWER_AGE_SECONDS.observe([name], age);
    }
}

/// Counts the calls that one attempt has sent. All but the last one were made again with another
/// token.
pub(super) fn called(account: &Account, sent: u64, result: &Result<Order, Error>) {
    if let Some(refused) = sent.checked_sub(1) {
        VENDOR_CALLS.add([&account.name, outcome(result)], 1);
        if refused > 0 {
            VENDOR_CALLS.add([&account.name, "TOKEN_REFUSED"], refused);
        }
    }
}

fn word(source: Source) -> String {
    pb::short_name(source).to_ascii_lowercase()
}
