//! What the stores are asked about: keys, limits, calls, and what becomes of a call. Used by the stores,
//! and by those that ask them.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::pb::Order;

macro_rules! keys {
    ($($(#[$doc:meta])* $name:ident;)+) => {$(
        $(#[$doc])*
        ///
        /// Made of the vendor's own identity; a store only compares it.
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        pub struct $name(String);

        impl $name {
            pub(super) fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl<T: Into<String>> From<T> for $name {
            fn from(text: T) -> Self {
                Self(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )+};
}

keys! {
    /// What the stores know an account by.
    AccountKey;
    /// What the stores know an order by.
    OrderKey;
    /// What the stores know a window of a limit by.
    WindowKey;
}

/// What a call can be limited by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    /// The account's calls in any minute.
    PerMinute,
    /// The part of them that polls for watchers may use.
    WatchersPerMinute,
    /// The calls for one order in any 24 hours.
    PerOrderPerDay,
    /// The calls for one client's questions in any minute.
    ClientPerMinute,
}

impl Limit {
    /// Every limit.
    pub const ALL: [Self; 4] =
        [Self::PerMinute, Self::WatchersPerMinute, Self::PerOrderPerDay, Self::ClientPerMinute];

    /// What errors and metrics call it: the configuration's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PerMinute => "calls_per_minute",
            Self::WatchersPerMinute => "calls_per_minute of watchers",
            Self::PerOrderPerDay => "calls_per_order_per_day",
            Self::ClientPerMinute => "vendor_calls_per_minute",
        }
    }
}

/// A limit as one call meets it: at most so many calls in any span of that length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// What the store knows it by.
    pub key: WindowKey,
    /// Which limit it is.
    pub limit: Limit,
    /// How many calls.
    pub max_calls: u32,
    /// In how long a time.
    pub period: Duration,
}

/// The right to ask for an order, for one of the processes that share a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// What the store knows it by.
    pub key: String,
    /// Tells this owner from all others, in every process.
    pub owner: String,
    /// How long it lasts at most.
    pub life: Duration,
}

/// One call to a vendor, as the limits see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Tells this call from all others, in every process.
    pub id: String,
    /// The account that it is made with.
    pub account: AccountKey,
    /// The windows that it must fit in.
    pub windows: Vec<Window>,
    /// How long after it is sent the vendor may come to count it: the slot of a call whose answer
    /// never came is free again after this and the window's period.
    pub in_flight: Duration,
    /// The lease that it is made under; `None` where nobody shares the store.
    pub lease: Option<Lease>,
}

impl Call {
    /// What a store knows the call's slots by: its id, and for how many milliseconds it may be in
    /// flight. So a slot itself says how late it can be free, whatever is configured by then.
    pub(super) fn mark(&self) -> String {
        format!("{}~{}", self.id, self.in_flight.as_nanos().div_ceil(1_000_000))
    }

    /// The window of the order's own limit.
    pub(super) fn order_window(&self) -> Option<&WindowKey> {
        let own = self.windows.iter().find(|window| window.limit == Limit::PerOrderPerDay);
        own.map(|window| &window.key)
    }
}

/// Whether a call may be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reservation {
    /// It may: its slots are reserved, and its lease is held.
    Reserved,
    /// Another process asks for the order now.
    Leased,
    /// The window of that limit is full for so long.
    Full(Limit, Duration),
    /// The account is paused for so long.
    Paused(Duration),
}

/// What a call's answer brought.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outcome<'a> {
    /// The order's state.
    Found(&'a OrderKey, &'a Order),
    /// An answer about the order, without a state.
    Answered,
    /// Nothing about the order, but the vendor has counted the call.
    Counted,
}

/// What is known of an order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Known {
    /// Its last state; `account` is empty.
    pub state: Option<Order>,
    /// When each slot that is taken in the order's own window is free again, earliest first.
    pub spent: Vec<SystemTime>,
}

impl Known {
    /// `None` where nothing is known.
    pub(super) fn some(self) -> Option<Self> {
        Some(self).filter(|known| *known != Self::default())
    }
}
