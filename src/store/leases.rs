//! Who does what alone, for a while: the leases of the stores that only this process uses.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use super::Lease;

/// How many leases may be held before those that are over are looked for and dropped.
const SWEEP_AT: usize = 10_000;

/// The leases of this process: the owner and the end of each.
#[derive(Debug, Default)]
pub(super) struct Leases(HashMap<String, (String, SystemTime)>);

impl Leases {
    /// Makes `owner` the one who does `what`; false while another one is.
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

    /// Takes the lease of a call, if it has one; false while another owner holds it.
    pub(super) fn take(&mut self, lease: Option<&Lease>, now: SystemTime) -> bool {
        lease.is_none_or(|lease| self.lease(&lease.key, &lease.owner, lease.life, now))
    }

    /// Ends the lease of a call, if it has one.
    pub(super) fn end(&mut self, lease: Option<&Lease>) {
        if let Some(lease) = lease {
            self.release(&lease.key, &lease.owner);
        }
    }

    /// Ends a lease, if it is this owner's.
    pub(super) fn release(&mut self, what: &str, owner: &str) {
        if self.0.get(what).is_some_and(|(holder, _)| holder == owner) {
            self.0.remove(what);
        }
    }
}
