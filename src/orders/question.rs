//! One question, from its arrival to its answer: what it asks for, what satisfies it, and how
//! its answer looks. Used by `orders`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::freshness::{default_max_age, is_young, refresh_time};
use crate::accounts::{Account, Caller, Priority, Quota, QuotaClass, day_window};
use crate::error::Error;
use crate::pb::{ErrorReason, GetOrderResponse, Order, OrderRef, Source};
use crate::providers::{Query, new_id};
use crate::store::{Known, Lease, OrderKey, Store, WindowKey};

/// How often a process that waits for another one's answer looks for it.
pub(super) const LEASE_POLL: Duration = Duration::from_millis(50);

/// A question about an order.
#[derive(Clone)]
pub(super) struct Question {
    pub(super) account: Arc<Account>,
    pub(super) query: Query,
    /// What stores know the order by.
    pub(super) key: OrderKey,
    /// What stores know the order's own limit by, where it has one.
    pub(super) day_window: Option<WindowKey>,
    /// How old the answer may be; `None` leaves it to the account.
    pub(super) max_age: Option<Duration>,
    pub(super) arrival: SystemTime,
    pub(super) class: QuotaClass,
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
        let day_window = day_window(&account, &key);
        let priority = if max_age.is_some() { Priority::Fresh } else { Priority::Default };
        let class = QuotaClass { priority, share: caller.share() };
        Ok(Self { account, query, key, day_window, max_age, arrival, class })
    }

    /// The gate of this question's calls, which are made under that lease.
    pub(super) fn gate(&self, store: Arc<dyn Store>, lease: Option<Lease>) -> Quota {
        Quota::new(Arc::clone(&self.account), store, &self.key, self.class.clone(), lease)
    }

    /// Whether what is known is young enough.
    pub(super) fn is_satisfied_by(&self, known: &Known, now: SystemTime) -> bool {
        let max_age =
            self.max_age.unwrap_or_else(|| default_max_age(&self.account.rules, known.spent.len()));
        known.state.as_ref().is_some_and(|state| is_young(state, max_age, self.arrival, now))
    }

    /// Whether this question may get an answer where one of that class failed with `error`, because
    /// other limits apply to it.
    pub(super) fn may_fare_better(&self, error: &Error, class: &QuotaClass) -> bool {
        let other_share = class.share.is_some() && class.share != self.class.share;
        match error.reason {
            ErrorReason::ProviderQuotaExhausted => {
                other_share || self.class.priority.has_more_than(class.priority)
            }
            // Without a share there may have been nothing to count.
            ErrorReason::StoreUnavailable => other_share && self.class.share.is_none(),
            _ => false,
        }
    }

    /// The lease on asking for the order.
    pub(super) fn lease(&self) -> Lease {
        Lease {
            key: format!("{} lease", self.key),
            owner: new_id(),
            life: self.account.rules.longest_call + Duration::from_secs(1),
        }
    }

    /// The answer with what is known now.
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
