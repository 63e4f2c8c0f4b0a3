//! The accounts of this deployment, and the choice of the account for a question. Used by `orders` and
//! `app`.

use std::collections::HashMap;
use std::sync::Arc;

use super::account::Account;
use super::caller::Caller;
use crate::clock::Clock;
use crate::config::{Section, is_name};
use crate::error::Error;
use crate::pb::{self, ErrorReason, OrderRef};
use crate::telemetry::metrics::Metrics;

/// All configured accounts.
pub struct Accounts {
    all: Vec<Arc<Account>>,
    by_name: HashMap<Arc<str>, Arc<Account>>,
    by_provider: HashMap<pb::Provider, OfProvider>,
}

/// The accounts of one provider.
#[derive(Default)]
struct OfProvider {
    accounts: Vec<Arc<Account>>,
    /// The account of a question that names none.
    default: Option<Arc<Account>>,
}

impl Accounts {
    /// Creates a registry of these accounts.
    #[must_use]
    pub fn new(accounts: Vec<Account>) -> Self {
        let all: Vec<_> = accounts.into_iter().map(Arc::new).collect();
        let mut by_provider: HashMap<_, OfProvider> = HashMap::new();
        for account in &all {
            let same = by_provider.entry(account.provider).or_default();
            same.accounts.push(Arc::clone(account));
        }
        for OfProvider { accounts, default } in by_provider.values_mut() {
            let only = accounts.first().filter(|_| accounts.len() == 1);
            *default = accounts.iter().find(|account| account.is_default).or(only).cloned();
        }
        let by_name = all.iter().map(|account| (Arc::clone(&account.name), Arc::clone(account)));
        Self { by_name: by_name.collect(), by_provider, all }
    }

    /// Reads the tables of all accounts, and records problems in them. If there are several accounts,
    /// each gets half of the server's `max_in_flight` permits, unless it sets its own number.
    #[must_use]
    pub fn read(
        tables: Vec<(String, Section)>,
        max_in_flight: u32,
        clock: &Arc<dyn Clock>,
        metrics: &Metrics,
    ) -> Self {
        let share = if tables.len() > 1 { max_in_flight.div_ceil(2) } else { u32::MAX };
        let mut accounts: Vec<Account> = Vec::new();
        let mut identities = HashMap::new();
        let mut defaults = HashMap::new();
        for (name, table) in tables {
            // A copy, so that problems of several accounts can be recorded at the later one.
            let place = table.place();
            if accounts.iter().any(|account| *account.name == *name) {
                place.problem("", "is configured twice");
            }
            let Some(account) = Account::read(&name, table, share, clock, metrics) else {
                continue;
            };
            let identity = (account.provider, account.vendor.identity());
            if let Some(other) = identities.insert(identity, name.clone()) {
                let text = format!(
                    "is the same account at the vendor as accounts.{other}, so both would share \
                     its limits; keep one"
                );
                place.problem("", text);
            }
            if account.is_default
                && let Some(other) = defaults.insert(account.provider, name.clone())
            {
                let text = format!("is also set for accounts.{other} of the same provider");
                place.problem("default", text);
            }
            accounts.push(account);
        }
        Self::new(accounts)
    }

    /// The number of accounts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are no accounts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// How many calls to vendors may be under way at one time, over all accounts.
    #[must_use]
    pub fn max_concurrency(&self) -> u64 {
        self.all.iter().map(|account| account.max_concurrency() as u64).sum()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.all.iter()
    }

    /// Chooses the account for the caller's question.
    ///
    /// # Errors
    /// `INVALID_REQUEST` if the provider is unknown, or the account is malformed or is required and
    /// missing; `CALLER_FORBIDDEN` if the caller may not use the account, whether it exists or not;
    /// `PROVIDER_NOT_CONFIGURED` if the account does not exist.
    pub fn choose(&self, caller: &Caller, order: &OrderRef) -> Result<Arc<Account>, Error> {
        let provider = pb::Provider::known(order.provider).ok_or_else(|| {
            Error::invalid("provider", "the contract does not define the provider")
        })?;
        let here = |error: Error| Error { provider: Some(provider), ..error };
        if !order.account.is_empty() && !is_name(&order.account) {
            return Err(here(Error::invalid("account", "the account is not a valid account name")));
        }
        let of_provider = self.by_provider.get(&provider);
        let fitting = match order.account.as_str() {
            "" => of_provider.and_then(|of_provider| of_provider.default.as_ref()),
            name => self.by_name.get(name).filter(|account| account.provider == provider),
        };
        let accounts = of_provider.map_or(&[] as &[_], |of_provider| &of_provider.accounts);
        let name = fitting.map_or(order.account.as_str(), |account| &*account.name);
        let may = if name.is_empty() {
            accounts.iter().any(|account| caller.may_use(&account.name))
        } else {
            caller.may_use(name)
        };
        if !may && caller.accounts.is_some() {
            // The error is the same whether the account exists or not, so callers cannot probe for
            // accounts.
            let text = "this caller may not use that account; name an account that it may use, or \
                        ask the operator to allow this one";
            return Err(here(Error::new(ErrorReason::CallerForbidden, text)));
        }
        match (fitting, accounts, order.account.as_str()) {
            (Some(account), ..) => Ok(Arc::clone(account)),
            (None, [], _) => Err(here(Error::new(
                ErrorReason::ProviderNotConfigured,
                format!("this deployment has no account at {}", provider.word()),
            ))),
            (None, _, "") => {
                let names = accounts.iter().map(|account| &*account.name);
                let own: Vec<&str> = names.filter(|name| caller.may_use(name)).collect();
                let own = own.join(", ");
                let text =
                    format!("several accounts match and none is the default; name one of {own}");
                Err(here(Error::invalid("account", text)))
            }
            (None, _, name) => Err(here(Error::new(
                ErrorReason::ProviderNotConfigured,
                format!("this deployment has no account {name:?} at {}", provider.word()),
            ))),
        }
    }
}
