//! WeChat's access token: requested in either documented way, renewed early, by one caller at a time,
//! and removed when the vendor refuses it. Used by the WeChat module only.
//!
//! The vendor's rules (*found* in its pages on tokens): the stable way returns the same token to
//! everyone until under 300 s of its life remain; the classic way returns a new token at every call and
//! ends the life of the previous one. `force_refresh` would invalidate the token of every other user of
//! the account, so it is never sent.

mod live_check;

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{UNLISTED, row};
use crate::clock::Clock;
use crate::config::{RotatingSecret, Secret, Section};
use crate::error::{Error, Exchange, outcome};
use crate::outbound::{Answer, Body, Client, Request, Uncounted};
use crate::pb::ErrorReason;
use crate::providers::wire::{self, Refusal, Scalar};
use crate::providers::{Token, TokenStore, new_id};
use crate::telemetry::metrics::{ByWord, Counter};

/// How long before its end a token is renewed: under 300 s, because only then does the stable way
/// return a new one.
const RENEW_BEFORE: Duration = Duration::from_mins(4);

/// The longest life that is accepted (*assumed*; the usual one is 2 hours).
const LONGEST_LIFE: Duration = Duration::from_hours(24);

/// How long no token is requested after the first failure; each further failure in a row doubles it.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// The longest such wait, and the wait after rejected credentials, which only an operator can fix.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// How long a renewal keeps other processes from renewing, in timeouts of the account: well above the
/// time that one call can take.
const LEASE_TIMEOUTS: u32 = 2;

/// How often a process that waits for another process's renewal checks for the token.
const LEASE_POLL: Duration = Duration::from_millis(50);

/// The `errcode` values of the token call about the account's own credentials and address.
const TOKEN_ERRORS: &[(&str, Refusal)] = &[
    ("40001", Refusal::rejected("check app_id and app_secret")),
    ("40013", Refusal::rejected("check app_id")),
    ("40125", Refusal::rejected("check app_secret")),
    ("40164", UNLISTED),
    ("40243", Refusal::rejected("the app_secret is frozen: unfreeze it at the vendor")),
];

/// The way a token is requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Stable,
    Classic,
}

/// The account's settings.
pub(super) struct Settings {
    pub(super) app_id: String,
    app_secret: RotatingSecret,
    way: Way,
}

impl Settings {
    pub(super) fn read(section: &mut Section) -> Option<Self> {
        let app_id = section.require("app_id");
        let app_secret = section.require_secret("app_secret", |_| Ok(()));
        let way = section.choice("token", &[("stable", Way::Stable), ("classic", Way::Classic)]);
        Some(Self { app_id: app_id?, app_secret: app_secret?, way: way.unwrap_or(Way::Stable) })
    }
}

/// The tokens of one account.
pub(super) struct Tokens {
    settings: Settings,
    vendor: wire::Vendor,
    /// Token requests, by outcome.
    refreshed: ByWord<Counter>,
    /// The token's key in the store: each way has its own token.
    key: String,
    clock: Arc<dyn Clock>,
    /// The token that was used last, so that an unavailable store does not make every call request a
    /// token.
    local: std::sync::Mutex<Option<Token>>,
    /// Held while a token is requested, so that one caller does it for all.
    last_failure: Mutex<Option<Failure>>,
}

struct Failure {
    error: Error,
    /// The secret of the failed request: the vendor may answer differently for another one.
    app_secret: Secret,
    /// Until when no token is requested.
    until: SystemTime,
    wait: Duration,
}

/// A token that the vendor refused, and the vendor's error.
type Refused<'a> = Option<(&'a Token, Error)>;

impl Tokens {
    pub(super) fn new(
        settings: Settings,
        vendor: wire::Vendor,
        refreshed: ByWord<Counter>,
        identity: &str,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        // Create the counter now, so that it starts at 0.
        let _ = refreshed.of("OK");
        Self {
            key: format!("{identity} {:?}", settings.way),
            settings,
            vendor,
            refreshed,
            clock: Arc::clone(clock),
            local: std::sync::Mutex::default(),
            last_failure: Mutex::default(),
        }
    }

    /// The secrets that must not be repeated.
    pub(super) fn secrets(&self) -> Vec<Secret> {
        vec![self.settings.app_secret.current()]
    }

    /// Returns the token to use now.
    pub(super) async fn current(
        &self,
        client: &Client,
        store: &dyn TokenStore,
    ) -> Result<Token, Error> {
        if let Some(token) = self.usable(store, None).await {
            return Ok(token);
        }
        let mut last_failure = self.last_failure.lock().await;
        self.renew(client, store, &mut last_failure, None).await
    }

    /// Returns the token to use after the vendor refused `used` with the error `refusal`.
    pub(super) async fn replace(
        &self,
        client: &Client,
        store: &dyn TokenStore,
        used: &Token,
        refusal: Error,
    ) -> Result<Token, Error> {
        let mut last_failure = self.last_failure.lock().await;
        self.forget(store, used).await;
        self.renew(client, store, &mut last_failure, Some((used, refusal))).await
    }

    /// Records that the vendor refused even the renewed token, so that the next calls do not repeat
    /// this at once. Returns the error.
    pub(super) async fn give_up(
        &self,
        store: &dyn TokenStore,
        used: &Token,
        error: Error,
    ) -> Error {
        let mut last_failure = self.last_failure.lock().await;
        self.forget(store, used).await;
        self.note(&mut last_failure, self.settings.app_secret.current(), error)
    }

    /// The key of the renewal's lease in the store.
    fn lease(&self) -> String {
        format!("{} lease", self.key)
    }

    /// Returns a token that is still valid and is not the refused one: the local one, or the store's.
    async fn usable(&self, store: &dyn TokenStore, refused: Option<&Token>) -> Option<Token> {
        let fits = |token: &Token| {
            self.clock.now() < token.renew_at
                && refused.is_none_or(|refused| refused.value != token.value)
        };
        if let Some(token) = self.local().clone().filter(fits) {
            return Some(token);
        }
        let kept = log_failure(store.load(&self.key).await).flatten().filter(fits)?;
        *self.local() = Some(kept.clone());
        Some(kept)
    }

    fn local(&self) -> MutexGuard<'_, Option<Token>> {
        self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the token, but only if it is still the one that was used.
    async fn forget(&self, store: &dyn TokenStore, used: &Token) {
        self.local().take_if(|token| token.value == used.value);
        log_failure(store.remove_if(&self.key, used).await);
    }

    async fn renew(
        &self,
        client: &Client,
        store: &dyn TokenStore,
        last_failure: &mut Option<Failure>,
        refused: Refused<'_>,
    ) -> Result<Token, Error> {
        let used = refused.as_ref().map(|(used, _)| *used);
        // Another caller may have renewed it meanwhile.
        if let Some(token) = self.usable(store, used).await {
            return Ok(token);
        }
        let app_secret = self.settings.app_secret.current();
        if let Some(failure) = last_failure.as_ref()
            && failure.app_secret == app_secret
            && let Ok(left) = failure.until.duration_since(self.clock.now())
            && !left.is_zero()
        {
            let error = failure.error.clone();
            let retry_after = error.retry_after.map(|_| left);
            // No request was made, so nothing new is known about the vendor.
            return Err(Error { retry_after, exchange: Exchange::NotSent, ..error });
        }
        let (lease, owner) = (self.lease(), new_id());
        let life = client.timeout() * LEASE_TIMEOUTS;
        let outcome = match self.await_lease(store, &lease, &owner, life, used).await {
            Ok(Some(token)) => Ok(token),
            Ok(None) => self.ask_anew(client, store, &app_secret, refused).await,
            Err(error) => Err(error),
        };
        log_failure(store.release(&lease, &owner).await);
        match outcome {
            Ok(token) => {
                *last_failure = None;
                Ok(token)
            }
            Err(error) => Err(self.note(last_failure, app_secret, error)),
        }
    }

    /// Waits until this process holds the renewal's lease (`None`), or another process has renewed the
    /// token.
    async fn await_lease(
        &self,
        store: &dyn TokenStore,
        lease: &str,
        owner: &str,
        life: Duration,
        refused: Option<&Token>,
    ) -> Result<Option<Token>, Error> {
        let give_up = Instant::now() + life + life / LEASE_TIMEOUTS;
        loop {
            // Without a store no other process shares the token.
            let ours = log_failure(store.lease(lease, owner, life).await).unwrap_or(true);
            if !ours {
                tokio::time::sleep(LEASE_POLL).await;
            }
            let token = self.usable(store, refused).await;
            if ours || token.is_some() {
                return Ok(token);
            }
            if Instant::now() >= give_up {
                let message = "another replica is renewing the vendor's token and does not finish";
                return Err(Error::unavailable(message));
            }
        }
    }

    async fn ask_anew(
        &self,
        client: &Client,
        store: &dyn TokenStore,
        app_secret: &Secret,
        refused: Refused<'_>,
    ) -> Result<Token, Error> {
        let asked = self.call(client, app_secret).await.and_then(|(_, token)| token);
        self.refreshed.of(outcome(&asked)).inc();
        let token = asked?;
        if let Some((used, refusal)) = refused
            && used.value == token.value
        {
            let said = refusal.detail.as_deref().unwrap_or_default();
            let detail = format!("{said}; the token call returned the refused token again");
            return Err(refusal.detail(detail));
        }
        log_failure(store.save(&self.key, &token).await);
        *self.local() = Some(token.clone());
        Ok(token)
    }

    fn note(&self, last_failure: &mut Option<Failure>, app_secret: Secret, error: Error) -> Error {
        let wait = match (error.reason, last_failure.as_ref()) {
            (ErrorReason::ProviderCredentialsRejected, _) => LONGEST_WAIT,
            (_, Some(before)) => (before.wait * 2).min(LONGEST_WAIT),
            (_, None) => FIRST_WAIT,
        };
        let until = self.clock.now() + wait.max(error.retry_after.unwrap_or_default());
        // No caller requests a token before that time.
        let exchange = match error.exchange {
            Exchange::Failed { .. } => {
                Exchange::Failed { retry_after: Some(error.retry_after.unwrap_or_default()) }
            }
            other => other,
        };
        let error = Error { exchange, ..error };
        *last_failure = Some(Failure { error: error.clone(), app_secret, until, wait });
        error
    }

    /// One token call: the answer, and its contents.
    async fn call(
        &self,
        client: &Client,
        app_secret: &Secret,
    ) -> Result<(Answer, Result<Token, Error>), Error> {
        let Settings { app_id, way, .. } = &self.settings;
        let answer = match way {
            Way::Stable => {
                let body = serde_json::json!({
                    "grant_type": "client_credential",
                    "appid": app_id,
                    "secret": app_secret.expose(),
                    "force_refresh": false,
                });
                let request = Request {
                    operation: "token",
                    path: &["cgi-bin", "stable_token"],
                    body: Body::Json(body.to_string()),
                    ..Request::default()
                };
                client.send(request, Uncounted).await?
            }
            Way::Classic => {
                let query = [
                    ("grant_type", "client_credential"),
                    ("appid", app_id),
                    ("secret", app_secret.expose()),
                ];
                let request = Request {
                    operation: "token",
                    path: &["cgi-bin", "token"],
                    query: &query,
                    ..Request::default()
                };
                client.send(request, Uncounted).await?
            }
        };
        let token = read(&self.vendor, &answer);
        Ok((answer, token))
    }
}

/// Logs the store's error, if there is one: the token at hand stays in use without the store.
fn log_failure<T>(outcome: Result<T, Error>) -> Option<T> {
    outcome
        .map_err(|error| tracing::debug!(detail = error.detail, "the store failed for a token"))
        .ok()
}

fn read(vendor: &wire::Vendor, answer: &Answer) -> Result<Token, Error> {
    let (envelope, code) = wire::envelope(vendor, answer, "errcode")?;
    if let Some(value) = code.nonzero() {
        let text = envelope.said(&["errmsg"]);
        return Err(wire::refused(row(TOKEN_ERRORS, value), answer, &code, &text));
    }
    answer.check_status()?;
    let value = envelope.must_whole("access_token")?;
    let value = Some(value.text()).filter(|text| !text.is_empty());
    let value = value.ok_or_else(|| Error::unreadable("it holds no access_token"))?;
    let seconds = envelope.must("expires_in", Scalar::integer)?.unwrap_or_default();
    let life = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0);
    let life = life.ok_or_else(|| Error::unreadable("its access_token has already expired"))?;
    let life = Duration::from_secs(life).min(LONGEST_LIFE);
    // A token whose life is as short as the early renewal must still be used for a while.
    let renew_at = answer.sent + life - RENEW_BEFORE.min(life / 2);
    Ok(Token { value: Secret::from(value), renew_at })
}
