//! Has the vendors asked for proof, with the store of a server that may be running beside it and must
//! not notice. Used by `check --live`.

mod report;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

pub use self::report::{Finding, Verdict};
use super::Setup;
use crate::accounts::Shared;
use crate::config::StorePlace;
use crate::store::{self, File, Store};

/// How long the shared store may take to be reached.
const STORE_PATIENCE: Duration = Duration::from_secs(2);

const IN_USE: &str = "store in use: a new token would end the one of the server that has the file; \
                      ask that server for an order, or run this while it is stopped";
const NOT_SHARED: &str = "the store is memory:, and a new token would end the one of a server that may \
                          be running; set token = \"stable\", or another store";
const UNUSABLE: &str = "the store cannot be used, and a new token must be kept there";

/// Why there is no store to use.
enum Without {
    /// It is as it should be.
    Reason(&'static str),
    /// It is not.
    Trouble(String),
}

impl Setup {
    /// Asks the vendors of all accounts for what shows that they can be asked, and for no order. What
    /// is wrong with the store comes first.
    pub async fn prove(&self) -> Vec<Finding> {
        let store = self.shared_store().await;
        let (shared, unasked) = match &store {
            Ok(Some(store)) => (Shared::Store(store.as_ref()), ""),
            Ok(None) => (Shared::Nobody, ""),
            Err(Without::Reason(why)) => (Shared::Unknown, *why),
            Err(Without::Trouble(_)) => (Shared::Unknown, UNUSABLE),
        };
        let proved = self.accounts.prove(shared).await;
        let now = self.clock.wall();
        let findings = proved.into_iter().map(|proved| Finding::of(proved, unasked, now));
        let mut findings: Vec<_> = findings.collect();
        if let Err(Without::Trouble(text)) = store {
            let path = "store.url".to_owned();
            findings.insert(0, Finding { path, verdict: Verdict::Failed, text });
        }
        findings
    }

    /// The store that a running server has; `None` where none can have one, or no proof needs it: a
    /// file is neither made nor touched for nothing.
    async fn shared_store(&self) -> Result<Option<Arc<dyn Store>>, Without> {
        let wanted = self.accounts.prove_with_store();
        match &self.config.store.place {
            StorePlace::Memory => return Err(Without::Reason(NOT_SHARED)),
            StorePlace::File(path) if File::is_held(path) => {
                return if wanted { Err(Without::Reason(IN_USE)) } else { Ok(None) };
            }
            StorePlace::File(path) => {
                File::prove_writes(path).map_err(Without::Trouble)?;
                if !wanted || matches!(path.try_exists(), Ok(false)) {
                    return Ok(None);
                }
            }
            StorePlace::Redis(_) => {}
        }
        let store = store::open(&self.config.store, &self.clock, &self.metrics)
            .map_err(Without::Trouble)?;
        if timeout(STORE_PATIENCE, store.opened()).await.is_ok() {
            return Ok(Some(store));
        }
        let Err(error) = store.ping().await else { return Ok(Some(store)) };
        let why = error.detail.unwrap_or_default();
        Err(Without::Trouble(match error.advice {
            Some(advice) => format!("cannot be used ({why}); {advice}"),
            None => format!(
                "not reached within {STORE_PATIENCE:?} ({why}); check the server, and the way to it"
            ),
        }))
    }
}
