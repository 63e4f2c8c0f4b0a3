//! Leases of the stores that only this process uses: each grants one owner an exclusive task for a
//! while.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use super::{Known, Lease};

/// How many leases may be held before expired ones are removed.
const SWEEP_AT: usize = 10_000;

/// The leases of this process: each with its owner and its end.
#[derive(Debug, Default)]
pub(super) struct Leases(HashMap<String, (String, SystemTime)>);

impl Leases {
    /// Gives `owner` the lease on `what`; false while another owner holds it.
    pub(super) fn lease(
        &mut self,
        what: &str,
        owner: &str,
        life: Duration,
        now: SystemTime,
    ) -> bool {
        let held = self.0.get(what).filter(|(_, until)| *until > now);
        if held.is_some_and(|(holder, _)| holder != owner) {
            return false;
        }
        if self.0.len() >= SWEEP_AT {
            self.0.retain(|_, (_, until)| *until > now);
        }
        self.0.insert(what.to_owned(), (owner.to_owned(), now + life));
        true
    }

    /// Acquires the lease of a call; false while another owner holds it, or if `known` is an answer that
    /// its owner has not seen.
    pub(super) fn take(&mut self, lease: &Lease, known: Option<&Known>, now: SystemTime) -> bool {
        let state = known.and_then(|known| known.state.as_ref());
        !state.is_some_and(|state| lease.is_answered_by(state))
            && self.lease(&lease.key, &lease.owner, lease.life, now)
    }

    /// Ends the lease of a call, if it has one.
    pub(super) fn end(&mut self, lease: Option<&Lease>) {
        if let Some(lease) = lease {
            self.release(&lease.key, &lease.owner);
        }
    }

    /// Ends a lease, if this owner holds it.
    pub(super) fn release(&mut self, what: &str, owner: &str) {
        if self.0.get(what).is_some_and(|(holder, _)| holder == owner) {
            self.0.remove(what);
        }
    }
}
