//! One account: its vendor's module, its rules, and the limits that its callers share. Used by the
//! registry, and by `orders` for every question.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;

use super::availability::{Availability, Impairment};
use super::limiter::{ConcurrencyPermit, Limiter};
use super::meters::Meters;
use crate::budget::{Budget, Share};
use crate::clock::Clock;
use crate::config::Section;
use crate::error::Error;
use crate::pb::{self, Order, OrderRef};
use crate::providers::{self, Provider, Query, Resources, Rules};
use crate::store::{AccountKey, OrderKey};
use crate::telemetry::metrics::Metrics;

/// The allowed range of `freshness`.
const FRESHNESS_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::ZERO..=Duration::from_hours(24);

/// The highest limit that an account may set if its vendor has none.
const LIMIT_CEILING: u32 = 10_000;

/// How many calls an account may have under way at one time: the default and the maximum.
const MAX_CONCURRENCY: usize = 64;
const CONCURRENCY_CEILING: u32 = 1000;

/// The allowed range of `max_in_flight`.
const IN_FLIGHT_RANGE: std::ops::RangeInclusive<u32> = 1..=100_000;

/// The settings of an account.
#[derive(Clone, Copy)]
struct Settings {
    rules: Rules,
    /// How many calls may be under way at one time.
    max_concurrency: usize,
    /// How many callers may wait at one time.
    max_in_flight: usize,
    is_default: bool,
}

/// One configured account.
pub struct Account {
    /// The name that callers put in `account`.
    pub name: Arc<str>,
    /// The field `account` of the orders that callers get, encoded.
    pub(crate) encoded_name: Vec<u8>,
    /// The account's vendor.
    pub provider: pb::Provider,
    /// The metrics of this account.
    pub(crate) meters: Meters,
    /// Whether the vendor can be asked now, as far as is known.
    pub(crate) availability: Arc<Availability>,
    /// The vendor's rules, as this account applies them.
    pub(crate) rules: Rules,
    /// The account's key in the stores: the vendor's own identity, not the configured name.
    pub(crate) key: AccountKey,
    pub(super) is_default: bool,
    pub(super) vendor: Box<dyn Provider>,
    limiter: Limiter,
    /// How many callers may wait for an answer of this account at one time.
    in_flight: Arc<Budget>,
}

impl Account {
    /// Creates an account with the vendor's module and the vendor's own rules; its metrics are not
    /// exported.
    #[must_use]
    pub fn new(
        name: &str,
        provider: pb::Provider,
        is_default: bool,
        vendor: Box<dyn Provider>,
    ) -> Self {
        let settings = Settings {
            rules: vendor.rules(),
            max_concurrency: MAX_CONCURRENCY,
            max_in_flight: usize::MAX,
            is_default,
        };
        Self::with(name, provider, vendor, settings, &Metrics::default())
    }

    fn with(
        name: &str,
        provider: pb::Provider,
        vendor: Box<dyn Provider>,
        settings: Settings,
        metrics: &Metrics,
    ) -> Self {
        let Settings { rules, max_concurrency, max_in_flight, is_default } = settings;
        let availability = Arc::new(Availability::default());
        Self {
            encoded_name: Order { account: name.to_owned(), ..Order::default() }.encode_to_vec(),
            name: name.into(),
            provider,
            limiter: Limiter::new(name, max_concurrency, &rules, Arc::clone(&availability)),
            availability,
            key: key(&[&provider.word(), &vendor.identity()]).into(),
            rules,
            in_flight: Budget::new(max_in_flight),
            meters: Meters::new(name, metrics),
            is_default,
            vendor,
        }
    }

    /// Reads `[accounts.NAME]`. `None` if there is a problem, which is recorded in the section.
    pub(super) fn read(
        name: &str,
        mut section: Section,
        share: u32,
        clock: &Arc<dyn Clock>,
        metrics: &Metrics,
    ) -> Option<Self> {
        section.check_name(name);
        let words: Vec<_> = pb::Provider::all().map(|known| (known.word(), known)).collect();
        let words: Vec<_> = words.iter().map(|(word, known)| (word.as_str(), *known)).collect();
        if !section.has("provider") {
            section.problem("provider", "is missing; it must name the account's vendor");
        }
        let provider = section.choice("provider", &words)?;
        let is_default = section.take("default").unwrap_or(false);
        let vendor = providers::configure(provider, &mut section, clock, metrics);
        let freshness = section.duration("freshness", FRESHNESS_RANGE);
        // If the vendor's settings are wrong, its limits are unknown too.
        let rules = vendor.as_ref().map(|vendor| vendor.rules());
        let per_minute = rules.and_then(|rules| rules.calls_per_minute);
        let per_minute = limit(&mut section, "calls_per_minute", per_minute);
        let per_day = rules.and_then(|rules| rules.calls_per_order_per_day);
        let per_day = limit(&mut section, "calls_per_order_per_day", per_day);
        let max_concurrency = max_concurrency(&mut section);
        let max_in_flight = section.count("max_in_flight", IN_FLIGHT_RANGE).unwrap_or(share);
        section.finish();
        let (vendor, documented) = (vendor?, rules?);
        let rules = Rules {
            freshness: freshness.unwrap_or(documented.freshness),
            calls_per_minute: per_minute,
            calls_per_order_per_day: per_day,
            ..documented
        };
        let max_in_flight = usize::try_from(max_in_flight).unwrap_or(usize::MAX);
        let settings = Settings { rules, max_concurrency, max_in_flight, is_default };
        Some(Self::with(name, provider, vendor, settings, metrics))
    }

    /// Reserves a permit for a caller that waits for an answer of this account.
    ///
    /// # Errors
    /// `PROVIDER_UNAVAILABLE` if the account's share of the server's permits is used up.
    pub(crate) fn caller_permit(&self) -> Result<Share, Error> {
        self.in_flight.take(1).ok_or_else(|| {
            self.meters.shed.inc();
            Error::unavailable(
                "too many calls are waiting for this account's vendor, and other accounts need the \
                 remaining permits; retry later",
            )
        })
    }

    /// Updates the gauge of waiting callers.
    pub(crate) fn measure_places(&self) {
        let used = u32::try_from(self.in_flight.used()).unwrap_or(u32::MAX);
        self.meters.in_flight.set(used.into());
    }

    /// How many calls may be under way at one time.
    pub(crate) fn max_concurrency(&self) -> usize {
        self.limiter.max_concurrency()
    }

    /// How many calls are under way now, and how many wait for a permit.
    pub(crate) fn concurrency(&self) -> (f64, f64) {
        self.limiter.count()
    }

    /// Waits for a permit to ask the vendor: see [`Limiter::acquire`].
    pub(crate) async fn acquire(&self, clock: &dyn Clock) -> Result<ConcurrencyPermit<'_>, Error> {
        self.limiter.acquire(clock).await
    }

    /// Whether calls must be counted before they are sent.
    pub(crate) fn is_limited(&self) -> bool {
        self.rules.are_counted()
    }

    /// Builds the order's key in the stores.
    pub(crate) fn order_key(&self, query: &Query) -> OrderKey {
        key_within(self.key.as_str(), &[&query.id, &query.machine_no]).into()
    }

    /// Checks the request and builds the vendor's query.
    pub(crate) fn query(&self, order: &OrderRef) -> Result<Query, Error> {
        self.vendor.check_id(&order.id)?;
        let machine_no = self.vendor.machine_no(&order.machine_no)?;
        Ok(Query { id: order.id.clone(), machine_no })
    }

    /// Records what a call's outcome says about the account's credentials; most errors say nothing.
    pub(crate) fn note(&self, error: Option<&Error>) {
        let accepted = error.map_or(Some(true), |error| error.verdict().accepts_credentials());
        let Some(accepted) = accepted else { return };
        if !self.availability.set(Impairment::CredentialsRejected, !accepted) {
            return;
        }
        // Possibly no caller waited for this answer, so nothing else may log it.
        match error {
            Some(error) if !accepted => tracing::warn!(
                account = &*self.name,
                provider_code = error.provider_code,
                detail = error.detail,
                "the vendor rejects the account's credentials"
            ),
            _ => {
                tracing::info!(
                    account = &*self.name,
                    "the vendor accepts the account's credentials"
                );
            }
        }
    }

    /// Asks the vendor. The order's `account` is empty, because the stored state must not depend on the
    /// account's name.
    pub(crate) async fn ask(
        &self,
        query: &Query,
        resources: Resources<'_>,
    ) -> Result<Order, Error> {
        let mut secrets = self.vendor.secrets();
        let outcome = self.vendor.get_order(query, resources).await;
        let outcome = outcome.map(|order| Order { provider: self.provider.into(), ..order });
        // The secrets may have changed meanwhile, and either set may have been sent.
        secrets.extend(self.vendor.secrets());
        outcome.map_err(|error| error.presentable(&secrets))
    }
}

/// Joins the parts into one text that no other parts produce: a JSON array.
fn key(parts: &[&str]) -> String {
    serde_json::Value::from(parts).to_string()
}

/// The text of the parts of `outer`, which is such a text, followed by `parts`. The key of an order is
/// built for every question, and that of its account is always the same.
fn key_within(outer: &str, parts: &[&str]) -> String {
    let mut text = outer.strip_suffix(']').unwrap_or(outer).to_owned();
    for part in parts {
        text.push(',');
        // A text is always JSON, so this cannot fail.
        text.push_str(&serde_json::to_string(part).unwrap_or_default());
    }
    text.push(']');
    text
}

/// Reads a limit on calls: it may be lower than the vendor's limit, but not higher.
fn limit(section: &mut Section, key: &str, vendors: Option<u32>) -> Option<u32> {
    let most = vendors.unwrap_or(LIMIT_CEILING);
    section.count(key, 1..=most).or(vendors)
}

/// Reads how many calls may be under way at one time.
fn max_concurrency(section: &mut Section) -> usize {
    let given = section.count("max_concurrency", 1..=CONCURRENCY_CEILING);
    given.and_then(|given| usize::try_from(given).ok()).unwrap_or(MAX_CONCURRENCY)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_key_of_an_order_extends_the_key_of_its_account(vendor in ".*", id in ".*", no in ".*") {
            let account = key(&["haoka", &vendor]);
            prop_assert_eq!(
                key_within(&account, &[&id, &no]),
                key(&["haoka", &vendor, &id, &no]),
            );
        }
    }
}
