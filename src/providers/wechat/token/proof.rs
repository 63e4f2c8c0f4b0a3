//! A token that is asked for to see whether the account is taken. Used by the WeChat module only.

use super::{LEASE_TIMEOUTS, Tokens, Way, log_failure};
use crate::error::Error;
use crate::outbound::{Answer, Client};
use crate::providers::{Token, TokenStore, new_id};

/// What to do where the token of a proof could not be remembered.
const UNKEPT: &str = "run the command again once the store is well: the vendor has given a token that \
                      the servers do not know, and ends theirs";

impl Tokens {
    /// Whether each token ends the life of the one before.
    pub(in crate::providers::wechat) fn end_one_another(&self) -> bool {
        self.settings.way == Way::Classic
    }

    /// Asks for a token, whether there is one or not. One that ends the life of the one before is
    /// got under the lease and remembered, so that those who share the store have it.
    ///
    /// # Errors
    /// Where the vendor was not asked, or gave no answer; the answer's own error is beside it.
    pub(in crate::providers::wechat) async fn prove(
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
            let message = "a server renews the vendor's token now";
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
