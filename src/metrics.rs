//! What is measured: the one table of all metrics, and the page that tells them. Anyone may count
//! here; `app` serves the page.
//!
//! They are the process's own, as its log is. No label holds what a caller or a vendor wrote, so
//! the number of series is bounded by the configuration: its accounts, and its settings with files.

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::core::Collector;
#[cfg(target_os = "linux")]
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder,
};

/// What the page is, as HTTP has it.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// The bounds of what callers and vendors wait for, in seconds.
const WAITS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0];

/// The bounds of what a store takes, in seconds.
const STORE_WAITS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// The bounds of how old answers are, in seconds: up to the longest that a freshness can be.
const AGES: &[f64] =
    &[0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 21_600.0, 86_400.0];

/// Declares the metrics: what each is called in the code and on the page, its labels, what it
/// means and, for histograms, its bounds.
macro_rules! metrics {
    ($($name:ident: $kind:ident<$labels:literal> = $metric:literal $label:tt, $help:literal
        $(, $bounds:ident)?;)*) => {
        $(
            #[doc = concat!("`", $metric, "`: ", $help)]
            pub static $name: LazyLock<$kind<$labels>> =
                LazyLock::new(|| $kind::new($metric, $help, $label $(, $bounds)?));
        )*

        /// The names of all metrics but the process's own.
        #[cfg(test)]
        const NAMES: &[&str] = &[$($metric),*];

        /// Makes every metric that nobody has counted in yet.
        fn make_all() {
            $(LazyLock::force(&$name);)*
        }
    };
}

metrics! {
    // gRPC. The names are those that the interceptors for Prometheus have in other languages.
    RPCS: Counter<4> = "grpc_server_handled_total"
        ["grpc_type", "grpc_service", "grpc_method", "grpc_code"],
        "Calls that have ended, by method and code; an unknown method is \"unknown\".";
    RPC_SECONDS: Histogram<3> = "grpc_server_handling_seconds"
        ["grpc_type", "grpc_service", "grpc_method"],
        "How long calls took from their arrival to their end, watches included.", WAITS;
    ERRORS: Counter<2> = "order_query_errors_total" ["account", "reason"],
        "Answers that are errors, each order of a batch by itself, by account (empty where none was \
         chosen) and reason of the contract.";
    // Orders.
    ANSWERS: Counter<2> = "order_query_answers_total" ["account", "source"],
        "Orders told to callers, watches not included, by account and source: live, cache, stale.";
    ANSWER_AGE_SECONDS: Histogram<1> = "order_query_answer_age_seconds" ["account"],
        "How long before its answer an order was observed, of those that are not terminal.", AGES;
    JOINED: Counter<1> = "order_query_joined_total" ["account"],
        "Questions that joined a search that was under way for the same order.";
    // Vendors.
    VENDOR_CALLS: Counter<2> = "order_query_vendor_calls_total" ["account", "outcome"],
        "Calls to a vendor for an order, by account and outcome: OK, a reason of the contract, or \
         TOKEN_REFUSED where the call was made again with another token.";
    VENDOR_REQUEST_SECONDS: Histogram<2> = "order_query_vendor_request_duration_seconds"
        ["account", "operation"],
        "How long HTTP requests to a vendor took, failed ones included, by account and operation.",
        WAITS;
    VENDOR_CALLS_UNDER_WAY: Gauge<1> = "order_query_vendor_calls_under_way" ["account"],
        "Questions to a vendor that have their turn now, at most the account's max_concurrency.";
    VENDOR_CALLS_WAITING: Gauge<1> = "order_query_vendor_calls_waiting" ["account"],
        "Questions to a vendor that wait for their turn now.";
    RETRIES: Counter<1> = "order_query_vendor_retries_total" ["account"],
        "Calls to a vendor that were made once more.";
    PAUSES: Counter<1> = "order_query_vendor_pauses_total" ["account"],
        "How often a vendor said that it is asked too often, and the account was paused.";
    BREAKER_OPEN: Gauge<1> = "order_query_breaker_open" ["account"],
        "1 while a vendor is left alone because it fails, else 0.";
    CREDENTIALS_REFUSED: Gauge<1> = "order_query_credentials_refused" ["account"],
        "1 while a vendor turns the account's credentials down, else 0.";
    CLOCK_DIFFERENCE_SECONDS: Gauge<1> = "order_query_vendor_clock_difference_seconds" ["account"],
        "How far the vendor's clock was ahead of ours in its last answer, in whole seconds.";
    TOKENS: Counter<2> = "order_query_tokens_refreshed_total" ["account", "outcome"],
        "Access tokens asked for, by account and outcome: OK or a reason of the contract.";
    UNKNOWN_WORDS: Counter<2> = "order_query_unknown_words_total" ["provider", "field"],
        "Words of a vendor that have no name in the contract and were passed on as OTHER.";
    UNREADABLE_FIELDS: Counter<2> = "order_query_unreadable_fields_total" ["provider", "field"],
        "Fields of orders that could not be read and were left unset.";
    // Limits.
    QUOTA_LIMIT: Gauge<2> = "order_query_quota_limit" ["account", "limit"],
        "How many calls a limit allows in its minute.";
    QUOTA_LEFT: Gauge<2> = "order_query_quota_left" ["account", "limit"],
        "How many calls of its minute a limit leaves now; absent where the store cannot tell.";
    QUOTA_REFUSALS: Counter<2> = "order_query_quota_refusals_total" ["account", "limit"],
        "Vendor calls that were not made because the limit was spent, the day's limits of single \
         orders and the shares of clients included.";
    // The store.
    STORE_SECONDS: Histogram<1> = "order_query_store_operation_duration_seconds" ["operation"],
        "How long the store took, failures included.", STORE_WAITS;
    STORE_ERRORS: Counter<1> = "order_query_store_errors_total" ["operation"],
        "Operations of the store that failed.";
    STORE_MEMORY: Gauge<1> = "order_query_store_memory_bytes" ["kind"],
        "Bytes of memory that the store takes, about, by kind: cache (orders, at most store.cache_bytes), \
         terminal (orders that have ended, with memory: alone), calls (that are spent).";
    // The server.
    READY: Gauge<0> = "order_query_ready" [],
        "1 while the server is ready, else 0.";
    CALLS_IN_FLIGHT: Gauge<0> = "order_query_calls_in_flight" [],
        "Places of max_in_flight that are taken; a batch takes one for each different order.";
    ACCOUNT_IN_FLIGHT: Gauge<1> = "order_query_account_calls_in_flight" ["account"],
        "Callers that wait for an answer of the account, at most its max_in_flight.";
    CLIENT_IN_FLIGHT: Gauge<1> = "order_query_client_calls_in_flight" ["client"],
        "Places of a client's max_in_flight that are taken; only of clients that have one.";
    WATCHES: Gauge<0> = "order_query_watches" [],
        "Watches that are open.";
    CONNECTIONS: Gauge<1> = "order_query_connections" ["listener"],
        "Connections that are open, by listener: server, admin.";
    SERVER_LIMIT: Gauge<1> = "order_query_server_limit" ["limit"],
        "How many there may be: max_in_flight, max_watches, max_connections, and admin_connections.";
    SHED: Counter<1> = "order_query_shed_total" ["limit"],
        "Calls, watches and connections that were turned away because a limit of the server was \
         reached, by that limit.";
    TLS_EXPIRY_SECONDS: Gauge<0> = "order_query_tls_certificate_expiry_timestamp_seconds" [],
        "When the server's own chain of certificates ends, which is with the first of them that does, \
         in seconds since 1970; absent without TLS.";
    RELOADS: Counter<2> = "order_query_reloads_total" ["setting", "outcome"],
        "Files of a setting that were read again after a change, by outcome: ok, or error where the previous ones stay in use.";
    LOG_LINES_LOST: Counter<0> = "order_query_log_lines_lost_total" [],
        "Log lines that were lost because nobody read them in time, or that could not be written.";
    SPANS_LOST: Counter<0> = "order_query_spans_lost_total" [],
        "Spans that were lost because no collector took them in time.";
    BUILD_INFO: Gauge<1> = "order_query_build_info" ["version"],
        "Always 1; the version that runs.";
}

static REGISTRY: LazyLock<Registry> = LazyLock::new(|| {
    let registry = Registry::new();
    // The library tells it of Linux alone.
    #[cfg(target_os = "linux")]
    register(&registry, ProcessCollector::for_self());
    registry
});

/// Counts what happens.
pub struct Counter<const LABELS: usize>(IntCounterVec);

impl<const LABELS: usize> Counter<LABELS> {
    fn new(name: &str, help: &str, labels: [&str; LABELS]) -> Self {
        let counter = Self(registered(IntCounterVec::new(Opts::new(name, help), &labels)));
        if LABELS == 0 {
            counter.add([""; LABELS], 0);
        }
        counter
    }

    /// Counts `count` more. With 0 the series begins: what counts from 1 on shows no first increase.
    pub fn add(&self, labels: [&str; LABELS], count: u64) {
        self.0.with_label_values(&labels).inc_by(count);
    }
}

/// Tells what is so now.
pub struct Gauge<const LABELS: usize>(GaugeVec);

impl<const LABELS: usize> Gauge<LABELS> {
    fn new(name: &str, help: &str, labels: [&str; LABELS]) -> Self {
        Self(registered(GaugeVec::new(Opts::new(name, help), &labels)))
    }

    /// From now on it is `value`.
    pub fn set(&self, labels: [&str; LABELS], value: f64) {
        self.0.with_label_values(&labels).set(value);
    }

    /// It is so much more, or less.
    pub fn add(&self, labels: [&str; LABELS], change: f64) {
        self.0.with_label_values(&labels).add(change);
    }

    /// Nobody knows what it is now.
    pub fn forget(&self, labels: [&str; LABELS]) {
        // Where it was not known before, nothing is lost.
        let _ = self.0.remove_label_values(&labels);
    }
}

/// Counts how long something takes.
pub struct Histogram<const LABELS: usize>(HistogramVec);

impl<const LABELS: usize> Histogram<LABELS> {
    fn new(name: &str, help: &str, labels: [&str; LABELS], bounds: &[f64]) -> Self {
        let options = HistogramOpts::new(name, help).buckets(bounds.to_vec());
        Self(registered(HistogramVec::new(options, &labels)))
    }

    /// Counts one that took so long.
    pub fn observe(&self, labels: [&str; LABELS], time: Duration) {
        self.0.with_label_values(&labels).observe(time.as_secs_f64());
    }
}

/// Puts a metric on the page.
fn registered<C: Collector + Clone + 'static>(metric: prometheus::Result<C>) -> C {
    #[allow(clippy::expect_used, reason = "names and labels are constants, and a test makes all")]
    let metric = metric.expect("a metric of the table is not well formed");
    register(&REGISTRY, metric.clone());
    metric
}

fn register(registry: &Registry, metric: impl Collector + 'static) {
    #[allow(clippy::expect_used, reason = "names are constants, and a test makes all")]
    registry.register(Box::new(metric)).expect("two metrics have one name");
}

/// The page: everything that is measured, in Prometheus' text format.
///
/// # Errors
/// Where a metric cannot be told, and why.
pub fn page() -> Result<String, String> {
    make_all();
    BUILD_INFO.set([env!("CARGO_PKG_VERSION")], 1.0);
    TextEncoder::new().encode_to_string(&REGISTRY.gather()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_made_once_and_named_as_prometheus_has_it() {
        let page = page().unwrap();
        let of_process = page.contains("\nprocess_cpu_seconds_total ");
        assert_eq!(of_process, cfg!(target_os = "linux"), "{page}");
        assert!(page.contains("order_query_spans_lost_total 0\n"), "{page}");
        for name in NAMES {
            let fits = name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            assert!(fits && (name.starts_with("order_query_") || name.starts_with("grpc_server_")));
            assert_eq!(NAMES.iter().filter(|other| *other == name).count(), 1, "{name}");
        }
    }

    #[test]
    fn what_is_counted_is_on_the_page() {
        SHED.add(["max_in_flight"], 2);
        RPC_SECONDS.observe(["unary", "S", "M"], Duration::from_millis(3));
        QUOTA_LEFT.set(["a", "calls_per_minute"], 7.0);
        let page = page().unwrap();
        for line in [
            "order_query_shed_total{limit=\"max_in_flight\"} 2",
            "grpc_server_handling_seconds_count{grpc_method=\"M\",grpc_service=\"S\",grpc_type=\"unary\"} 1",
            "order_query_quota_left{account=\"a\",limit=\"calls_per_minute\"} 7",
        ] {
            assert!(page.contains(line), "{line}\n{page}");
        }
        QUOTA_LEFT.forget(["a", "calls_per_minute"]);
        assert!(!super::page().unwrap().contains("order_query_quota_left{account=\"a\""));
    }
}
