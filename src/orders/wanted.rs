//! What a caller wants of an answer, besides the order. `grpc` fills it from a request; `orders` checks
//! it, and keeps it.

use std::time::{Duration, SystemTime};

use super::Orders;
use crate::error::Error;
use crate::store::CLOCKS_DIFFER;

/// What an answer must satisfy.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    /// How old the answer may be; `None` means the account's default, or older where the vendor cannot be
    /// asked.
    pub max_age: Option<Duration>,
    /// When the answer must have been observed at the earliest.
    pub min_observe_time: Option<MinObserveTime>,
}

/// A checked `min_observe_time`: it is not far in the future.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MinObserveTime(SystemTime);

impl MinObserveTime {
    pub(super) fn time(self) -> SystemTime {
        self.0
    }
}

impl Orders {
    /// Checks a caller's `min_observe_time`. Another replica's clock may be ahead of ours; a time beyond
    /// that comes from no answer, and would send every question to the vendor.
    ///
    /// # Errors
    /// `INVALID_REQUEST`
    pub fn min_observe_time(&self, time: SystemTime) -> Result<MinObserveTime, Error> {
        let ahead = time.duration_since(self.0.clock.now()).unwrap_or_default();
        if ahead > CLOCKS_DIFFER {
            let message = "min_observe_time is more than 2 minutes in the future; pass on the \
                           observe_time of an answer";
            return Err(Error::invalid("min_observe_time", message));
        }
        Ok(MinObserveTime(time))
    }
}
