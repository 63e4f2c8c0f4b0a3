//! The state that outlives one call: orders, spent calls, tokens and leases. `app` opens the configured
//! store and hands it to the parts that need it; `orders` uses it to keep the vendors' rules.
//!
//! Three implementations share one trait: [`Memory`] lasts as long as the process, [`File`] serves one
//! machine, [`Redis`] serves several replicas. One test suite covers all three (`tests/it/store.rs`).

mod cache;
mod call;
mod ends;
mod file;
mod leases;
mod ledger;
mod memory;
mod observed;
mod redis;
mod settings;
mod slots;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

pub use self::cache::Encoded;
pub use self::call::{
    AccountKey, Call, Known, Lease, Limit, OrderKey, Outcome, Reservation, Snapshot, Window,
    WindowKey,
};
pub(crate) use self::ends::CLOCKS_DIFFER;
pub use self::file::File;
pub use self::memory::Memory;
use self::observed::Observed;
#[cfg(fuzzing)]
pub use self::redis::fuzzing;
pub use self::redis::{Redis, Server, Silence};
pub use self::settings::{Place, Settings};

use crate::clock::Clock;
use crate::error::Error;
use crate::pb::Order;
use crate::providers::TokenStore;
use crate::telemetry::metrics::Metrics;

/// How often [`Store::opened`] tries a store that is not available yet.
const OPENING_POLL: Duration = Duration::from_millis(100);

/// Stores the state that the vendors' rules need.
///
/// A call to a vendor is [reserved](Self::reserve) before it is sent. It is [finished](Self::finish)
/// when its answer has arrived, or [canceled](Self::cancel) if it was never sent. A call that is
/// neither finished nor canceled counts for as long as the vendor may still count it.
///
/// Async methods fail only with `STORE_UNAVAILABLE`. A failed operation may or may not have been carried
/// out; every method is safe to repeat.
#[async_trait]
pub trait Store: TokenStore {
    /// Returns the known state of an order without any I/O, as it is encoded; it may be out of date.
    /// `window` is the order's own limit: see [`Known::spent`].
    fn snapshot(&self, order: &OrderKey, window: Option<&WindowKey>) -> Snapshot;

    /// Returns the same, decoded; `None` if nothing is known.
    fn peek(&self, order: &OrderKey, window: Option<&WindowKey>) -> Option<Known> {
        self.snapshot(order, window).decode()
    }

    /// Returns the known state of an order.
    async fn get(
        &self,
        order: &OrderKey,
        window: Option<&WindowKey>,
    ) -> Result<Option<Known>, Error>;

    /// Stores an order's state, unless the stored state was observed later or is terminal. Terminal
    /// states are never deleted.
    async fn put(&self, order: &OrderKey, state: &Order) -> Result<(), Error>;

    /// Reserves a call: its lease and a slot in each of its windows, or nothing. The reservation is
    /// written before this returns. Reserving the same call again uses no second slot.
    async fn reserve(&self, call: &Call) -> Result<Reservation, Error>;

    /// Records that the call's answer has arrived, and its outcome, in one step:
    ///
    /// - its slots become free one period from now, or earlier;
    /// - an answer about the order resumes an account that is paused with a probe, if a probe was
    ///   admitted since the pause began: the vendor answers again. Answers to earlier calls resume
    ///   nothing. An account that is paused without a probe resumes only when the time has passed;
    /// - the order's state is stored as [`put`](Self::put) does it, and the lease ends.
    ///
    /// Returns when each used slot in the order's own window becomes free, earliest first.
    async fn finish(&self, call: &Call, outcome: Outcome<'_>) -> Result<Vec<SystemTime>, Error>;

    /// Frees the call's slots, because nothing was sent.
    async fn cancel(&self, call: &Call) -> Result<(), Error>;

    /// Pauses an account for at most an hour, because the vendor reports too many calls. With `probe`,
    /// one call is admitted each time `wait` has passed, until one of them is answered.
    async fn pause(&self, account: &AccountKey, wait: Duration, probe: bool) -> Result<(), Error>;

    /// Returns when each used slot in a window becomes free, earliest first.
    async fn spent(&self, window: &WindowKey) -> Result<Vec<SystemTime>, Error>;

    /// Proves that the store can be read and written now. It uses keys of its own, which soon
    /// disappear.
    async fn ping(&self) -> Result<(), Error>;

    /// Resolves once the store is available: a server may start later than this process.
    async fn opened(&self) {
        while self.ping().await.is_err() {
            tokio::time::sleep(OPENING_POLL).await;
        }
    }

    /// Ends the use of the store by this process, so that no other one waits for it. Wait for this only after
    /// the last call.
    async fn close(&self) {}

    /// Returns the state of the fence against lost writes. It is always open where no other process uses
    /// the store.
    fn fence(&self) -> FenceState {
        FenceState { open: true, losses: 0, replicas: 1, missing_calls: 0 }
    }

    /// Returns how many bytes the store holds in this process's memory.
    fn held(&self) -> Held;

    /// Whether other processes use the same store, so that a lease coordinates their calls with ours.
    fn is_shared(&self) -> bool;
}

/// The fence of a shared store: limited calls wait while the store may have lost calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FenceState {
    /// Whether limited calls are made now.
    pub open: bool,
    /// How many times this replica has seen that writes may be lost.
    pub losses: u64,
    /// How many replicas are alive, this one included; 0 before the store has answered.
    pub replicas: usize,
    /// How many calls are taken off each order's day, because lost replicas may have made them.
    pub missing_calls: u64,
}

/// The approximate number of bytes a store holds in this process's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// Orders that can be evicted; bounded by the configured size.
    pub cache: usize,
    /// Terminal orders that are stored nowhere else.
    pub terminal: usize,
    /// Calls whose slots are still in use.
    pub spent_calls: usize,
}

/// Opens the configured store.
///
/// # Errors
/// Why the store cannot be opened, and what to do.
pub fn open(
    settings: &Settings,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
) -> Result<Arc<dyn Store>, String> {
    let (clock, bytes) = (Arc::clone(clock), settings.cache_bytes);
    Ok(match &settings.place {
        Place::Memory => Arc::new(Observed::new("memory", Memory::new(bytes, clock), metrics)),
        Place::Redis(url) => {
            Arc::new(Observed::new("redis", Redis::open(url.expose(), bytes, clock)?, metrics))
        }
        Place::File(path) => {
            Arc::new(Observed::new("file", File::open(path, bytes, clock)?, metrics))
        }
    })
}

/// Whether an order's state may replace the known one. A known state that seems to be observed in the
/// future comes from a clock that was ahead; it must not block newer states until that time.
pub(crate) fn newer(state: &Order, known: &Order, now: SystemTime) -> bool {
    let time = |order: &Order| order.observe_time.map(|time| (time.seconds, time.nanos));
    !known.terminal && (time(state) >= time(known) || !ends::ahead(known, now).is_zero())
}
