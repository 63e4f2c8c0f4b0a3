//! How many calls may be under way. One more is turned away at once: a queue would only use up the
//! time that its caller has. Used by `grpc` only.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config;
use crate::error::Error;
use crate::pb::ErrorReason;

/// How long a caller that was turned away is asked to wait: time for calls under way to end, and
/// the longest wait after which gRPC's built-in retries repeat a call.
const RETRY: Duration = Duration::from_secs(1);

/// The places of the calls under way. Clones share them.
#[derive(Clone)]
pub(super) struct Admission {
    calls: Arc<Semaphore>,
    max_in_flight: u32,
    watches: Arc<Semaphore>,
}

/// The places of a call; given back when it is dropped.
pub(super) type Places = OwnedSemaphorePermit;

impl Admission {
    pub(super) fn new(limits: &config::Server) -> Self {
        let places = |limit| {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS)))
        };
        Self {
            calls: places(limits.max_in_flight),
            max_in_flight: limits.max_in_flight,
            watches: places(limits.max_watches),
        }
    }

    /// The place of a call that has one answer.
    ///
    /// # Errors
    /// `SERVER_OVERLOADED`
    pub(super) fn call(&self) -> Result<Places, Error> {
        take(&self.calls, 1, "calls under way")
    }

    /// The further places of a call that asks for so many orders: each can mean a call to a vendor.
    /// Where it asks for more than there are places in all, it needs them all.
    ///
    /// # Errors
    /// `SERVER_OVERLOADED`
    pub(super) fn batch(&self, orders: usize) -> Result<Places, Error> {
        let places = u32::try_from(orders).unwrap_or(u32::MAX).min(self.max_in_flight);
        take(&self.calls, places.saturating_sub(1), "calls under way")
    }

    /// The place of a watch.
    ///
    /// # Errors
    /// `SERVER_OVERLOADED`
    pub(super) fn watch(&self) -> Result<Places, Error> {
        take(&self.watches, 1, "watches open")
    }
}

fn take(places: &Arc<Semaphore>, count: u32, of_what: &str) -> Result<Places, Error> {
    Arc::clone(places).try_acquire_many_owned(count).map_err(|_full| {
        let message = format!("this server has too many {of_what}; ask again later");
        Error::new(ErrorReason::ServerOverloaded, message).retry_after(RETRY)
    })
}
