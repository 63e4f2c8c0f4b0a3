//! What is remembered between calls: orders, spent calls, tokens, leases. `app` opens the store
//! that is configured and hands it to the parts that need it; `orders` keeps the vendors' rules
//! with it.
//!
//! There are three kinds behind one trait: [`Memory`] for the life of the process, [`File`] on one
//! machine, [`Redis`] for several replicas. One suite of tests holds for all (`tests/it/store.rs`).

mod cache;
mod call;
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

pub use self::call::{
    AccountKey, Call, Known, Lease, Limit, OrderKey, Outcome, Reservation, Window, WindowKey,
};
pub use self::file::File;
pub use self::memory::Memory;
use self::observed::Observed;
pub use self::redis::Redis;
#[cfg(fuzzing)]
pub use self::redis::fuzzing;

use crate::clock::Clock;
use crate::config::{self, StorePlace};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::pb::Order;
use crate::providers::TokenStore;

/// How often a store that cannot be used yet is tried.
const OPENING_POLL: Duration = Duration::from_millis(100);

/// Remembers what the vendors' rules need.
///
/// A call to a vendor is [reserved](Self::reserve) before it is sent, and [finished](Self::finish) once
/// its answer has come, or [canceled](Self::cancel) where it was never sent. A call that is neither
/// counts for as long as the vendor may come to count it.
///
/// All methods that wait fail with `STORE_UNAVAILABLE`, and then may or may not have been carried out:
/// each is safe to repeat.
#[async_trait]
pub trait Store: TokenStore {
    /// What is known of an order without any input or output; perhaps not the latest. `window` is the
    /// order's own limit: see [`Known::spent`].
    fn peek(&self, order: &OrderKey, window: Option<&WindowKey>) -> Option<Known>;

    /// What is known of an order.
    async fn get(
        &self,
        order: &OrderKey,
        window: Option<&WindowKey>,
    ) -> Result<Option<Known>, Error>;

    /// Remembers an order's state, unless what is remembered was observed later or is terminal.
    /// Terminal states are never forgotten.
    async fn put(&self, order: &OrderKey, state: &Order) -> Result<(), Error>;

    /// Reserves a call: takes its lease and a slot in each of its windows, or nothing. They are written
    /// before this returns. A call that is reserved again takes no second slot.
    async fn reserve(&self, call: &Call) -> Result<Reservation, Error>;

    /// Notes that the call's answer has come, and what it brought, all at once:
    ///
    /// - its slots are free a period from now, if not before;
    /// - an answer about the order resumes an account that is paused with a probe, if a probe was admitted
    ///   since: its vendor answers again. Answers to calls of before resume nothing, nor does
    ///   anything but the time resume an account that is paused without a probe;
    /// - the order's state is remembered as [`put`](Self::put) does it, and the lease ends.
    ///
    /// When each slot that is taken in the order's own window is free again then, earliest first.
    async fn finish(&self, call: &Call, outcome: Outcome<'_>) -> Result<Vec<SystemTime>, Error>;

    /// Gives the call's slots back: nothing was sent.
    async fn cancel(&self, call: &Call) -> Result<(), Error>;

    /// Pauses an account, an hour at most: the vendor says that it is asked too often. With `probe`,
    /// one call is admitted each time that `wait` has passed, until one of them is answered.
    async fn pause(&self, account: &AccountKey, wait: Duration, probe: bool) -> Result<(), Error>;

    /// When each slot that is taken in a window is free again, earliest first.
    async fn spent(&self, window: &WindowKey) -> Result<Vec<SystemTime>, Error>;

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

/// Opens the store that is configured.
///
/// # Errors
/// Why it cannot be opened, and what to do.
pub fn open(
    store: &config::Store,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
) -> Result<Arc<dyn Store>, String> {
    let (clock, bytes) = (Arc::clone(clock), store.cache_bytes);
    Ok(match &store.place {
        StorePlace::Memory => Arc::new(Observed::new("memory", Memory::new(bytes, clock), metrics)),
        StorePlace::Redis(url) => {
            Arc::new(Observed::new("redis", Redis::open(url.expose(), bytes, clock)?, metrics))
        }
        StorePlace::File(path) => {
            Arc::new(Observed::new("file", File::open(path, bytes, clock)?, metrics))
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
