//! What is remembered between calls: orders, spent calls, tokens, leases. `app` opens the store
//! that is configured and hands it to the parts that need it; `orders` keeps the vendors' rules
//! with it.
//!
//! There are three kinds behind one trait: [`Memory`] for the life of the process, [`File`] on one
//! machine, [`Redis`] for several replicas. One suite of tests holds for all (`tests/it/store.rs`).

mod cache;
mod ends;
mod file;
mod leases;
mod ledger;
mod memory;
mod observed;
mod redis;
mod slots;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

pub use self::file::File;
pub use self::memory::Memory;
use self::observed::Observed;
pub use self::redis::Redis;
#[cfg(fuzzing)]
pub use self::redis::fuzzing;

use crate::clock::Clock;
use crate::config::{self, StorePlace};
use crate::error::Error;
use crate::pb::Order;
use crate::providers::TokenStore;

/// How often a store that cannot be used yet is tried.
const OPENING_POLL: Duration = Duration::from_millis(100);

/// Remembers what the vendors' rules need.
///
/// Keys are made by the callers, of the vendor's own identity; a store only compares them. All
/// methods fail with `STORE_UNAVAILABLE`, and then may or may not have been carried out: each is
/// safe to repeat.
#[async_trait]
pub trait Store: TokenStore {
    /// What is known of an order without any input or output; perhaps not the latest.
    fn glance(&self, order: &str, window: Option<&str>) -> Option<Known>;

    /// What is known of an order. `window` is a limit, such as the order's own: see
    /// [`Known::spent`].
    async fn recall(&self, order: &str, window: Option<&str>) -> Result<Option<Known>, Error>;

    /// Remembers an order's state, unless what is remembered was observed later or is terminal.
    /// Terminal states are never forgotten.
    async fn keep(&self, order: &str, state: &Order) -> Result<(), Error>;

    /// Takes a slot in each window of the call, or in none. Slots are written before this returns.
    /// A call that is taken again takes no second slot.
    async fn take(&self, call: &Call) -> Result<Take, Error>;

    /// Notes that the call's answer has come: its slots are free a period from now, if not before.
    async fn settle(&self, call: &Call) -> Result<(), Error>;

    /// Gives the call's slots back: nothing was sent.
    async fn give_back(&self, call: &Call) -> Result<(), Error>;

    /// Closes an account for a while, an hour at most: the vendor says that it is asked too often.
    /// With `probe`, one call is let through each time that `wait` is over, until
    /// [`reopen`](Self::reopen).
    async fn close(&self, account: &str, wait: Duration, probe: bool) -> Result<(), Error>;

    /// Opens an account that is closed with `probe`, if a probe was let through since: its vendor
    /// answers again. Answers to calls of before open nothing, nor does anything but the time
    /// open an account that is closed without `probe`.
    async fn reopen(&self, account: &str) -> Result<(), Error>;

    /// Proves that the store can be read and written now: with keys of its own, which are soon gone.
    async fn ping(&self) -> Result<(), Error>;

    /// Resolves once the store can be used: a server may not be there yet.
    async fn opened(&self) {
        while self.ping().await.is_err() {
            tokio::time::sleep(OPENING_POLL).await;
        }
    }

    /// How many bytes the store holds in the memory of this process.
    fn held(&self) -> Held;

    /// Whether other processes use the same store, so that a lease joins their calls with ours.
    fn is_shared(&self) -> bool;
}

/// What is known of an order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Known {
    /// Its last state; `account` is empty.
    pub state: Option<Order>,
    /// When each slot that is taken in the window is free again, earliest first.
    pub spent: Vec<SystemTime>,
}

/// How many bytes a store holds in the memory of this process, about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// Orders that can be forgotten; at most what is set.
    pub cache: usize,
    /// Terminal orders that are nowhere else.
    pub terminal: usize,
    /// Calls whose slots are not free again.
    pub spent_calls: usize,
}

/// A limit: at most so many calls in any span of time of that length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// What the store knows it by.
    pub key: String,
    /// How many calls.
    pub limit: u32,
    /// In how long a time.
    pub period: Duration,
}

/// One call to a vendor, as the limits see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Tells this call from all others, in every process.
    pub id: String,
    /// The account that it is made with.
    pub account: String,
    /// The limits that it must fit in.
    pub windows: Vec<Window>,
    /// How long after it is sent the vendor may come to count it: the slot of a call whose answer
    /// never came is free again after this and the window's period.
    pub in_flight: Duration,
}

impl Call {
    /// What a store knows the call's slots by: its id, and for how many milliseconds it may be in
    /// flight. So whoever reads a slot knows how late it can be free, whatever is configured by then.
    fn mark(&self) -> String {
        format!("{}~{}", self.id, self.in_flight.as_nanos().div_ceil(1_000_000))
    }
}

/// Whether a call may be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Take {
    /// It may; its slots are taken.
    Taken,
    /// The window of that index is full for so long.
    Full(usize, Duration),
    /// The account is closed for so long.
    Closed(Duration),
}

/// Opens the store that is configured.
///
/// # Errors
/// Why it cannot be opened, and what to do.
pub fn open(store: &config::Store, clock: &Arc<dyn Clock>) -> Result<Arc<dyn Store>, String> {
    let (clock, bytes) = (Arc::clone(clock), store.cache_bytes);
    Ok(match &store.place {
        StorePlace::Memory => {
            Arc::new(Observed { system: "memory", store: Memory::new(bytes, clock) })
        }
        StorePlace::Redis(url) => {
            Arc::new(Observed { system: "redis", store: Redis::open(url.expose(), bytes, clock)? })
        }
        StorePlace::File(path) => {
            Arc::new(Observed { system: "file", store: File::open(path, bytes, clock)? })
        }
    })
}

/// Whether the store can be meant, without opening it; a file must be one that could be opened or
/// made here, if it `is_here`.
///
/// # Errors
/// What is wrong with its URL, without the URL, or with the file.
pub fn check(store: &config::Store, is_here: bool) -> Result<(), String> {
    match &store.place {
        StorePlace::File(path) if is_here => File::check(path),
        StorePlace::Memory | StorePlace::File(_) => Ok(()),
        StorePlace::Redis(url) => Redis::check(url.expose()),
    }
}

/// Whether an order's state may take the place of the one that is known. What seems to be observed in
/// the future is of a clock that was ahead, and must not keep the truth out until then.
pub(crate) fn newer(state: &Order, known: &Order, now: SystemTime) -> bool {
    let time = |order: &Order| order.observe_time.map(|time| (time.seconds, time.nanos));
    !known.terminal && (time(state) >= time(known) || !ends::ahead(known, now).is_zero())
}
