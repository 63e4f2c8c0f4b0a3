//! The vendors: what each must do ([`Provider`]), what each is handed ([`Parts`]), and the one
//! match from the contract's enum to a vendor's module. Used by `orders`; a vendor's module
//! knows no other vendor.

mod dingshang;
mod haoka;
mod wechat;
mod wire;

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;

use crate::clock::Clock;
use crate::config::{Secret, Section};
use crate::error::Error;
use crate::pb::{self, Order};

/// One account at a vendor, ready to be asked.
#[async_trait]
pub trait Provider: Send + Sync {
    /// What the vendor knows the account by: its `base_url`, and its `app_id` or `user_id`. Two
    /// accounts with one identity share one set of limits, whatever their names are.
    fn identity(&self) -> String;

    /// What is never to be repeated, should the vendor's own texts hold it.
    fn secrets(&self) -> Vec<&Secret>;

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
    /// once more). The order's `account` is left for the caller to fill in.
    ///
    /// # Errors
    /// Everything that the vendor's table of errors names; what its answers and its transport
    /// can do wrong.
    async fn get_order(&self, query: &Query) -> Result<Order, Error>;
}

/// Which order a vendor is asked for. Both fields have passed the vendor's checks.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Query {
    /// The vendor's name for the order.
    pub id: String,
    /// The machine that sold it; empty where the vendor has no machines.
    pub machine_no: String,
}

/// What every vendor's module is handed.
#[derive(Clone)]
pub struct Parts {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where access tokens are remembered.
    pub tokens: Arc<dyn TokenStore>,
}

/// A vendor's access token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What goes on the wire.
    pub value: Secret,
    /// From when on another one should be asked for.
    pub renew_at: SystemTime,
}

/// Remembers access tokens by what the vendor knows the account by.
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
    async fn drop_if(&self, identity: &str, token: &Token) -> Result<(), Error>;
}

/// Reads the settings of an account at that vendor. `None` where something is wrong, which is
/// noted in the section.
pub fn configure(
    provider: pb::Provider,
    section: &mut Section,
    parts: &Parts,
) -> Option<Box<dyn Provider>> {
    match provider {
        pb::Provider::Wechat => wechat::configure(section, parts),
        pb::Provider::Dingshang => dingshang::configure(section, parts),
        pb::Provider::Haoka => haoka::configure(section, parts),
        pb::Provider::Unspecified => None,
    }
}
