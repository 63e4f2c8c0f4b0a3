//! Who asks, as far as the answer depends on it. `grpc` finds out who it is; `accounts` keeps to what
//! that caller may do.

use std::sync::Arc;

/// A caller. The default one is anyone, who may ask for everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// Its name in the configuration; empty where callers are not told apart.
    pub name: Arc<str>,
    /// The names of the accounts that it may use; `None`: all.
    pub accounts: Option<Arc<[String]>>,
    /// How many calls to vendors may be made for its questions in any minute; `None`: as many as
    /// the accounts allow.
    pub vendor_calls_per_minute: Option<u32>,
}

/// The calls to vendors that may be made for one caller in any minute.
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
