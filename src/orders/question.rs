//! One question, from its arrival to its answer: what it asks for, what satisfies it, and how its
//! answer is built. Used by `orders`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::freshness::{Observation, default_max_age, is_young, observed, reaches, refresh_time};
use super::wanted::{MinObserveTime, Wanted};
use crate::accounts::{Account, Caller, Priority, Quota, QuotaClass, day_window};
use crate::error::Error;
use crate::pb::{ErrorReason, GetOrderResponse, Order, OrderRef, Source};
use crate::providers::{Query, new_id};
use crate::store::{Known, Lease, OrderKey, Store, WindowKey};

/// How often a process that waits for another process's answer checks for it.
pub(super) const LEASE_POLL: Duration = Duration::from_millis(50);

/// A question about an order.
#[derive(Clone)]
pub(super) struct Question {
    pub(super) account: Arc<Account>,
    pub(super) query: Query,
    /// The order's key in the stores.
    pub(super) key: OrderKey,
    /// The key of the order's own limit in the stores, if it has one.
    pub(super) day_window: Option<WindowKey>,
    /// How old the answer may be; `None` means the account's default.
    pub(super) max_age: Option<Duration>,
    /// When the answer must have been observed at the earliest.
    pub(super) min_observe_time: Option<SystemTime>,
    pub(super) arrival: SystemTime,
    pub(super) class: QuotaClass,
}

impl Question {
    /// Checks a request against the rules of its account's vendor.
    pub(super) fn new(
        account: Arc<Account>,
        caller: &Caller,
        order: &OrderRef,
        wanted: Wanted,
        arrival: SystemTime,
    ) -> Result<Self, Error> {
        let query =
            account.query(order).map_err(|error| error.at(account.provider, &account.name))?;
        let key = account.order_key(&query);
        let day_window = day_window(&account, &key);
        let Wanted { max_age, min_observe_time } = wanted;
        let min_observe_time = min_observe_time.map(MinObserveTime::time);
        let priority = if max_age.is_some() { Priority::Fresh } else { Priority::Default };
        let class = QuotaClass { priority, share: caller.share() };
        Ok(Self { account, query, key, day_window, max_age, min_observe_time, arrival, class })
    }

    /// Creates the gate of this question's calls, which are made under that lease.
    pub(super) fn gate(&self, store: Arc<dyn Store>, lease: Option<Lease>) -> Quota {
        Quota::new(Arc::clone(&self.account), store, &self.key, self.class.clone(), lease)
    }

    /// Whether the known state is fresh enough.
    pub(super) fn is_satisfied_by(&self, known: &Known, now: SystemTime) -> bool {
        let state = known.state.as_ref();
        state.is_some_and(|state| self.accepts(state.into(), known.spent.len(), now))
    }

    /// Whether that state is fresh enough, with so many calls spent in the order's own window.
    pub(super) fn accepts(&self, state: Observation, spent: usize, now: SystemTime) -> bool {
        let default = || default_max_age(&self.account.rules, spent);
        is_young(state, self.max_age.unwrap_or_else(default), self.arrival, now)
            && self.is_reached_by(state, now)
    }

    /// Whether that state was observed late enough, however old it is now.
    pub(super) fn is_reached_by(&self, state: Observation, now: SystemTime) -> bool {
        self.min_observe_time.is_none_or(|earliest| reaches(state, earliest, now))
    }

    /// Whether the vendor's answer to a call that this process sent at that time is late enough. After
    /// the arrival it is later than all that the caller has seen, whatever the clocks of others say.
    pub(super) fn is_reached_at(&self, asked: SystemTime) -> bool {
        self.min_observe_time.is_none_or(|earliest| asked >= earliest.min(self.arrival))
    }

    /// Whether that state from a vendor's answer is late enough. `asked_here` is whether this process
    /// asked for it.
    pub(super) fn counts(&self, state: &Order, asked_here: bool, now: SystemTime) -> bool {
        let counts_here = asked_here && observed(state).is_some_and(|at| self.is_reached_at(at));
        counts_here || self.is_reached_by(state.into(), now)
    }

    /// Whether this question may get an answer although one of that class failed with `error`, because
    /// other limits apply to it.
    pub(super) fn may_fare_better(&self, error: &Error, class: &QuotaClass) -> bool {
        let other_share = class.share.is_some() && class.share != self.class.share;
        match error.reason {
            ErrorReason::ProviderQuotaExhausted => {
                other_share || self.class.priority.has_more_than(class.priority)
            }
            // Without a share there may be no call to count.
            ErrorReason::StoreUnavailable => other_share && self.class.share.is_none(),
            _ => false,
        }
    }

    /// Creates the lease for asking for the order.
    pub(super) fn lease(&self, known: &Known) -> Lease {
        Lease {
            key: format!("{} lease", self.key),
            owner: new_id(),
            life: self.account.rules.longest_call + Duration::from_secs(1),
            order: self.key.clone(),
            seen: known.state.as_ref().and_then(|state| state.observe_time),
        }
    }

    /// Builds the answer from the known state.
    pub(super) fn found(&self, known: Known, source: Source, now: SystemTime) -> GetOrderResponse {
        let state = known.state.unwrap_or_default();
        let refresh_time = refresh_time(&self.account.rules, (&state).into(), &known.spent, now);
        let refresh_time = refresh_time.map(Into::into);
        GetOrderResponse {
            order: Some(Order { account: self.account.name.to_string(), ..state }),
            source: source.into(),
            refresh_time,
        }
    }

    /// Builds the error for the caller. A field that the account's default filled in is not the
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
