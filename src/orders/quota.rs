//! An account's and a caller's limits: which windows a call must fit in, and what a caller is told when it does
//! not. Used by `orders` for every call to a vendor.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::accounts::Account;
use super::caller::Share;
use super::freshness;
use crate::error::Error;
use crate::metrics::QUOTA_REFUSALS;
use crate::pb::ErrorReason;
use crate::providers::{Gate, Left, Pass, new_id};
use crate::store::{Call, Store, Take, Window};

const MINUTE: Duration = Duration::from_mins(1);
const DAY: Duration = Duration::from_hours(24);

/// How long after the longest call a request may still reach the vendor and be counted.
const STRAGGLING: Duration = Duration::from_secs(20);

/// Who asks, as far as the limits differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Asker {
    pub(super) priority: Priority,
    /// What the caller's own limit leaves it, where it has one.
    pub(super) share: Option<Share>,
}

/// How much of an account's limits a question may have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Priority {
    /// A caller who sets `max_age`: may have all of the day's calls.
    Insistent,
    /// A caller who does not.
    #[default]
    Content,
    /// A poller for watchers: besides, at most half of the minute's calls.
    Poller,
}

impl Priority {
    /// Whether an account's limits leave it calls that they do not leave the other.
    pub(super) fn has_more_than(self, other: Self) -> bool {
        self != other && (self == Self::Insistent || other == Self::Poller)
    }
}

/// The gate of one question's calls.
pub(super) struct Quota {
    account: Arc<Account>,
    store: Arc<dyn Store>,
    /// What the store knows the order by.
    order: String,
    asker: Asker,
    /// How many calls were sent since this was last asked for.
    sent: AtomicU64,
}

/// What the store knows an order's own limit by.
pub(super) fn day_window(account: &Account, order: &str) -> Option<String> {
    account.rules.calls_per_order_per_day.map(|_| format!("{order} day"))
}

/// What a full window is called in errors and metrics: the configuration's names.
pub(super) const NAMES: [&str; 4] =
    ["calls_per_minute", "calls_per_minute of watchers", "calls_per_order_per_day", SHARE];

/// The one that is a caller's, and not the account's.
const SHARE: &str = "vendor_calls_per_minute";

impl Quota {
    /// The gate of calls for one order, by what the store knows it by.
    pub(super) fn new(
        account: Arc<Account>,
        store: Arc<dyn Store>,
        order: &str,
        asker: Asker,
    ) -> Self {
        Self { account, store, order: order.to_owned(), asker, sent: AtomicU64::new(0) }
    }

    /// How many calls were sent since this was last asked for.
    pub(super) fn sent(&self) -> u64 {
        self.sent.swap(0, Ordering::Relaxed)
    }

    /// The windows that all calls of the account share, each with its name.
    pub(super) fn minute_windows(&self) -> impl Iterator<Item = (&'static str, Window)> {
        self.windows().into_iter().filter(|(_, window)| window.period == MINUTE)
    }

    /// The windows of a call, each with its name.
    fn windows(&self) -> Vec<(&'static str, Window)> {
        let Account { rules, key, .. } = self.account.as_ref();
        let [minute_name, pollers_name, day_name, share_name] = NAMES;
        let minute = rules.calls_per_minute.map(|limit| {
            (minute_name, Window { key: format!("{key} minute"), limit, period: MINUTE })
        });
        let Asker { priority, share } = &self.asker;
        let of_pollers = rules.calls_per_minute.filter(|_| *priority == Priority::Poller);
        let pollers = of_pollers.map(|limit| {
            let limit = (limit / 2).max(1);
            (pollers_name, Window { key: format!("{key} pollers"), limit, period: MINUTE })
        });
        let share = share.as_ref().map(|Share { client, limit }| {
            let key = format!("client {client} minute");
            (share_name, Window { key, limit: *limit, period: MINUTE })
        });
        let limit = freshness::calls_per_day(rules, *priority == Priority::Insistent);
        let day = limit.zip(day_window(&self.account, &self.order));
        let day = day.map(|(limit, key)| (day_name, Window { key, limit, period: DAY }));
        [minute, pollers, day, share].into_iter().flatten().collect()
    }

    fn call(&self, id: String) -> Call {
        Call {
            id,
            account: self.account.key.clone(),
            windows: self.windows().into_iter().map(|(_, window)| window).collect(),
            in_flight: self.account.rules.longest_call + STRAGGLING,
        }
    }

    fn full(&self, window: usize, wait: Duration) -> Error {
        let name = self.windows().get(window).map_or("", |(name, _)| *name);
        QUOTA_REFUSALS.add([&self.account.name, name], 1);
        let owner = match &self.asker.share {
            Some(share) if name == SHARE => format!("client/{}", share.client),
            _ => format!("account/{}", self.account.name),
        };
        Error {
            quota: Some(format!("{owner} {name}")),
            ..Error::new(
                ErrorReason::ProviderQuotaExhausted,
                format!("the limit {name} is spent; wait before asking again"),
            )
            .retry_after(wait)
        }
    }
}

#[async_trait]
impl Gate for Quota {
    async fn enter(&self) -> Result<Pass, Error> {
        let call = self.call(new_id());
        let begin = Instant::now();
        match self.store.take(&call).await {
            // The slot counts from when the store decided: what is sent much later would outlive it.
            Ok(Take::Taken) if begin.elapsed() > STRAGGLING / 2 => {
                self.leave(Pass(call.id), Left::Unsent).await;
                Err(Error::store_unavailable("a slot was written too late to be used"))
            }
            Ok(Take::Taken) => Ok(Pass(call.id)),
            Ok(Take::Full(window, wait)) => Err(self.full(window, wait)),
            Ok(Take::Closed(wait)) => Err(Error::new(
                ErrorReason::ProviderQuotaExhausted,
                "the vendor answered that it is asked too often, and is left alone for now",
            )
            .retry_after(wait)),
            // Nothing limits this call, so there is nothing that must be remembered.
            Err(_) if call.windows.is_empty() => Ok(Pass(call.id)),
            Err(error) => {
                // It may have been taken all the same, and nothing is sent.
                let _ = self.store.give_back(&call).await;
                Err(error)
            }
        }
    }

    async fn leave(&self, pass: Pass, left: Left) {
        self.sent.fetch_add(u64::from(left != Left::Unsent), Ordering::Relaxed);
        let call = self.call(pass.0);
        let noted = match left {
            _ if call.windows.is_empty() => Ok(()),
            Left::Answered => self.store.settle(&call).await,
            Left::Unsent => self.store.give_back(&call).await,
            Left::Unknown => Ok(()),
        };
        if let Err(error) = noted {
            // The slot stays taken for longer than it need be: nothing is lost but a call.
            tracing::debug!(detail = error.detail, "a slot could not be given back");
        }
    }
}
