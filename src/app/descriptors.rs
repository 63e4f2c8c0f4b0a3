//! Raises the process's limit of file descriptors, and checks that it covers the configured limits.
//! Used by `app` only.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::ADMIN_CONNECTIONS;
use super::Config;
use crate::accounts::Accounts;

/// Descriptors besides those of limited connections: listeners, the runtime's own, the store's files or
/// connections, the collector's connection, and files that are briefly open for reading.
const OTHERS: u64 = 64;

/// Raises the soft limit to the hard limit.
pub(super) fn raise() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, ..limit };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit of file descriptors cannot be raised");
        }
    }
}

/// A warning if the process may open fewer descriptors than the limits need.
pub(super) fn shortage(config: &Config, accounts: &Accounts) -> Option<String> {
    let most = getrlimit(Resource::Nofile).maximum?;
    let left = most.saturating_sub(open());
    let needed = u64::from(config.server.max_connections)
        + u64::from(ADMIN_CONNECTIONS)
        + accounts.max_concurrency()
        + OTHERS;
    (left < needed).then(|| {
        format!(
            "needs {needed} file descriptors, including {ADMIN_CONNECTIONS} for probes and those \
             for calls to vendors, but only {left} are available: raise the hard limit (ulimit \
             -Hn), or lower this setting"
        )
    })
}

/// How many are already open; 0 if the system does not report it.
fn open() -> u64 {
    let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    u64::try_from(open).unwrap_or(u64::MAX)
}
