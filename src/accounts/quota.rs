//! The limits on calls: the windows in which a call is counted, and the error when one is full. Used by
//! `orders` for every call to a vendor.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::time::Instant;

use super::account::Account;
use super::caller::Share;
use crate::error::Error;
use crate::outbound::Delivery;
use crate::pb::ErrorReason;
use crate::providers::{Gate, Rules, new_id};
use crate::store::{Call, Lease, Limit, OrderKey, Outcome, Reservation, Store, Window, WindowKey};

const MINUTE: Duration = Duration::from_mins(1);
const DAY: Duration = Duration::from_hours(24);

/// How long after the end of the longest call a request may still reach the vendor and be counted.
const STRAGGLING: Duration = Duration::from_secs(20);

/// How many of the day's calls for an order are reserved for callers that set `max_age`.
const KEPT_FOR_MAX_AGE: u32 = 2;

/// What the limits depend on, besides the account and the order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct QuotaClass {
    pub(crate) priority: Priority,
    /// The caller's own limit, where it has one.
    pub(crate) share: Option<Share>,
}

/// How much of an account's limits a question may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Priority {
    /// A caller that sets `max_age`; it may use all of the day's calls.
    Fresh,
    /// A caller that does not set `max_age`.
    #[default]
    Default,
    /// A poller for watchers; it may also use at most half of the minute's calls.
    Background,
}

impl Priority {
    /// Whether an account's limits leave calls to this priority that they do not leave to the other.
    pub(crate) fn has_more_than(self, other: Self) -> bool {
        self != other && (self == Self::Fresh || other == Self::Background)
    }
}

/// How many calls per day an order has for callers that set `max_age`, or for those that do not.
pub(crate) fn calls_per_day(rules: &Rules, sets_max_age: bool) -> Option<u32> {
    let limit = rules.calls_per_order_per_day?;
    Some(if sets_max_age { limit } else { limit.saturating_sub(KEPT_FOR_MAX_AGE).max(1) })
}

/// Builds the key of an order's own limit in the store.
pub(crate) fn day_window(account: &Account, order: &OrderKey) -> Option<WindowKey> {
    account.rules.calls_per_order_per_day.map(|_| format!("{order} day").into())
}

/// The gate of one question's calls.
pub(crate) struct Quota {
    account: Arc<Account>,
    store: Arc<dyn Store>,
    order: OrderKey,
    class: QuotaClass,
    /// Coordinates the processes that share the store.
    lease: Option<Lease>,
    passed: Mutex<Passed>,
}

/// The calls that have passed the gate.
#[derive(Default)]
struct Passed {
    /// How many calls were sent since the last [`Quota::take_sent`].
    sent: u64,
    /// The calls that were answered and are not finished yet.
    answered: Vec<Call>,
    /// Whether the last call was held back because another process is asking for the order.
    is_leased_elsewhere: bool,
}

impl Quota {
    /// Creates the gate of the calls for one order.
    pub(crate) fn new(
        account: Arc<Account>,
        store: Arc<dyn Store>,
        order: &OrderKey,
        class: QuotaClass,
        lease: Option<Lease>,
    ) -> Self {
        Self { account, store, order: order.clone(), class, lease, passed: Mutex::default() }
    }

    fn passed(&self) -> MutexGuard<'_, Passed> {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the vendor may have counted a call since [`take_sent`](Self::take_sent).
    pub(crate) fn was_sent(&self) -> bool {
        self.passed().sent > 0
    }

    /// Returns and resets how many calls the vendor may have counted.
    pub(crate) fn take_sent(&self) -> u64 {
        mem::take(&mut self.passed().sent)
    }

    /// Whether the last call was held back because another process is asking for the order.
    pub(crate) fn is_leased_elsewhere(&self) -> bool {
        self.passed().is_leased_elsewhere
    }

    /// Stores the question's outcome, and finishes the calls that were answered. Returns when each used
    /// slot of the order's own limit becomes free.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`: then the slots stay in use for longer, and other processes may not know the
    /// state.
    pub(crate) async fn finish(&self, outcome: Outcome<'_>) -> Result<Vec<SystemTime>, Error> {
        let mut answered = mem::take(&mut self.passed().answered);
        let last = answered.pop();
        // There is more than one if the vendor refused a token: all but the last returned nothing.
        for call in answered {
            // If this fails, its slot stays in use for longer; the order must not lose its state for it.
            let _ = self.store.finish(&call, Outcome::Counted).await;
        }
        match last {
            Some(call) => self.store.finish(&call, outcome).await,
            None if outcome == Outcome::Counted => Ok(Vec::new()),
            None => self.store.finish(&self.call(new_id()), outcome).await,
        }
    }

    /// The windows that all calls of the account share.
    pub(crate) fn minute_windows(&self) -> impl Iterator<Item = Window> {
        self.windows().into_iter().filter(|window| window.period == MINUTE)
    }

    /// The windows of a call.
    fn windows(&self) -> Vec<Window> {
        let Account { rules, key, .. } = self.account.as_ref();
        let QuotaClass { priority, share } = &self.class;
        let minute = |limit, max_calls, key: String| Window {
            key: key.into(),
            limit,
            max_calls,
            period: MINUTE,
        };
        let mut windows = Vec::new();
        if let Some(max_calls) = rules.calls_per_minute {
            windows.push(minute(Limit::PerMinute, max_calls, format!("{key} minute")));
            if *priority == Priority::Background {
                let half = (max_calls / 2).max(1);
                windows.push(minute(Limit::WatchersPerMinute, half, format!("{key} pollers")));
            }
        }
        let max_calls = calls_per_day(rules, *priority == Priority::Fresh);
        if let Some((max_calls, key)) = max_calls.zip(day_window(&self.account, &self.order)) {
            windows.push(Window { key, limit: Limit::PerOrderPerDay, max_calls, period: DAY });
        }
        if let Some(Share { client, limit }) = share {
            let key = format!("client {client} minute");
            windows.push(minute(Limit::ClientPerMinute, *limit, key));
        }
        windows
    }

    fn call(&self, id: String) -> Call {
        Call {
            id,
            account: self.account.key.clone(),
            windows: self.windows(),
            in_flight: self.account.rules.longest_call + STRAGGLING,
            lease: self.lease.clone(),
        }
    }

    /// The error of a full window.
    fn full(&self, limit: Limit, wait: Duration) -> Error {
        let name = limit.name();
        self.account.meters.quota_refusals(limit).inc();
        let owner = match &self.class.share {
            Some(share) if limit == Limit::ClientPerMinute => format!("client/{}", share.client),
            _ => format!("account/{}", self.account.name),
        };
        Error {
            quota: Some(format!("{owner} {name}")),
            ..Error::new(
                ErrorReason::ProviderQuotaExhausted,
                format!("the limit {name} is exhausted; wait before retrying"),
            )
            .retry_after(wait)
        }
    }
}

#[async_trait]
impl Gate for Quota {
    async fn enter(&self) -> Result<String, Error> {
        let call = self.call(new_id());
        let begin = Instant::now();
        let reservation = self.store.reserve(&call).await;
        self.passed().is_leased_elsewhere = matches!(reservation, Ok(Reservation::Leased));
        match reservation {
            // The slot counts from the store's decision: a call sent much later would outlive it.
            Ok(Reservation::Reserved) if begin.elapsed() > STRAGGLING / 2 => {
                self.cancel(&call).await;
                Err(Error::store_unavailable("a slot was written too late to be used"))
            }
            Ok(Reservation::Reserved) => Ok(call.id),
            Ok(Reservation::Leased) => {
                Err(Error::unavailable("another replica is asking for the order; retry later"))
            }
            Ok(Reservation::Full(limit, wait)) => Err(self.full(limit, wait)),
            Ok(Reservation::Paused(wait)) => Err(Error::new(
                ErrorReason::ProviderQuotaExhausted,
                "the vendor answered that it receives too many requests, and requests to it are \
                 suspended for now",
            )
            .retry_after(wait)),
            // Nothing limits this call, so it need not be counted.
            Err(_) if call.windows.is_empty() => Ok(call.id),
            Err(error) => {
                // The call may be reserved all the same, and nothing is sent.
                self.cancel(&call).await;
                Err(error)
            }
        }
    }

    async fn leave(&self, id: String, delivery: Delivery) {
        let call = self.call(id);
        match delivery {
            Delivery::NotSent => self.cancel(&call).await,
            Delivery::Unknown => self.passed().sent += 1,
            Delivery::Answered => {
                let mut passed = self.passed();
                passed.sent += 1;
                passed.answered.push(call);
            }
        }
    }
}

impl Quota {
    async fn cancel(&self, call: &Call) {
        if call.windows.is_empty() {
            return;
        }
        if let Err(error) = self.store.cancel(call).await {
            // The slot stays in use longer than necessary: this costs one call and nothing else.
            tracing::debug!(detail = error.detail, "a quota slot could not be returned");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_two_calls_of_a_day_are_reserved_for_max_age() {
        let rules = |calls_per_order_per_day| Rules {
            freshness: Duration::from_mins(15),
            calls_per_minute: Some(200),
            calls_per_order_per_day,
            longest_call: Duration::from_secs(10),
        };
        assert_eq!(calls_per_day(&rules(Some(10)), true), Some(10));
        assert_eq!(calls_per_day(&rules(Some(10)), false), Some(8));
        assert_eq!(calls_per_day(&rules(Some(2)), false), Some(1), "somebody must be able to ask");
        assert_eq!(calls_per_day(&rules(None), true), None);
    }
}
