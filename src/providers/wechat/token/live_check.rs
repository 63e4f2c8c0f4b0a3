//! Requests a token to check whether the vendor accepts the account. Used by the WeChat module only.

use super::{LEASE_TIMEOUTS, Tokens, Way, log_failure};
use crate::error::Error;
use crate::outbound::{Answer, Client};
use crate::providers::{Token, TokenStore, new_id};

/// What to do if the token of a proof could not be stored.
const UNKEPT: &str = "run the command again once the store works: the vendor has issued a token \
                      that the servers do not know, and invalidates theirs";

impl Tokens {
    /// Whether each new token ends the life of the previous one.
    pub(in crate::providers::wechat) fn end_one_another(&self) -> bool {
        self.settings.way == Way::Classic
    }

    /// Requests a token, even if there is one already. If the new token ends the life of the previous
    /// one, it is requested under the lease and stored, so that the processes that share the store have
    /// it.
    ///
    /// # Errors
    /// The vendor was not asked, or gave no answer; an error in its answer is part of the proof.
    pub(in crate::providers::wechat) async fn live_check(
        &self,
        client: &Client,
        shared: Option<&dyn TokenStore>,
    ) -> Result<(Answer, Result<Token, Error>), Error> {
        let app_secret = self.settings.app_secret.current();
        let Some(store) = shared.filter(|_| self.end_one_another()) else {
            return self.call(client, &app_secret).await;
        };
        let (lease, owner) = (self.lease(), new_id());
        if !store.lease(&lease, &owner, client.timeout() * LEASE_TIMEOUTS).await? {
            let message = "a server is renewing the vendor's token";
            return Err(Error::unavailable(message).advice("run the command again"));
        }
        let mut outcome = self.call(client, &app_secret).await;
        if let Ok((_, given)) = &mut outcome
            && let Ok(token) = given
            && let Err(error) = store.save(&self.key, token).await
        {
            *given = Err(error.advice(UNKEPT));
        }
        log_failure(store.release(&lease, &owner).await);
        outcome
    }
}
