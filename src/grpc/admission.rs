//! The limits on calls in progress. A call over a limit is refused at once: a queue would only use up
//! its caller's time. Used by `grpc` only.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::Error;
use crate::pb::ErrorReason;
use crate::telemetry::metrics::{Counter, Gauge, Metrics};

/// How long a refused caller is asked to wait: enough for some calls to end, and the longest wait
/// after which gRPC's built-in retries still repeat a call.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// The limits of calls.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long a call may take that is no watch.
    pub request_timeout: Duration,
    /// How many calls may be in flight, not counting watches.
    pub max_in_flight: u32,
    /// How many watches may be open.
    pub max_watches: u32,
}

/// The permits for calls in progress. Clones share them.
#[derive(Clone)]
pub(super) struct Admission {
    calls: Pool,
    max_in_flight: u32,
    watches: Pool,
}

impl Admission {
    pub(super) fn new(limits: &Limits, metrics: &Metrics) -> Self {
        let Limits { max_in_flight, max_watches, .. } = *limits;
        let pool = |limit: &'static str, size: u32, what, used| {
            metrics.server_limit.with([limit]).set(size.into());
            Pool::new(what, size, used, metrics.shed.with([limit]))
        };
        let (calls, watches) = (metrics.calls_in_flight.with([]), metrics.watches.with([]));
        Self {
            calls: pool("max_in_flight", max_in_flight, "calls in progress", calls),
            max_in_flight,
            watches: pool("max_watches", max_watches, "open watches", watches),
        }
    }

    /// The permit of a call that has one answer.
    ///
    /// # Errors
    /// `SERVER_OVERLOADED`
    pub(super) fn call(&self) -> Result<Permits, Error> {
        self.calls.take(1)
    }

    /// The further permits of a call that asks for `orders` orders: each order can mean a call to a
    /// vendor. A batch of more orders than there are permits needs all the permits.
    ///
    /// # Errors
    /// `SERVER_OVERLOADED`
    pub(super) fn batch(&self, orders: usize) -> Result<Permits, Error> {
        let permits = u32::try_from(orders).unwrap_or(u32::MAX).min(self.max_in_flight);
        self.calls.take(permits.saturating_sub(1))
    }

    /// The permit of a watch.
    ///
    /// # Errors
    /// `SERVER_OVERLOADED`
    pub(super) fn watch(&self) -> Result<Permits, Error> {
        self.watches.take(1)
    }
}

/// Permits of one kind. Clones share them.
#[derive(Clone)]
struct Pool {
    /// What a permit is for.
    what: &'static str,
    free: Arc<Semaphore>,
    used: Gauge,
    shed: Counter,
}

impl Pool {
    fn new(what: &'static str, size: u32, used: Gauge, shed: Counter) -> Self {
        used.set(0.0);
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let free = Arc::new(Semaphore::new(size.min(Semaphore::MAX_PERMITS)));
        Self { what, free, used, shed }
    }

    fn take(&self, count: u32) -> Result<Permits, Error> {
        let Ok(permit) = Arc::clone(&self.free).try_acquire_many_owned(count) else {
            self.shed.inc();
            let message = format!("this server has too many {}; retry later", self.what);
            return Err(Error::new(ErrorReason::ServerOverloaded, message).retry_after(RETRY));
        };
        self.used.add(count.into());
        Ok(Permits { used: self.used.clone(), count, _permit: permit })
    }
}

/// The permits of a call. Dropping them returns them.
pub(super) struct Permits {
    used: Gauge,
    count: u32,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Permits {
    fn drop(&mut self) {
        self.used.add(-f64::from(self.count));
    }
}
