//! Whether an account's vendor can be asked now, as far as is known, and what impairs it. Used by the
//! account; `health` reports it.

use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// A reason why a vendor cannot be asked. Each one is set and cleared independently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Impairment {
    /// The vendor rejects the account's credentials.
    CredentialsRejected,
    /// The vendor fails, and its breaker is open.
    Failing,
}

impl Impairment {
    fn of(self, [credentials_rejected, failing]: &mut [bool; 2]) -> &mut bool {
        match self {
            Self::CredentialsRejected => credentials_rejected,
            Self::Failing => failing,
        }
    }
}

/// The availability of an account's vendor.
#[derive(Debug)]
pub(crate) struct Availability {
    impairments: Mutex<[bool; 2]>,
    available: watch::Sender<bool>,
}

impl Default for Availability {
    fn default() -> Self {
        Self { impairments: Mutex::default(), available: watch::Sender::new(true) }
    }
}

impl Availability {
    /// Returns a receiver of whether the vendor can be asked: the current value and each change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<bool> {
        self.available.subscribe()
    }

    fn impairments(&self) -> MutexGuard<'_, [bool; 2]> {
        self.impairments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an impairment is present.
    pub(crate) fn has(&self, impairment: Impairment) -> bool {
        *impairment.of(&mut self.impairments())
    }

    /// Records whether an impairment is present. Returns true if that changes it.
    pub(crate) fn set(&self, impairment: Impairment, is_there: bool) -> bool {
        let mut impairments = self.impairments();
        let changed = mem::replace(impairment.of(&mut impairments), is_there) != is_there;
        // Sent under the lock, so that the last value sent is that of the last change.
        let available = !impairments.contains(&true);
        self.available.send_if_modified(|was| mem::replace(was, available) != available);
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vendor_is_available_while_nothing_impairs_it() {
        use Impairment::{CredentialsRejected, Failing};
        let availability = Availability::default();
        let available = availability.subscribe();
        assert!(*available.borrow());
        for (impairment, is_there, changed, expected) in [
            (CredentialsRejected, false, false, true),
            (CredentialsRejected, true, true, false),
            (Failing, true, true, false),
            (CredentialsRejected, true, false, false),
            (CredentialsRejected, false, true, false),
            (Failing, false, true, true),
        ] {
            let case = format!("{impairment:?} {is_there}");
            assert_eq!(availability.set(impairment, is_there), changed, "{case}");
            assert_eq!(*available.borrow(), expected, "{case}");
        }
    }
}
