//! What is measured of questions and accounts: counted as it happens, or looked up when it is
//! asked for. Used by `orders`; `app` asks for the latter.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use tokio::time::timeout;

use super::freshness::observed;
use super::question::Question;
use super::quota::{self, Asker, Priority, Quota};
use super::standing::Hindrance;
use super::{Account, Answer, Orders};
use crate::error::{Error, outcome};
use crate::metrics::{
    ANSWER_AGE_SECONDS, ANSWERS, BREAKER_OPEN, CLOSINGS, CREDENTIALS_REFUSED, JOINED, QUOTA_LEFT,
    QUOTA_LIMIT, QUOTA_REFUSALS, RETRIES, STORE_MEMORY, VENDOR_CALLS, VENDOR_CALLS_UNDER_WAY,
    VENDOR_CALLS_WAITING,
};
use crate::pb::{self, GetOrderResponse, Order, Source};
use crate::store::Held;

/// How long the store may take to tell what is left of an account's limits.
const PATIENCE: Duration = Duration::from_secs(1);

impl Orders {
    /// Looks up what is so now: of the store's memory, and of each account's limits, turns and standing.
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
        let (under_way, waiting) = account.calls.count();
        VENDOR_CALLS_UNDER_WAY.set([name], under_way);
        VENDOR_CALLS_WAITING.set([name], waiting);
        account.measure_places();
        for (hindrance, gauge) in
            [(Hindrance::Refused, &CREDENTIALS_REFUSED), (Hindrance::Failing, &BREAKER_OPEN)]
        {
            gauge.set([name], f64::from(account.standing.has(hindrance)));
        }
        let asker = Asker { priority: Priority::Poller, share: None };
        let quota = Quota::new(Arc::clone(account), Arc::clone(&self.0.store), "", asker);
        for (limit, window) in quota.minute_windows() {
            QUOTA_LIMIT.set([name, limit], f64::from(window.limit));
            let recalled = timeout(PATIENCE, self.0.store.recall("", Some(&window.key))).await;
            if let Ok(Ok(known)) = recalled {
                let spent = known.unwrap_or_default().spent.len();
                let spent = u32::try_from(spent).unwrap_or(u32::MAX);
                QUOTA_LEFT.set([name, limit], f64::from(window.limit.saturating_sub(spent)));
            } else {
                QUOTA_LEFT.forget([name, limit]);
            }
        }
    }
}

/// Begins to count what an account does: of a series that begins with 1, the 1 is no increase.
pub(super) fn begin(account: &Account) {
    let name = account.name.as_str();
    for source in [Source::Live, Source::Cache, Source::Stale] {
        ANSWERS.add([name, &word(source)], 0);
    }
    VENDOR_CALLS.add([name, "OK"], 0);
    for limit in quota::NAMES {
        QUOTA_REFUSALS.add([name, limit], 0);
    }
    for counter in [&JOINED, &RETRIES, &CLOSINGS] {
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
