//! How many calls may be under way. One more is turned away at once: a queue would only use up the
//! time that its caller has. Used by `grpc` only.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config;
use crate::error::Error;
use crate::metrics::{self, CALLS_IN_FLIGHT, Gauge, SERVER_LIMIT, SHED};
use crate::pb::ErrorReason;

/// How long a caller that was turned away is asked to wait: time for calls under way to end, and
/// the longest wait after which gRPC's built-in retries repeat a call.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// What places are of.
struct Kind {
    /// The setting that bounds them.
    limit: &'static str,
    taken: &'static LazyLock<Gauge<0>>,
    what: &'static str,
}

static CALLS: Kind =
    Kind { limit: "max_in_flight", taken: &CALLS_IN_FLIGHT, what: "calls under way" };
static WATCHES: Kind =
    Kind { limit: "max_watches", taken: &metrics::WATCHES, what: "watches open" };

/// The places of the calls under way. Clones share them.
#[derive(Clone)]
pub(super) struct Admission {
    calls: Pool,
    max_in_flight: u32,
    watches: Pool,
}

impl Admission {
    pub(super) fn new(limits: &config::Server) -> Self {
        Self {
            calls: Pool::new(&CALLS, limits.max_in_flight),
            max_in_flight: limits.max_in_flight,
            watches: Pool::new(&WATCHES, limits.max_watches),
        }
    }

    /// The place of a call that has one answer.
    ///
    /// # Errors
    /// `SERVER_OVERLOADED`
    pub(super) fn call(&self) -> Result<Places, Error> {
        self.calls.take(1)
    }

    /// The further places of a call that asks for so many orders: each can mean a call to a vendor.
    /// Where it asks for more than there are places in all, it needs them all.
    ///
    /// # Errors
    /// `SERVER_OVERLOADED`
    pub(super) fn batch(&self, orders: usize) -> Result<Places, Error> {
        let places = u32::try_from(orders).unwrap_or(u32::MAX).min(self.max_in_flight);
        self.calls.take(places.saturating_sub(1))
    }

    /// The place of a watch.
    ///
    /// # Errors
    /// `SERVER_OVERLOADED`
    pub(super) fn watch(&self) -> Result<Places, Error> {
        self.watches.take(1)
    }
}

/// Places of one kind. Clones share them.
#[derive(Clone)]
struct Pool {
    kind: &'static Kind,
    free: Arc<Semaphore>,
}

impl Pool {
    fn new(kind: &'static Kind, limit: u32) -> Self {
        SERVER_LIMIT.set([kind.limit], limit.into());
        SHED.add([kind.limit], 0);
        kind.taken.set([], 0.0);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Self { kind, free: Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS))) }
    }

    fn take(&self, count: u32) -> Result<Places, Error> {
        let Ok(permit) = Arc::clone(&self.free).try_acquire_many_owned(count) else {
            SHED.add([self.kind.limit], 1);
            let message = format!("this server has too many {}; ask again later", self.kind.what);
            return Err(Error::new(ErrorReason::ServerOverloaded, message).retry_after(RETRY));
        };
        self.kind.taken.add([], count.into());
        Ok(Places { kind: self.kind, count, _permit: permit })
    }
}

/// The places of a call; given back when it is dropped.
pub(super) struct Places {
    kind: &'static Kind,
    count: u32,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Places {
    fn drop(&mut self) {
        self.kind.taken.add([], -f64::from(self.count));
    }
}
