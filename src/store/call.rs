//! The types of the store's interface: keys, limits, calls and their outcomes. Used by the stores and
//! by their callers.

use std::fmt;
use std::time::{Duration, SystemTime};

use prost_types::Timestamp;

use super::cache::Encoded;
use crate::pb::Order;

macro_rules! keys {
    ($($(#[$doc:meta])* $name:ident;)+) => {$(
        $(#[$doc])*
        ///
        /// Built from the vendor's own identity; a store only compares it.
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        pub struct $name(String);

        impl $name {
            pub(crate) fn as_str(&self) -> &str {
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
    /// An account's key in the stores.
    AccountKey;
    /// An order's key in the stores.
    OrderKey;
    /// The key of a limit's window in the stores.
    WindowKey;
}

/// The limits that can apply to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    /// The account's calls in any minute.
    PerMinute,
    /// The part of the account's calls that polls for watchers may use.
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

    /// The limit's name in errors and metrics, as in the configuration.
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

/// A limit as it applies to one call: at most `max_calls` calls in any `period`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// Its key in the store.
    pub key: WindowKey,
    /// Which limit it is.
    pub limit: Limit,
    /// The maximum number of calls.
    pub max_calls: u32,
    /// The length of the time span that the limit covers.
    pub period: Duration,
}

/// The exclusive right to ask for an order, among the processes that share a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its key in the store.
    pub key: String,
    /// Identifies this owner uniquely, across all processes.
    pub owner: String,
    /// The maximum time the lease lasts.
    pub life: Duration,
    /// The order that it is for.
    pub order: OrderKey,
    /// When the state was observed that its owner knows. A later one in the store is an answer that came
    /// meanwhile: then there is nothing to ask for.
    pub seen: Option<Timestamp>,
}

/// One call to a vendor, as the limits see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Identifies this call uniquely, across all processes.
    pub id: String,
    /// The account that makes the call.
    pub account: AccountKey,
    /// The windows that must have a free slot for it.
    pub windows: Vec<Window>,
    /// How long after sending the vendor may still count the call. If no answer arrives, the slot
    /// becomes free after this time plus the window's period.
    pub in_flight: Duration,
    /// The lease that covers the call; `None` if no other process shares the store.
    pub lease: Option<Lease>,
}

impl Lease {
    /// Whether `state` is an answer that came meanwhile.
    pub(super) fn is_answered_by(&self, state: &Order) -> bool {
        let time = |time: Option<Timestamp>| time.map(|time| (time.seconds, time.nanos));
        time(state.observe_time) > time(self.seen)
    }
}

impl Call {
    /// The name of the call's slots in a store: its id, and for how many milliseconds it may be in
    /// flight. So the slot itself states its latest possible end, even if the configuration changes
    /// later.
    pub(super) fn mark(&self) -> String {
        format!("{}~{}", self.id, self.in_flight.as_nanos().div_ceil(1_000_000))
    }

    /// The window of the order's own limit.
    pub(super) fn order_window(&self) -> Option<&WindowKey> {
        let own = self.windows.iter().find(|window| window.limit == Limit::PerOrderPerDay);
        own.map(|window| &window.key)
    }
}

/// The result of [`Store::reserve`](super::Store::reserve): whether a call may be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reservation {
    /// The call may be made: its slots are reserved, and its lease is held.
    Reserved,
    /// Another process asks for the order now, or has just got an answer: see [`Lease::seen`].
    Leased,
    /// The window of that limit stays full for this long.
    Full(Limit, Duration),
    /// The account stays paused for this long.
    Paused(Duration),
}

/// The outcome of a call that was answered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outcome<'a> {
    /// The order's state.
    Found(&'a OrderKey, &'a Order),
    /// An answer about the order, but no state.
    Answered,
    /// No answer about the order, but the vendor counted the call.
    Counted,
}

/// Everything a store knows of an order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Known {
    /// Its last state; `account` is empty.
    pub state: Option<Order>,
    /// When each used slot in the order's own window becomes free, earliest first.
    pub spent: Vec<SystemTime>,
}

/// The same as [`Known`], with the state as it is encoded.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// See [`Known::state`].
    pub state: Option<Encoded>,
    /// See [`Known::spent`].
    pub spent: Vec<SystemTime>,
}

impl Snapshot {
    /// Decodes the state. `None` if nothing is known.
    #[must_use]
    pub fn decode(self) -> Option<Known> {
        let state = self.state.as_ref().map(Encoded::decode);
        Known { state, spent: self.spent }.some()
    }
}

impl Known {
    /// Returns `None` if nothing is known.
    pub(super) fn some(self) -> Option<Self> {
        Some(self).filter(|known| *known != Self::default())
    }
}
