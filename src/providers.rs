//! The vendors: what each must do ([`Provider`]), what each is handed ([`Resources`]), and the one
//! match from the contract's enum to a vendor's module. Used by `orders`; a vendor's module
//! knows no other vendor.

mod dingshang;
mod haoka;
mod wechat;
mod wire;

/// The invented vendor of `docs/adding-a-vendor.md`, built where a vendor's module stands.
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

use crate::clock::Clock;
use crate::config::{Secret, Section};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::outbound::{Answer, Delivery, Permit};
use crate::pb::{self, Order};

/// One account at a vendor, ready to be asked.
#[async_trait]
pub trait Provider: Send + Sync {
    /// What the vendor knows the account by: its `base_url`, and its `app_id` or `user_id`. Two
    /// accounts with one identity share one set of limits, whatever their names are.
    fn identity(&self) -> String;

    /// What is never to be repeated, should the vendor's own texts hold it: the secrets that are in
    /// use now.
    fn secrets(&self) -> Vec<Secret>;

    /// Checks an id against the vendor's alphabet: nothing else may reach a URL, a form or a
    /// signature.
    ///
    /// # Errors
    /// `INVALID_REQUEST` with the field `id`.
    fn check_id(&self, id: &str) -> Result<(), Error>;

    /// The machine to ask for: the one that was given, or else the account's. Vendors without
    /// machines refuse one.
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

    /// Asks the vendor for an order, once (a refused token is renewed, and the order asked for
    /// once more); each call goes through the gate. The order's `provider` and `account` are left for
    /// the caller to fill in.
    ///
    /// # Errors
    /// Everything that the vendor's table of errors names; what its answers and its transport
    /// can do wrong.
    async fn get_order(&self, query: &Query, resources: Resources<'_>) -> Result<Order, Error>;

    /// What the vendor allows, and how this account asks.
    fn rules(&self) -> Rules;

    /// Asks the vendor, once, for what shows that orders could be asked for, and for no order. Spends
    /// no call of the limits, which are of calls for orders. `shared` is where access tokens are
    /// remembered; `None` where nobody else can have one.
    ///
    /// # Errors
    /// What its transport and the store can do wrong: then the vendor has answered nothing.
    async fn prove(&self, shared: Option<&dyn TokenStore>) -> Result<Proof, Error>;

    /// Whether [`prove`](Self::prove) ends the life of the token that a running server may use, so
    /// that it must be handed what that server shares.
    fn proof_ends_a_token(&self) -> bool {
        false
    }
}

/// What a vendor has answered to [`Provider::prove`].
#[derive(Debug)]
pub struct Proof {
    /// What of the account's credentials it has taken, in a few words; or why it would answer no
    /// question about an order.
    pub taken: Result<&'static str, Error>,
    /// How many seconds its clock is ahead of ours, where it told; up to one off.
    pub clock_difference: Option<i64>,
    /// From how many seconds of difference on it turns every call down, where it says so.
    pub clock_limit: Option<u64>,
    /// The certificate that it has shown and that was found good, in DER; `None` over plain HTTP.
    pub certificate: Option<Vec<u8>>,
}

impl Proof {
    /// What an answer shows.
    fn of(answer: &Answer, taken: Result<&'static str, Error>) -> Self {
        let Answer { clock_difference, .. } = *answer;
        let certificate = answer.certificate().map(<[u8]>::to_vec);
        Self { taken, clock_difference, clock_limit: None, certificate }
    }
}

/// From how many seconds on a difference between a vendor's clock and ours is worth a warning.
pub const CLOCK_TOLERANCE: u64 = 60;

/// What a vendor allows, and how an account asks within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How old an answer may be by default.
    pub freshness: Duration,
    /// How many calls the vendor allows in any minute; `None` where it names no limit.
    pub calls_per_minute: Option<u32>,
    /// How many calls the vendor allows for one order in any 24 hours.
    pub calls_per_order_per_day: Option<u32>,
    /// How long a call may take from the gate to its answer, all that it waits for included.
    pub longest_call: Duration,
}

impl Rules {
    /// Whether calls are limited, so that each has to be counted before it is sent.
    #[must_use]
    pub fn are_counted(&self) -> bool {
        self.calls_per_minute.is_some() || self.calls_per_order_per_day.is_some()
    }
}

/// Admits calls for orders to a vendor, and counts them.
#[async_trait]
pub trait Gate: Send + Sync {
    /// Counts a call that is about to be sent. Gives the id of that call.
    ///
    /// # Errors
    /// `PROVIDER_QUOTA_EXHAUSTED` where the vendor may not be asked now; `STORE_UNAVAILABLE`
    /// where a call could not be counted.
    async fn enter(&self) -> Result<String, Error>;

    /// Notes how far the call of that id got.
    async fn leave(&self, call: String, delivery: Delivery);
}

/// Makes a call that the gate counts. `call` begins to work once it is admitted: what it stamps
/// and signs is of the time of sending. Its permit is for one request.
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

/// Which order a vendor is asked for. Both fields have passed the vendor's checks.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Query {
    /// The vendor's name for the order.
    pub id: String,
    /// The machine that sold it; empty where the vendor has no machines.
    pub machine_no: String,
}

/// What an order is asked for with.
#[derive(Clone, Copy)]
pub struct Resources<'a> {
    /// What every call for the order goes through.
    pub gate: &'a dyn Gate,
    /// Where access tokens are remembered.
    pub tokens: &'a dyn TokenStore,
}

/// A vendor's access token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What goes on the wire.
    pub value: Secret,
    /// From when on another one should be asked for.
    pub renew_at: SystemTime,
}

/// Remembers access tokens, and who renews one: by what the vendor knows the account by.
#[async_trait]
pub trait TokenStore: Send + Sync {
    /// The token that was saved last, and not dropped since.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`
    async fn load(&self, identity: &str) -> Result<Option<Token>, Error>;

    /// Remembers the token in place of any other.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`
    async fn save(&self, identity: &str, token: &Token) -> Result<(), Error>;

    /// Forgets the token, but only if it is still this one: another caller may have renewed it.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`
    async fn remove_if(&self, identity: &str, token: &Token) -> Result<(), Error>;

    /// Makes `owner` the one who does `what` for all processes, for `life` at most. False while
    /// another owner is; true again for the same owner.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`
    async fn lease(&self, what: &str, owner: &str, life: Duration) -> Result<bool, Error>;

    /// Ends a lease, but only if it is still this owner's.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`
    async fn release(&self, what: &str, owner: &str) -> Result<(), Error>;
}

/// An id that no other call or owner has, in this process or another.
#[must_use]
pub fn new_id() -> String {
    /// Tells this process from others.
    static PROCESS: LazyLock<u64> = LazyLock::new(rand::random);
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{:016x}-{:x}", *PROCESS, COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Reads the settings of an account at that vendor. `None` where something is wrong, which is
/// noted in the section.
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
