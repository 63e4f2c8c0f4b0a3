//! The metrics of one account, as handles that are created once, so that counting needs no lookup. Used
//! by the account, and by `orders` for its questions.

use crate::pb::Source;
use crate::store::Limit;
use crate::telemetry::metrics::{ByWord, Counter, Gauge, Histogram, Lazy, Metrics};

/// The outcome label of a call that returned an order.
const OK: &str = "OK";

/// The handles of one account.
pub(crate) struct Meters {
    answers: ByWord<Counter>,
    pub(crate) answer_age: Lazy<Histogram>,
    /// Questions that shared a search.
    pub(crate) joined: Counter,
    pub(crate) retries: Counter,
    pub(crate) pauses: Counter,
    /// Calls to the vendor, by outcome.
    pub(crate) vendor_calls: ByWord<Counter>,
    quota_refusals: ByWord<Counter>,
    pub(crate) vendor_calls_under_way: Gauge,
    pub(crate) vendor_calls_waiting: Gauge,
    pub(crate) in_flight: Gauge,
    pub(crate) breaker_open: Gauge,
    pub(crate) credentials_refused: Gauge,
    /// Callers that were rejected because no permit was free.
    pub(crate) shed: Counter,
}

impl Meters {
    /// Creates the metrics of an account. Its counters start at 0 here.
    pub(super) fn new(account: &str, metrics: &Metrics) -> Self {
        let meters = Self {
            answers: metrics.answers.by_last([account]),
            answer_age: metrics.answer_age_seconds.lazily([account]),
            joined: metrics.joined.with([account]),
            retries: metrics.retries.with([account]),
            pauses: metrics.pauses.with([account]),
            vendor_calls: metrics.vendor_calls.by_last([account]),
            quota_refusals: metrics.quota_refusals.by_last([account]),
            vendor_calls_under_way: metrics.vendor_calls_under_way.with([account]),
            vendor_calls_waiting: metrics.vendor_calls_waiting.with([account]),
            in_flight: metrics.account_in_flight.with([account]),
            breaker_open: metrics.breaker_open.with([account]),
            credentials_refused: metrics.credentials_refused.with([account]),
            shed: metrics.shed.with(["account_max_in_flight"]),
        };
        for source in [Source::Live, Source::Cache, Source::Stale] {
            meters.answers(source);
        }
        for limit in Limit::ALL {
            meters.quota_refusals(limit);
        }
        meters.vendor_calls.of(OK);
        meters
    }

    /// Counts answers from that source.
    pub(crate) fn answers(&self, source: Source) -> Counter {
        self.answers.of(match source {
            Source::Live => "live",
            Source::Cache => "cache",
            Source::Stale => "stale",
            Source::Unspecified => "unspecified",
        })
    }

    /// Counts calls that were not made because that limit is used up.
    pub(crate) fn quota_refusals(&self, limit: Limit) -> Counter {
        self.quota_refusals.of(limit.name())
    }
}
