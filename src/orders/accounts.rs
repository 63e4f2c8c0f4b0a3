//! The accounts of this deployment, and which of them a question is for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::caller::Caller;
use super::calls::Calls;
use super::standing::{Hindrance, Standing};
use crate::budget::{Budget, Share};
use crate::clock::Clock;
use crate::config::{Section, is_name};
use crate::error::Error;
use crate::metrics::{ACCOUNT_IN_FLIGHT, SHED};
use crate::pb::{self, ErrorReason, Order, OrderRef};
use crate::providers::{self, Means, Provider, Query, Rules};

/// What an account may set as `freshness`.
const FRESHNESS_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::ZERO..=Duration::from_hours(24);

/// The most that an account may set as a limit where its vendor has none.
const LIMIT_CEILING: u32 = 10_000;

/// How many calls an account may have under way at one time, and at most.
const MAX_CONCURRENCY: usize = 64;
const CONCURRENCY_CEILING: u32 = 1000;

/// What an account may set as `max_in_flight`.
const IN_FLIGHT_RANGE: std::ops::RangeInclusive<u32> = 1..=100_000;

/// What metrics call the limit of an account's calls.
const IN_FLIGHT_LIMIT: &str = "account_max_in_flight";

/// One configured account.
pub struct Account {
    /// What callers put in `account`.
    pub name: String,
    /// The vendor that it is an account of.
    pub provider: pb::Provider,
    /// Whether the vendor can be asked now, as far as is known.
    pub(super) standing: Standing,
    /// What its calls share.
    pub(super) calls: Calls,
    /// The vendor's rules, as this account keeps them.
    pub(super) rules: Rules,
    /// What the stores know the account by: the vendor's own identity, not the name.
    pub(super) key: String,
    /// How many callers may wait for an answer of this account at one time.
    in_flight: Arc<Budget>,
    is_default: bool,
    pub(super) vendor: Box<dyn Provider>,
}

impl Account {
    /// An account that asks with the vendor's module, by the vendor's own rules.
    #[must_use]
    pub fn new(
        name: &str,
        provider: pb::Provider,
        is_default: bool,
        vendor: Box<dyn Provider>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            provider,
            standing: Standing::default(),
            calls: Calls::new(MAX_CONCURRENCY),
            rules: vendor.rules(),
            key: key(&[&provider.word(), &vendor.identity()]),
            in_flight: Budget::new(usize::MAX),
            is_default,
            vendor,
        }
    }

    /// Reads `[accounts.NAME]`. `None` where something is wrong, which is noted.
    fn read(name: &str, mut section: Section, share: u32, clock: &Arc<dyn Clock>) -> Option<Self> {
        section.check_name(name);
        let words: Vec<_> = pb::Provider::all().map(|known| (known.word(), known)).collect();
        let words: Vec<_> = words.iter().map(|(word, known)| (word.as_str(), *known)).collect();
        if !section.has("provider") {
            section.problem("provider", "is missing; it must name the account's vendor");
        }
        let provider = section.choice("provider", &words)?;
        let is_default = section.take("default").unwrap_or(false);
        let vendor = providers::configure(provider, &mut section, clock);
        let freshness = section.duration("freshness", FRESHNESS_RANGE);
        // Where the vendor's settings are wrong, its limits are not known either.
        let rules = vendor.as_ref().map(|vendor| vendor.rules());
        let per_minute = rules.and_then(|rules| rules.calls_per_minute);
        let per_minute = limit(&mut section, "calls_per_minute", per_minute);
        let per_day = rules.and_then(|rules| rules.calls_per_order_per_day);
        let per_day = limit(&mut section, "calls_per_order_per_day", per_day);
        let concurrency = concurrency(&mut section);
        let in_flight = section.count("max_in_flight", IN_FLIGHT_RANGE).unwrap_or(share);
        section.finish();
        let mut account = Self::new(name, provider, is_default, vendor?);
        account.calls = Calls::new(concurrency);
        account.in_flight = Budget::new(usize::try_from(in_flight).unwrap_or(usize::MAX));
        account.rules.freshness = freshness.unwrap_or(account.rules.freshness);
        account.rules.calls_per_minute = per_minute;
        account.rules.calls_per_order_per_day = per_day;
        Some(account)
    }

    /// A place for a caller that waits for an answer of this account.
    ///
    /// # Errors
    /// `PROVIDER_UNAVAILABLE` where its share of the server's places is taken.
    pub(super) fn place(&self) -> Result<Share, Error> {
        self.in_flight.take(1).ok_or_else(|| {
            SHED.add([IN_FLIGHT_LIMIT], 1);
            Error::unavailable(
                "too many calls wait for this account's vendor, and other accounts need their \
                 places; ask again later",
            )
        })
    }

    /// Puts on the page how many callers wait.
    pub(super) fn measure_places(&self) {
        let used = u32::try_from(self.in_flight.used()).unwrap_or(u32::MAX);
        ACCOUNT_IN_FLIGHT.set([&self.name], used.into());
    }

    /// Whether calls have to be counted before they are sent.
    pub(super) fn is_limited(&self) -> bool {
        self.rules.calls_per_minute.is_some() || self.rules.calls_per_order_per_day.is_some()
    }

    /// What the stores know the order by.
    pub(super) fn order_key(&self, query: &Query) -> String {
        let vendor = self.vendor.identity();
        key(&[&self.provider.word(), &vendor, &query.id, &query.machine_no])
    }

    /// The question for the vendor, checked.
    pub(super) fn query(&self, order: &OrderRef) -> Result<Query, Error> {
        self.vendor.check_id(&order.id)?;
        let machine_no = self.vendor.machine_no(&order.machine_no)?;
        Ok(Query { id: order.id.clone(), machine_no })
    }

    /// Notes what a call's outcome says of the account: an answer of any kind but one tells that
    /// the credentials are good; trouble on the way tells nothing.
    pub(super) fn note(&self, error: Option<&Error>) {
        let taken = match error.map(|error| error.reason) {
            Some(ErrorReason::ProviderCredentialsRejected) => false,
            None
            | Some(
                ErrorReason::OrderNotFound
                | ErrorReason::OrderExpired
                | ErrorReason::InvalidRequest
                | ErrorReason::ProviderError,
            ) => true,
            Some(_) => return,
        };
        let changed = self.standing.note(Hindrance::Refused, !taken);
        // Perhaps no caller has waited for this answer, so nobody else may tell of it.
        match (changed, error) {
            (true, Some(error)) if !taken => tracing::warn!(
                account = self.name,
                provider_code = error.provider_code,
                detail = error.detail,
                "the vendor refuses the account's credentials"
            ),
            (true, _) => {
                tracing::info!(account = self.name, "the vendor takes the account's credentials");
            }
            (false, _) => {}
        }
    }

    /// Asks the vendor. The order's `account` is empty: what is kept of it is not the name's.
    pub(super) async fn ask(&self, query: &Query, means: Means<'_>) -> Result<Order, Error> {
        let mut secrets = self.vendor.secrets();
        let outcome = self.vendor.get_order(query, means).await;
        let outcome = outcome.map(|order| Order { provider: self.provider.into(), ..order });
        // They may have changed meanwhile, and either may have been sent.
        secrets.extend(self.vendor.secrets());
        outcome.map_err(|error| error.presentable(&secrets))
    }
}

/// All configured accounts.
pub struct Accounts(Vec<Arc<Account>>);

impl Accounts {
    /// These accounts.
    #[must_use]
    pub fn new(accounts: Vec<Account>) -> Self {
        Self(accounts.into_iter().map(Arc::new).collect())
    }

    /// Reads the tables of all accounts. What is wrong is noted in them. Of the server's
    /// `max_in_flight` places one of several accounts has half, unless it sets its own.
    #[must_use]
    pub fn read(
        tables: Vec<(String, Section)>,
        max_in_flight: u32,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        SHED.add([IN_FLIGHT_LIMIT], 0);
        let share = if tables.len() > 1 { max_in_flight.div_ceil(2) } else { u32::MAX };
        let mut accounts: Vec<Account> = Vec::new();
        let mut identities = HashMap::new();
        let mut defaults = HashMap::new();
        for (name, table) in tables {
            // A copy, so that what concerns several accounts can be noted at the later one.
            let place = table.place();
            if accounts.iter().any(|account| account.name == name) {
                place.problem("", "is configured twice");
            }
            let Some(account) = Account::read(&name, table, share, clock) else { continue };
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
                let text = format!("is set for accounts.{other} too, of the same provider");
                place.problem("default", text);
            }
            accounts.push(account);
        }
        Self::new(accounts)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many calls to vendors may be under way at one time.
    #[must_use]
    pub fn max_concurrency(&self) -> u64 {
        self.0.iter().map(|account| account.calls.most() as u64).sum()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.0.iter()
    }

    /// The account that the caller's question is for.
    ///
    /// # Errors
    /// `INVALID_REQUEST` where the provider is none, or the account is malformed or needed and
    /// missing; `CALLER_FORBIDDEN` where the caller may not use it, whether there is one or not;
    /// `PROVIDER_NOT_CONFIGURED` where there is no such account.
    pub fn choose(&self, caller: &Caller, order: &OrderRef) -> Result<Arc<Account>, Error> {
        let provider = pb::Provider::try_from(order.provider)
            .ok()
            .filter(|provider| *provider != pb::Provider::Unspecified)
            .ok_or_else(|| Error::invalid("provider", "the provider is none of the contract's"))?;
        let here = |error: Error| Error { provider: Some(provider), ..error };
        if !order.account.is_empty() && !is_name(&order.account) {
            return Err(here(Error::invalid("account", "the account is not an account's name")));
        }
        let candidates: Vec<_> =
            self.0.iter().filter(|account| account.provider == provider).collect();
        let mut fitting = candidates.iter().filter(|account| match order.account.as_str() {
            "" => account.is_default || candidates.len() == 1,
            name => account.name == name,
        });
        let fitting = fitting.next();
        let own = candidates.iter().map(|account| account.name.as_str());
        let own: Vec<&str> = own.filter(|name| caller.may_use(name)).collect();
        let name = fitting.map_or(order.account.as_str(), |account| account.name.as_str());
        let may = if name.is_empty() { !own.is_empty() } else { caller.may_use(name) };
        if !may && caller.accounts.is_some() {
            // The same whether there is such an account or not: nobody can find out by asking.
            let text = "this caller may not use that account; name one that it may use, or have \
                        the operator allow this one";
            return Err(here(Error::new(ErrorReason::CallerForbidden, text)));
        }
        match (fitting, candidates.as_slice(), order.account.as_str()) {
            (Some(account), ..) => Ok(Arc::clone(account)),
            (None, [], _) => Err(here(Error::new(
                ErrorReason::ProviderNotConfigured,
                format!("this deployment has no account at {}", provider.word()),
            ))),
            (None, _, "") => Err(here(Error::invalid(
                "account",
                format!(
                    "several accounts fit and none is the default: name one of {}",
                    own.join(", ")
                ),
            ))),
            (None, _, name) => Err(here(Error::new(
                ErrorReason::ProviderNotConfigured,
                format!("this deployment has no account {name:?} at {}", provider.word()),
            ))),
        }
    }
}

/// One text of several, that no others make.
fn key(parts: &[&str]) -> String {
    serde_json::Value::from(parts).to_string()
}

/// A limit of calls, which may be lower than the vendor's but not higher.
fn limit(section: &mut Section, key: &str, vendors: Option<u32>) -> Option<u32> {
    let most = vendors.unwrap_or(LIMIT_CEILING);
    section.count(key, 1..=most).or(vendors)
}

/// How many calls may be under way at one time.
fn concurrency(section: &mut Section) -> usize {
    let given = section.count("max_concurrency", 1..=CONCURRENCY_CEILING);
    given.and_then(|given| usize::try_from(given).ok()).unwrap_or(MAX_CONCURRENCY)
}
