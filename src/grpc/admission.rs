//! The limits on calls in progress. A call over a limit is refused at once: a queue would only use up
//! its caller's time. Used by `grpc` only.

use std::sync::Arc;
use std::time::Duration;

use crate::budget::{Budget, Share};
use crate::error::Error;
use crate::pb::ErrorReason;
use crate::telemetry::metrics::{Counter, Gauge, Metrics};

/// How long a refused caller is asked to wait: enough for some calls to end, and the longest wait
/// after which gRPC's built-in retries still repeat a call.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// The limits of calls.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many calls may be in flight, not counting watches.
    pub max_in_flight: u32,
    /// How many watches may be open.
    pub max_watches: u32,
}

/// The permits for calls in progress. Clones share them.
#[derive(Clone)]
pub struct Admission {
    calls: Pool,
    watches: Pool,
}

impl Admission {
    /// Creates the permits that these limits allow.
    #[must_use]
    pub fn new(limits: &Limits, metrics: &Metrics) -> Self {
        let Limits { max_in_flight, max_watches } = *limits;
        let pool = |limit: &'static str, size: u32, what, used| {
            metrics.server_limit.with([limit]).set(size.into());
            Pool::new(what, size, used, metrics.shed.with([limit]))
        };
        let (calls, watches) = (metrics.calls_in_flight.with([]), metrics.watches.with([]));
        Self {
            calls: pool("max_in_flight", max_in_flight, "calls in progress", calls),
            watches: pool("max_watches", max_watches, "open watches", watches),
        }
    }

    /// Updates the gauges of calls in progress and of open watches.
    pub fn measure(&self) {
        for Pool { permits, used, .. } in [&self.calls, &self.watches] {
            used.set(u32::try_from(permits.used()).unwrap_or(u32::MAX).into());
        }
    }

    /// The permit of a call that has one answer.
    ///
    /// # Errors
    /// `SERVER_OVERLOADED`
    pub(super) fn call(&self) -> Result<Share, Error> {
        self.calls.take(1)
    }

    /// The further permits of a call that asks for `orders` orders: each order can mean a call to a
    /// vendor. A batch of more orders than there are permits needs all the permits.
    ///
    /// # Errors
    /// `SERVER_OVERLOADED`
    pub(super) fn batch(&self, orders: usize) -> Result<Share, Error> {
        self.calls.take(orders.min(self.calls.permits.limit()).saturating_sub(1))
    }

    /// The permit of a watch.
    ///
    /// # Errors
    /// `SERVER_OVERLOADED`
    pub(super) fn watch(&self) -> Result<Share, Error> {
        self.watches.take(1)
    }
}

/// Permits of one kind. Clones share them.
#[derive(Clone)]
struct Pool {
    /// What a permit is for.
    what: &'static str,
    permits: Arc<Budget>,
    used: Gauge,
    shed: Counter,
}

impl Pool {
    fn new(what: &'static str, size: u32, used: Gauge, shed: Counter) -> Self {
        used.set(0.0);
        let permits = Budget::new(usize::try_from(size).unwrap_or(usize::MAX));
        Self { what, permits, used, shed }
    }

    fn take(&self, count: usize) -> Result<Share, Error> {
        self.permits.take(count).ok_or_else(|| {
            self.shed.inc();
            let message = format!("this server has too many {}; retry later", self.what);
            Error::new(ErrorReason::ServerOverloaded, message).retry_after(RETRY)
        })
    }
}
