//! Asks the vendors for proof that they can be asked about orders, and for no order. Used by `app`,
//! for an operator who waits for it.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::{Account, Accounts};
use crate::error::Error;
use crate::providers::{Proof, TokenStore};

/// What a proof that ends the life of an access token may use.
#[derive(Clone, Copy)]
pub enum Shared<'a> {
    /// The store of whoever else uses the token.
    Store(&'a dyn TokenStore),
    /// Nobody else can have one.
    Nobody,
    /// Nothing, so the vendor must not be asked.
    Unknown,
}

/// What came of asking an account's vendor.
#[derive(Debug)]
pub struct Proved {
    /// The account's name.
    pub account: String,
    /// What the vendor has answered, or why it has not; `None` where it must not be asked. What it
    /// says is fit to be shown.
    pub outcome: Option<Result<Proof, Error>>,
    /// How long it took.
    pub time: Duration,
}

impl Accounts {
    /// Whether a proof of any account must be handed the store that a running server has.
    #[must_use]
    pub fn prove_with_store(&self) -> bool {
        self.iter().any(|account| account.vendor.proof_ends_a_token())
    }

    /// Asks the vendors of all accounts at once; what comes of it is in the order of the accounts.
    pub async fn prove(&self, shared: Shared<'_>) -> Vec<Proved> {
        join_all(self.iter().map(|account| account.prove(shared))).await
    }
}

impl Account {
    async fn prove(&self, shared: Shared<'_>) -> Proved {
        let begin = Instant::now();
        let outcome = match shared {
            Shared::Unknown if self.vendor.proof_ends_a_token() => None,
            Shared::Store(store) => Some(self.vendor.prove(Some(store)).await),
            Shared::Nobody | Shared::Unknown => Some(self.vendor.prove(None).await),
        };
        let presentable = |error: Error| error.presentable(&self.vendor.secrets());
        let outcome = outcome.map(|outcome| match outcome {
            Ok(proof) => Ok(Proof { taken: proof.taken.map_err(presentable), ..proof }),
            Err(error) => Err(presentable(error)),
        });
        Proved { account: self.name.clone(), outcome, time: begin.elapsed() }
    }
}
