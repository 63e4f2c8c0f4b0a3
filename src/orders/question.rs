//! One question, from its arrival to its answer: what it asks for, what it is content with, and
//! how its answer looks. Used by `orders`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::accounts::Account;
use super::caller::Caller;
use super::freshness::{default_max_age, is_young, refresh_time};
use super::quota::{self, Asker, Priority, Quota};
use crate::error::Error;
use crate::pb::{ErrorReason, GetOrderResponse, Order, OrderRef, Source};
use crate::providers::{Query, new_id};
use crate::store::{Known, Store};

/// How often a process that waits for another one's answer looks for it.
pub(super) const LEASE_POLL: Duration = Duration::from_millis(50);

/// A question about an order.
#[derive(Clone)]
pub(super) struct Question {
    pub(super) account: Arc<Account>,
    pub(super) query: Query,
    /// What stores know the order by.
    pub(super) key: String,
    /// What stores know the order's own limit by, where it has one.
    pub(super) day_window: Option<String>,
    /// How old the answer may be; `None` leaves it to the account.
    pub(super) max_age: Option<Duration>,
    pub(super) arrival: SystemTime,
    pub(super) asker: Asker,
}

/// The right to ask for an order, for one of the processes that share a store.
pub(super) struct Lease {
    pub(super) what: String,
    pub(super) owner: String,
    pub(super) life: Duration,
}

impl Question {
    /// Checks a request against its account's vendor.
    pub(super) fn new(
        account: Arc<Account>,
        caller: &Caller,
        order: &OrderRef,
        max_age: Option<Duration>,
        arrival: SystemTime,
    ) -> Result<Self, Error> {
        let query =
            account.query(order).map_err(|error| error.at(account.provider, &account.name))?;
        let key = account.order_key(&query);
        let day_window = quota::day_window(&account, &key);
        let priority = if max_age.is_some() { Priority::Insistent } else { Priority::Content };
        let asker = Asker { priority, share: caller.share() };
        Ok(Self { account, query, key, day_window, max_age, arrival, asker })
    }

    /// The gate of this question's calls.
    pub(super) fn gate(&self, store: Arc<dyn Store>) -> Quota {
        Quota::new(Arc::clone(&self.account), store, &self.key, self.asker.clone())
    }

    /// Whether what is known is young enough.
    pub(super) fn is_content(&self, known: &Known, now: SystemTime) -> bool {
        let max_age =
            self.max_age.unwrap_or_else(|| default_max_age(&self.account.rules, known.spent.len()));
        known.state.as_ref().is_some_and(|state| is_young(state, max_age, self.arrival, now))
    }

    /// Whether this question may have an answer where `asker` failed with `error`, because other
    /// limits hold for it.
    pub(super) fn may_fare_better(&self, error: &Error, asker: &Asker) -> bool {
        let other_share = asker.share.is_some() && asker.share != self.asker.share;
        match error.reason {
            ErrorReason::ProviderQuotaExhausted => {
                other_share || self.asker.priority.has_more_than(asker.priority)
            }
            // Without a share there may have been nothing to count.
            ErrorReason::StoreUnavailable => other_share && self.asker.share.is_none(),
            _ => false,
        }
    }

    /// The lease on asking for the order.
    pub(super) fn lease(&self) -> Lease {
        Lease {
            what: format!("{} lease", self.key),
            owner: new_id(),
            life: self.account.rules.longest_call + Duration::from_secs(1),
        }
    }

    /// The answer that tells what is known now.
    pub(super) fn found(&self, known: Known, source: Source, now: SystemTime) -> GetOrderResponse {
        let refresh_time = refresh_time(&self.account.rules, &known, now).map(Into::into);
        let state = known.state.unwrap_or_default();
        GetOrderResponse {
            order: Some(Order { account: self.account.name.clone(), ..state }),
            source: source.into(),
            refresh_time,
        }
    }

    /// The error that a caller gets. A field that it left to the account's default is not the
    /// caller's mistake.
    pub(super) fn failed(&self, error: Error, order: &OrderRef) -> Error {
        let error = error.at(self.account.provider, &self.account.name);
        if error.field == Some("machine_no") && order.machine_no.is_empty() {
            Error {
                reason: ErrorReason::ProviderError,
                field: None,
                message: "the vendor does not know the account's default machine; the operator \
                          should check its machine_no"
                    .to_owned(),
                ..error
            }
        } else {
            error
        }
    }
}
