//! Asks the vendors to prove that they can be asked about orders, without asking for an order. Used by
//! `app`, for an operator who waits for the result.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::{Account, Accounts};
use crate::error::Error;
use crate::providers::{LiveCheck, TokenStore};

/// What a proof may use if it ends the life of an access token.
#[derive(Clone, Copy)]
pub enum Shared<'a> {
    /// The store that the token's other users share.
    Store(&'a dyn TokenStore),
    /// No other process can have a token.
    Nobody,
    /// It is unknown who shares the token, so the vendor must not be asked.
    Unknown,
}

/// The result of proving one account.
#[derive(Debug)]
pub struct LiveChecked {
    /// The account's name.
    pub account: String,
    /// The vendor's answer, or why there is none; `None` if the vendor must not be asked. Its texts are
    /// safe to show.
    pub outcome: Option<Result<LiveCheck, Error>>,
    /// The duration of the proof.
    pub time: Duration,
}

impl Accounts {
    /// Whether a proof of any account must be given the store of the running server.
    #[must_use]
    pub fn live_check_needs_the_store(&self) -> bool {
        self.iter().any(|account| account.vendor.live_check_ends_a_token())
    }

    /// Asks the vendors of all accounts at once; the results are in the order of the accounts.
    pub async fn live_check(&self, shared: Shared<'_>) -> Vec<LiveChecked> {
        join_all(self.iter().map(|account| account.live_check(shared))).await
    }
}

impl Account {
    async fn live_check(&self, shared: Shared<'_>) -> LiveChecked {
        let begin = Instant::now();
        let outcome = match shared {
            Shared::Unknown if self.vendor.live_check_ends_a_token() => None,
            Shared::Store(store) => Some(self.vendor.live_check(Some(store)).await),
            Shared::Nobody | Shared::Unknown => Some(self.vendor.live_check(None).await),
        };
        let presentable = |error: Error| error.presentable(&self.vendor.secrets());
        let outcome = outcome.map(|outcome| match outcome {
            Ok(proof) => {
                Ok(LiveCheck { credentials: proof.credentials.map_err(presentable), ..proof })
            }
            Err(error) => Err(presentable(error)),
        });
        LiveChecked { account: self.name.to_string(), outcome, time: begin.elapsed() }
    }
}
