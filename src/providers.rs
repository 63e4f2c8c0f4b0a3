//! The vendors: what each must implement ([`Provider`]), what each gets ([`Resources`]), and the one
//! match from the contract's enum to a vendor's module. Used by `orders`; a vendor's module knows no
//! other vendor.

mod dingshang;
mod haoka;
mod wechat;
mod wire;

/// The fictional vendor of `docs/adding-a-vendor.md`, built at the place of a vendor's module.
#[cfg(test)]
#[path = "../tests/acme/provider.rs"]
mod acme;

#[cfg(test)]
#[path = "../tests/acme/tests.rs"]
mod acme_tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::chance;
use crate::clock::Clock;
use crate::config::{Secret, Section};
use crate::error::Error;
use crate::outbound::{Answer, Delivery, Permit};
use crate::pb::{self, Order};
use crate::telemetry::metrics::Metrics;

/// One account at a vendor, ready for questions.
#[async_trait]
pub trait Provider: Send + Sync {
    /// The vendor's identity of the account: its `base_url`, and its `app_id` or `user_id`. Two
    /// accounts with the same identity share one set of limits, whatever their names are.
    fn identity(&self) -> String;

    /// The secrets in use now, which must be removed from the vendor's own texts.
    fn secrets(&self) -> Vec<Secret>;

    /// Checks an id against the vendor's alphabet: no other id may reach a URL, a form or a signature.
    ///
    /// # Errors
    /// `INVALID_REQUEST` with the field `id`.
    fn check_id(&self, id: &str) -> Result<(), Error>;

    /// Returns the machine to ask for: the given one, or else the account's. Vendors without machines
    /// reject a given one.
    ///
    /// # Errors
    /// `INVALID_REQUEST` with the field `machine_no`.
    fn machine_no(&self, given: &str) -> Result<String, Error> {
        if given.is_empty() {
            Ok(String::new())
        } else {
            Err(Error::invalid("machine_no", "this vendor has no machines; leave machine_no empty"))
        }
    }

    /// Asks the vendor for an order, once. If the vendor refuses the token, the token is renewed and
    /// the order is asked for once more. Each call passes the gate. The caller fills in the order's
    /// `provider` and `account`.
    ///
    /// # Errors
    /// Every error in the vendor's table, and the errors of its answers and its transport.
    async fn get_order(&self, query: &Query, resources: Resources<'_>) -> Result<Order, Error>;

    /// The vendor's limits, and this account's settings within them.
    fn rules(&self) -> Rules;

    /// Makes one request that shows that orders could be asked for, without asking for an order. It
    /// uses none of the limits, which cover calls for orders only. `shared` is where access tokens are
    /// stored; `None` if no other process can have one.
    ///
    /// # Errors
    /// Errors of the transport and the store: the vendor has then answered nothing.
    async fn live_check(&self, shared: Option<&dyn TokenStore>) -> Result<LiveCheck, Error>;

    /// Whether [`live_check`](Self::live_check) ends the life of a token that a running server may use. If so,
    /// `live_check` needs the store that the server shares.
    fn live_check_ends_a_token(&self) -> bool {
        false
    }
}

/// A vendor's answer to [`Provider::live_check`].
#[derive(Debug)]
pub struct LiveCheck {
    /// Which of the account's credentials the vendor accepted, in a few words; or why it would answer
    /// no question about an order.
    pub credentials: Result<&'static str, Error>,
    /// How many seconds the vendor's clock is ahead of ours, if it sent its time; accurate to one
    /// second.
    pub clock_difference: Option<i64>,
    /// The clock difference in seconds from which the vendor rejects every call, if it states one.
    pub clock_limit: Option<u64>,
    /// The certificate that the vendor presented and that was verified, in DER; `None` over plain HTTP.
    pub certificate: Option<Vec<u8>>,
}

impl LiveCheck {
    /// Builds the proof from an answer.
    fn of(answer: &Answer, credentials: Result<&'static str, Error>) -> Self {
        let Answer { clock_difference, .. } = *answer;
        let certificate = answer.certificate().map(<[u8]>::to_vec);
        Self { credentials, clock_difference, clock_limit: None, certificate }
    }
}

/// The difference between a vendor's clock and ours, in seconds, from which a warning is given.
pub const CLOCK_TOLERANCE: u64 = 60;

/// A vendor's limits, and an account's settings within them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The default maximum age of an answer.
    pub freshness: Duration,
    /// How many calls the vendor allows in any minute; `None` if it states no limit.
    pub calls_per_minute: Option<u32>,
    /// How many calls the vendor allows for one order in any 24 hours.
    pub calls_per_order_per_day: Option<u32>,
    /// The longest time from the gate to the answer, including all waiting in between.
    pub longest_call: Duration,
}

impl Rules {
    /// Whether calls are limited, so that each must be counted before it is sent.
    #[must_use]
    pub fn are_counted(&self) -> bool {
        self.calls_per_minute.is_some() || self.calls_per_order_per_day.is_some()
    }
}

/// Admits calls for orders to a vendor, and counts them.
#[async_trait]
pub trait Gate: Send + Sync {
    /// Counts a call that is about to be sent, and returns its id.
    ///
    /// # Errors
    /// `PROVIDER_QUOTA_EXHAUSTED` if the vendor may not be asked now; `STORE_UNAVAILABLE` if the call
    /// could not be counted.
    async fn enter(&self) -> Result<String, Error>;

    /// Records how far the call with that id got.
    async fn leave(&self, call: String, delivery: Delivery);
}

/// Makes a call that the gate counts. `call` runs only once it is admitted, so its timestamp and
/// signature are from the time of sending. Its permit is for one request.
async fn counted<T, F>(gate: &dyn Gate, call: impl FnOnce(Permit) -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let id = gate.enter().await?;
    let (permit, receipt) = Permit::new();
    let outcome = call(permit).await;
    gate.leave(id, receipt.delivery()).await;
    outcome
}

/// The order to ask a vendor for. Both fields have passed the vendor's checks.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Query {
    /// The vendor's id of the order.
    pub id: String,
    /// The machine that sold it; empty where the vendor has no machines.
    pub machine_no: String,
}

/// What a vendor's module needs to ask for an order.
#[derive(Clone, Copy)]
pub struct Resources<'a> {
    /// The gate that every call for the order passes.
    pub gate: &'a dyn Gate,
    /// The store of access tokens.
    pub tokens: &'a dyn TokenStore,
}

/// A vendor's access token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The value that is sent.
    pub value: Secret,
    /// When to start asking for a new token.
    pub renew_at: SystemTime,
}

/// Stores access tokens, and leases to renew them, by the vendor's identity of the account.
#[async_trait]
pub trait TokenStore: Send + Sync {
    /// Returns the token that was saved last and not removed since.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`
    async fn load(&self, identity: &str) -> Result<Option<Token>, Error>;

    /// Stores the token, replacing any other.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`
    async fn save(&self, identity: &str, token: &Token) -> Result<(), Error>;

    /// Removes the token, but only if it is still this one: another caller may have renewed it.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`
    async fn remove_if(&self, identity: &str, token: &Token) -> Result<(), Error>;

    /// Gives `owner` the lease on `what` across all processes, for at most `life`. Returns false while
    /// another owner holds it, and true again for the same owner.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`
    async fn lease(&self, what: &str, owner: &str, life: Duration) -> Result<bool, Error>;

    /// Ends a lease, but only if this owner still holds it.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`
    async fn release(&self, what: &str, owner: &str) -> Result<(), Error>;
}

/// Creates an id that is unique among all calls and owners, across processes.
#[must_use]
pub fn new_id() -> String {
    /// Distinguishes this process from others.
    static PROCESS: LazyLock<u64> = LazyLock::new(rand::random);
    static COUNT: AtomicU64 = AtomicU64::new(0);
    if let Some(number) = chance::seeded() {
        return format!("{number:016x}-0");
    }
    format!("{:016x}-{:x}", *PROCESS, COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Reads the settings of an account at that vendor. `None` if there is a problem, which is recorded in
/// the section.
pub fn configure(
    provider: pb::Provider,
    section: &mut Section,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
) -> Option<Box<dyn Provider>> {
    match provider {
        pb::Provider::Wechat => wechat::configure(section, clock, metrics),
        pb::Provider::Dingshang => dingshang::configure(section, clock, metrics),
        pb::Provider::Haoka => haoka::configure(section, clock, metrics),
        pb::Provider::Unspecified => None,
    }
}
