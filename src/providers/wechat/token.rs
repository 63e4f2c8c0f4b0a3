//! WeChat's access token: got both documented ways, renewed early, by one caller at a time, and
//! dropped when the vendor refuses it. Used by the WeChat module only.
//!
//! The vendor's rules (*found* in its pages on tokens): the stable way gives the same token to
//! everyone until under 300 s of its life are left; the classic way gives another one at every
//! call and ends the life of the one before. `force_refresh` would throw out every other user of
//! the account: it is never sent.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use tokio::sync::Mutex;

use super::{failure, row};
use crate::clock::Clock;
use crate::config::{Secret, Section};
use crate::error::Error;
use crate::outbound::{Answer, Body, Client, Request};
use crate::pb::ErrorReason;
use crate::providers::wire::{self, Refusal, Scalar};
use crate::providers::{Parts, Token, TokenStore};

/// How long before its end a token is renewed: under 300 s, from when on the stable way gives a
/// new one.
const RENEW_BEFORE: Duration = Duration::from_mins(4);

/// The longest life that is believed (*assumed*; the usual one is 2 hours).
const LONGEST_LIFE: Duration = Duration::from_hours(24);

/// How long no token is asked for after the first failure; each further one in a row doubles it.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// The longest such wait, and the one after refused credentials, which only an operator mends.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// `errcode` of the token call for the account's own credentials and address.
const TOKEN_ERRORS: &[(&str, Refusal)] = {
    const REJECTED: Refusal = Refusal::new(ErrorReason::ProviderCredentialsRejected);
    &[
        ("40001", REJECTED),
        ("40013", REJECTED),
        ("40125", REJECTED),
        ("40164", REJECTED),
        ("40243", REJECTED),
    ]
};

/// The way to a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Stable,
    Classic,
}

/// What an account sets.
pub(super) struct Settings {
    pub(super) app_id: String,
    app_secret: Secret,
    way: Way,
}

impl Settings {
    pub(super) fn read(section: &mut Section) -> Option<Self> {
        let app_id = section.require("app_id");
        let app_secret = section.require("app_secret");
        let way = section.choice("token", &[("stable", Way::Stable), ("classic", Way::Classic)]);
        Some(Self { app_id: app_id?, app_secret: app_secret?, way: way.unwrap_or(Way::Stable) })
    }
}

/// The tokens of one account.
pub(super) struct Tokens {
    settings: Settings,
    /// What the store knows the token by: the two ways have tokens of their own.
    key: String,
    store: Arc<dyn TokenStore>,
    clock: Arc<dyn Clock>,
    /// Held while a token is asked for, so that one caller does it for all.
    last_failure: Mutex<Option<Failure>>,
}

struct Failure {
    error: Error,
    /// Until when no token is asked for.
    until: SystemTime,
    wait: Duration,
}

impl Tokens {
    pub(super) fn new(settings: Settings, identity: &str, parts: &Parts) -> Self {
        let key = format!("{identity} {:?}", settings.way);
        let (store, clock) = (Arc::clone(&parts.tokens), Arc::clone(&parts.clock));
        Self { settings, key, store, clock, last_failure: Mutex::new(None) }
    }

    /// What is never to be repeated.
    pub(super) fn secrets(&self) -> Vec<&Secret> {
        vec![&self.settings.app_secret]
    }

    /// The token to use now.
    pub(super) async fn current(&self, client: &Client) -> Result<Token, Error> {
        if let Some(token) = self.usable().await? {
            return Ok(token);
        }
        let mut last_failure = self.last_failure.lock().await;
        if let Some(token) = self.usable().await? {
            return Ok(token);
        }
        self.renew(client, &mut last_failure, None).await
    }

    /// The token to use after the vendor refused `used`, with that `refusal`.
    pub(super) async fn replace(
        &self,
        client: &Client,
        used: &Token,
        refusal: Error,
    ) -> Result<Token, Error> {
        let mut last_failure = self.last_failure.lock().await;
        self.store.drop_if(&self.key, used).await?;
        // Another caller may have renewed it meanwhile.
        if let Some(token) = self.usable().await? {
            return Ok(token);
        }
        self.renew(client, &mut last_failure, Some((used, refusal))).await
    }

    /// Notes that the vendor refused even the renewed token, so that the next calls do not go
    /// the same way at once. Gives back the error.
    pub(super) async fn give_up(&self, used: &Token, error: Error) -> Error {
        let mut last_failure = self.last_failure.lock().await;
        if let Err(store_error) = self.store.drop_if(&self.key, used).await {
            return store_error;
        }
        self.note(&mut last_failure, error)
    }

    async fn usable(&self) -> Result<Option<Token>, Error> {
        let token = self.store.load(&self.key).await?;
        Ok(token.filter(|token| self.clock.now() < token.renew_at))
    }

    async fn renew(
        &self,
        client: &Client,
        last_failure: &mut Option<Failure>,
        refused: Option<(&Token, Error)>,
    ) -> Result<Token, Error> {
        if let Some(failure) = last_failure.as_ref()
            && let Ok(left) = failure.until.duration_since(self.clock.now())
            && !left.is_zero()
        {
            let error = failure.error.clone();
            let retry_after = error.retry_after.map(|_| left);
            return Err(Error { retry_after, ..error });
        }
        let renewed = self.ask(client).await.and_then(|token| match refused {
            Some((used, refusal)) if used.value == token.value => {
                let said = refusal.detail.as_deref().unwrap_or_default();
                let detail = format!("{said}; the token call gave the refused token again");
                Err(refusal.detail(detail))
            }
            _ => Ok(token),
        });
        match renewed {
            Ok(token) => {
                *last_failure = None;
                self.store.save(&self.key, &token).await?;
                Ok(token)
            }
            Err(error) => Err(self.note(last_failure, error)),
        }
    }

    fn note(&self, last_failure: &mut Option<Failure>, error: Error) -> Error {
        let wait = match (error.reason, last_failure.as_ref()) {
            (ErrorReason::ProviderCredentialsRejected, _) => LONGEST_WAIT,
            (_, Some(before)) => (before.wait * 2).min(LONGEST_WAIT),
            (_, None) => FIRST_WAIT,
        };
        let until = self.clock.now() + wait.max(error.retry_after.unwrap_or_default());
        *last_failure = Some(Failure { error: error.clone(), until, wait });
        error
    }

    /// One token call.
    async fn ask(&self, client: &Client) -> Result<Token, Error> {
        let Settings { app_id, app_secret, way } = &self.settings;
        let answer = match way {
            Way::Stable => {
                let body = serde_json::json!({
                    "grant_type": "client_credential",
                    "appid": app_id,
                    "secret": app_secret.expose(),
                    "force_refresh": false,
                });
                let request = Request {
                    path: &["cgi-bin", "stable_token"],
                    body: Body::Json(body.to_string()),
                    ..Request::default()
                };
                client.send(request).await?
            }
            Way::Classic => {
                let query = [
                    ("grant_type", "client_credential"),
                    ("appid", app_id),
                    ("secret", app_secret.expose()),
                ];
                let request =
                    Request { path: &["cgi-bin", "token"], query: &query, ..Request::default() };
                client.send(request).await?
            }
        };
        read(&answer)
    }
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    errcode: Scalar,
    #[serde(default)]
    errmsg: Scalar,
    #[serde(default)]
    access_token: Scalar,
    #[serde(default)]
    expires_in: Scalar,
}

fn read(answer: &Answer) -> Result<Token, Error> {
    let envelope: Envelope = wire::envelope(answer)?;
    if let Some(code) = failure(&envelope.errcode) {
        let text = envelope.errmsg.text();
        return Err(wire::refused(row(TOKEN_ERRORS, code), answer, code, text));
    }
    answer.check_status()?;
    let value = envelope.access_token.some();
    let value = value.ok_or_else(|| Error::unreadable("it holds no access_token"))?;
    let seconds = envelope.expires_in.integer("expires_in")?.unwrap_or_default();
    let life = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0);
    let life = life.ok_or_else(|| Error::unreadable("its access_token has no life left"))?;
    let life = Duration::from_secs(life).min(LONGEST_LIFE);
    // A life that is as short as the early renewal must still be used for a while.
    let renew_at = answer.sent + life - RENEW_BEFORE.min(life / 2);
    Ok(Token { value: Secret::from(value), renew_at })
}
