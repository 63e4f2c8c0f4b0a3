//! The caller, as far as the answer depends on it. `grpc` identifies it; `accounts` enforces what it
//! may do.

use std::sync::Arc;

/// A caller. The default is anonymous and may ask for everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// The client's name in the configuration; empty if clients are not distinguished.
    pub name: Arc<str>,
    /// The names of the accounts that it may use; `None` means all.
    pub accounts: Option<Arc<[String]>>,
    /// How many calls to vendors may be made for its questions in any minute; `None` means as many as
    /// the accounts allow.
    pub vendor_calls_per_minute: Option<u32>,
}

/// A client's limit on calls to vendors in any minute.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Share {
    /// The caller's name.
    pub(crate) client: Arc<str>,
    pub(crate) limit: u32,
}

impl Caller {
    pub(crate) fn may_use(&self, account: &str) -> bool {
        self.accounts.as_ref().is_none_or(|accounts| accounts.iter().any(|name| name == account))
    }

    pub(crate) fn share(&self) -> Option<Share> {
        let limit = self.vendor_calls_per_minute?;
        Some(Share { client: Arc::clone(&self.name), limit })
    }
}
