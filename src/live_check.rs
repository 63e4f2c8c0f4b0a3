//! Checks each account at its vendor. A server may be running with the same store, and the check must
//! not disturb it. Used by `check --live`.

mod report;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

pub use self::report::{Finding, Verdict};
use crate::accounts::Shared;
use crate::app::Setup;
use crate::store::{self, File, Place, Store};

/// How long to wait for the shared store.
const STORE_PATIENCE: Duration = Duration::from_secs(2);

const IN_USE: &str = "store in use: a new token would invalidate the token of the server that uses \
                      the file; ask that server for an order, or run this command while the server \
                      is stopped";
const NOT_SHARED: &str = "the store is memory:, and a new token would invalidate the token of a \
                          server that may be running; set token = \"stable\", or use another \
                          store";
const UNUSABLE: &str = "the store cannot be used, and a new token must be stored there";

/// Why the check has no store to use.
enum Without {
    /// Nothing is wrong with the store.
    Reason(&'static str),
    /// The store is faulty.
    Unusable(String),
}

/// Checks that every account can be used at its vendor, without asking for an order. A problem with
/// the store is the first finding.
pub async fn run(setup: &Setup) -> Vec<Finding> {
    let store = shared_store(setup).await;
    let (shared, unasked) = match &store {
        Ok(Some(store)) => (Shared::Store(store.as_ref()), ""),
        Ok(None) => (Shared::Nobody, ""),
        Err(Without::Reason(why)) => (Shared::Unknown, *why),
        Err(Without::Unusable(_)) => (Shared::Unknown, UNUSABLE),
    };
    let checked = setup.accounts.live_check(shared).await;
    let now = setup.clock.wall();
    let findings = checked.into_iter().map(|checked| Finding::of(checked, unasked, now));
    let mut findings: Vec<_> = findings.collect();
    if let Err(Without::Unusable(text)) = store {
        let path = "store.url".to_owned();
        findings.insert(0, Finding { path, verdict: Verdict::Failed, text });
    }
    findings
}

/// The store that a running server uses. `None` if no server can be using it, or if no check needs
/// it: a store file is neither created nor touched without need.
async fn shared_store(setup: &Setup) -> Result<Option<Arc<dyn Store>>, Without> {
    let wanted = setup.accounts.live_check_needs_the_store();
    match &setup.config.store.place {
        Place::Memory => return Err(Without::Reason(NOT_SHARED)),
        Place::File(path) if File::is_held(path) => {
            return if wanted { Err(Without::Reason(IN_USE)) } else { Ok(None) };
        }
        Place::File(path) => {
            File::check_writable(path).map_err(Without::Unusable)?;
            if !wanted || matches!(path.try_exists(), Ok(false)) {
                return Ok(None);
            }
        }
        Place::Redis(_) => {}
    }
    let store = store::open(&setup.config.store, &setup.clock, &setup.metrics)
        .map_err(Without::Unusable)?;
    if timeout(STORE_PATIENCE, store.opened()).await.is_ok() {
        return Ok(Some(store));
    }
    let Err(error) = store.ping().await else { return Ok(Some(store)) };
    let why = error.detail.unwrap_or_default();
    Err(Without::Unusable(match error.advice {
        Some(advice) => format!("cannot be used ({why}); {advice}"),
        None => format!(
            "not reached within {STORE_PATIENCE:?} ({why}); check the server and the network path \
             to it"
        ),
    }))
}
