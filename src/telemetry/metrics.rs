//! Metrics: the one table of all metrics, and the page that reports them.
//!
//! [`Metrics`] is a value: `app` makes one and hands it down. Code that counts often takes its
//! handles once, so that counting is an atomic addition, without a lookup and without an allocation.
//!
//! No label holds text that a caller or a vendor wrote, so the configuration bounds the number of
//! series: its accounts, and its settings with files.

mod values;

use std::ops::Deref;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use prometheus::core::Collector;
#[cfg(target_os = "linux")]
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder,
};

pub use self::values::{Counter, Gauge, Histogram};

/// The page's `Content-Type`.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// The bounds of the histograms of calls and of vendor requests, in seconds.
const WAITS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0];

/// The bounds of the histogram of store operations, in seconds.
const STORE_WAITS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// The bounds of the histogram of how old answers are, in seconds, up to the longest possible
/// freshness.
const AGES: &[f64] =
    &[0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 21_600.0, 86_400.0];

/// Declares the metrics. Each row has the name in the code, the kind, the name on the page, the
/// labels, the meaning and, for a histogram, the bounds.
macro_rules! metrics {
    ($($name:ident: $kind:ident<$labels:literal> = $metric:literal $label:tt, $help:literal
        $(, $bounds:ident)?;)*) => {
        /// Every metric, by its name in the code.
        pub struct Families {
            registry: Registry,
            $(
                #[doc = concat!("`", $metric, "`: ", $help)]
                pub $name: Family<$kind, $labels>,
            )*
        }

        impl Families {
            fn new(registry: Registry) -> Self {
                $(let $name = $kind::family(&registry, $metric, $help, $label $(, $bounds)?);)*
                Self { registry, $($name),* }
            }
        }

        /// The names of all metrics except the process's own.
        #[cfg(test)]
        const NAMES: &[&str] = &[$($metric),*];
    };
}

metrics! {
    // gRPC. The names are those of the Prometheus interceptors in other languages.
    rpcs: Counter<4> = "grpc_server_handled_total"
        ["grpc_type", "grpc_service", "grpc_method", "grpc_code"],
        "Calls that have ended, by method and code; an unknown method is \"unknown\".";
    rpc_seconds: Histogram<3> = "grpc_server_handling_seconds"
        ["grpc_type", "grpc_service", "grpc_method"],
        "Time from a call's arrival to its end, including watches.", WAITS;
    errors: Counter<2> = "order_query_errors_total" ["account", "reason"],
        "Error answers, counting each order of a batch, by account (empty if none was chosen) and \
         reason of the contract.";
    // Orders.
    answers: Counter<2> = "order_query_answers_total" ["account", "source"],
        "Orders returned to callers, excluding watches, by account and source: live, cache, stale.";
    answer_age_seconds: Histogram<1> = "order_query_answer_age_seconds" ["account"],
        "Age of an order's state when it was returned, excluding terminal orders.", AGES;
    joined: Counter<1> = "order_query_joined_total" ["account"],
        "Requests that joined a search in progress for the same order.";
    // Vendors.
    vendor_calls: Counter<2> = "order_query_vendor_calls_total" ["account", "outcome"],
        "Calls to a vendor for an order, by account and outcome: OK, a reason of the contract, or \
         TOKEN_REFUSED if the call was repeated with another token.";
    vendor_request_seconds: Histogram<2> = "order_query_vendor_request_duration_seconds"
        ["account", "operation"],
        "Duration of HTTP requests to a vendor, including failed ones, by account and operation.",
        WAITS;
    vendor_calls_under_way: Gauge<1> = "order_query_vendor_calls_under_way" ["account"],
        "Requests to a vendor that hold a permit, at most the account's max_concurrency.";
    vendor_calls_waiting: Gauge<1> = "order_query_vendor_calls_waiting" ["account"],
        "Requests to a vendor that wait for a permit.";
    retries: Counter<1> = "order_query_vendor_retries_total" ["account"],
        "Calls to a vendor that were retried.";
    pauses: Counter<1> = "order_query_vendor_pauses_total" ["account"],
        "Number of times that a vendor reported too many requests and the account was paused.";
    breaker_open: Gauge<1> = "order_query_breaker_open" ["account"],
        "1 while the circuit breaker of an account is open because its vendor is failing, else 0.";
    credentials_refused: Gauge<1> = "order_query_credentials_refused" ["account"],
        "1 while a vendor rejects the account's credentials, else 0.";
    clock_difference_seconds: Gauge<1> = "order_query_vendor_clock_difference_seconds" ["account"],
        "Whole seconds by which the vendor's clock was ahead of this machine's in its last answer.";
    tokens: Counter<2> = "order_query_tokens_refreshed_total" ["account", "outcome"],
        "Access tokens requested, by account and outcome: OK or a reason of the contract.";
    unknown_words: Counter<2> = "order_query_unknown_words_total" ["provider", "field"],
        "Words of a vendor that have no name in the contract and were passed on as OTHER.";
    unreadable_fields: Counter<2> = "order_query_unreadable_fields_total" ["provider", "field"],
        "Fields of orders that could not be read and were left unset.";
    // Limits.
    quota_limit: Gauge<2> = "order_query_quota_limit" ["account", "limit"],
        "Calls that a limit allows per minute.";
    quota_left: Gauge<2> = "order_query_quota_left" ["account", "limit"],
        "Calls that a limit still allows this minute; absent while the store is unavailable.";
    quota_refusals: Counter<2> = "order_query_quota_refusals_total" ["account", "limit"],
        "Vendor calls that were not made because a limit was exhausted, including the daily limits \
         of single orders and the shares of clients.";
    // The store.
    store_seconds: Histogram<1> = "order_query_store_operation_duration_seconds" ["operation"],
        "Duration of the store's operations, including failures.", STORE_WAITS;
    store_errors: Counter<1> = "order_query_store_errors_total" ["operation"],
        "Operations of the store that failed.";
    store_memory: Gauge<1> = "order_query_store_memory_bytes" ["kind"],
        "Approximate bytes of memory in use, by kind: cache (orders, at most store.cache_bytes), \
         terminal (orders that have ended, only with memory:), calls (spent calls).";
    store_open: Gauge<0> = "order_query_store_fence_open" [],
        "1 while limited calls are made, 0 while they wait because Redis may have lost calls.";
    store_losses: Counter<0> = "order_query_store_losses_total" [],
        "Times at which Redis may have lost writes, as this process has seen.";
    store_replicas: Gauge<0> = "order_query_store_replicas" [],
        "Replicas that share the store and are alive.";
    store_missing: Gauge<0> = "order_query_store_missing_calls" [],
        "Calls taken off each order's day because lost replicas may have made them.";
    // The server.
    ready: Gauge<0> = "order_query_ready" [],
        "1 while the server is ready, else 0.";
    calls_in_flight: Gauge<0> = "order_query_calls_in_flight" [],
        "Units of max_in_flight in use; a batch uses one for each different order.";
    account_in_flight: Gauge<1> = "order_query_account_calls_in_flight" ["account"],
        "Callers that wait for an answer of the account, at most its max_in_flight.";
    client_in_flight: Gauge<1> = "order_query_client_calls_in_flight" ["client"],
        "Units of a client's max_in_flight in use; only for clients that set one.";
    watches: Gauge<0> = "order_query_watches" [],
        "Open watches.";
    connections: Gauge<1> = "order_query_connections" ["listener"],
        "Open connections, by listener: server, admin.";
    server_limit: Gauge<1> = "order_query_server_limit" ["limit"],
        "The server's limits: max_in_flight, max_watches, max_connections and admin_connections.";
    shed: Counter<1> = "order_query_shed_total" ["limit"],
        "Calls, watches and connections that were rejected, by the limit that was reached.";
    tls_expiry_seconds: Gauge<0> = "order_query_tls_certificate_expiry_timestamp_seconds" [],
        "Earliest expiry in the server's own chain, in seconds since 1970; absent without TLS.";
    reloads: Counter<2> = "order_query_reloads_total" ["setting", "outcome"],
        "Reloads of a setting's files, by outcome: ok, or error if the previous files stay in use.";
    log_lines_lost: Counter<0> = "order_query_log_lines_lost_total" [],
        "Log lines that were lost because they were not read in time or could not be written.";
    spans_lost: Counter<0> = "order_query_spans_lost_total" [],
        "Spans that were lost because no collector accepted them in time.";
    build_info: Gauge<1> = "order_query_build_info" ["version"],
        "Always 1; the label has the running version.";
}

/// Everything that one process measures. Clones share it.
#[derive(Clone)]
pub struct Metrics(Arc<Families>);

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        // The library reads these metrics on Linux only.
        #[cfg(target_os = "linux")]
        register(&registry, ProcessCollector::for_self());
        let families = Families::new(registry);
        families.build_info.with([env!("CARGO_PKG_VERSION")]).set(1.0);
        Self(Arc::new(families))
    }
}

impl Deref for Metrics {
    type Target = Families;

    fn deref(&self) -> &Families {
        &self.0
    }
}

impl Metrics {
    /// The page: every metric, in Prometheus' text format.
    ///
    /// # Errors
    /// Where a metric cannot be rendered, and why.
    pub fn page(&self) -> Result<String, String> {
        let page = TextEncoder::new().encode_to_string(&self.registry.gather());
        page.map_err(|error| error.to_string())
    }
}

/// A handle of one series.
pub trait Handle: Clone + Send + Sync + 'static {
    /// All series of a metric, as the library has them.
    type All: Clone + Send + Sync + 'static;

    /// The series with these labels.
    fn of(all: &Self::All, labels: &[&str]) -> Self;
}

macro_rules! handles {
    ($($handle:ident of $all:ty;)+) => {$(
        impl Handle for $handle {
            type All = $all;

            fn of(all: &$all, labels: &[&str]) -> Self {
                Self(all.with_label_values(labels))
            }
        }
    )+};
}

handles! {
    Counter of IntCounterVec;
    Gauge of GaugeVec;
    Histogram of HistogramVec;
}

/// The series of a metric, one for each combination of labels.
pub struct Family<H: Handle, const LABELS: usize>(H::All);

impl<H: Handle, const LABELS: usize> Family<H, LABELS> {
    /// The series with these labels. From here on it is on the page, a counter at 0: `increase()` misses
    /// the first event of a series that is born at 1.
    #[must_use]
    pub fn with(&self, labels: [&str; LABELS]) -> H {
        H::of(&self.0, &labels)
    }

    /// The series with these labels, which appears on the page with its first use.
    #[must_use]
    pub fn lazily(&self, labels: [&str; LABELS]) -> Lazy<H> {
        let (family, labels) = (self.0.clone(), labels.map(str::to_owned));
        Lazy::new(move || H::of(&family, &labels.each_ref().map(String::as_str)))
    }

    /// The series that share all labels except the last.
    #[must_use]
    pub fn by_last<const FIRST: usize>(&self, first: [&str; FIRST]) -> ByWord<H> {
        let (family, first) = (self.0.clone(), first.map(str::to_owned));
        ByWord::new(move |word| H::of(&family, &and(&first, word)))
    }
}

impl<const LABELS: usize> Family<Gauge, LABELS> {
    /// Removes the series with these labels, because its value is unknown now.
    pub fn forget(&self, labels: [&str; LABELS]) {
        // This fails only where there is no such series.
        let _ = self.0.remove_label_values(&labels);
    }
}

impl Counter {
    fn family<const LABELS: usize>(
        registry: &Registry,
        name: &str,
        help: &str,
        labels: [&str; LABELS],
    ) -> Family<Self, LABELS> {
        let family = IntCounterVec::new(Opts::new(name, help), &labels);
        let family = Family(registered(registry, family));
        if LABELS == 0 {
            let _ = family.with([""; LABELS]);
        }
        family
    }
}

impl Gauge {
    fn family<const LABELS: usize>(
        registry: &Registry,
        name: &str,
        help: &str,
        labels: [&str; LABELS],
    ) -> Family<Self, LABELS> {
        Family(registered(registry, GaugeVec::new(Opts::new(name, help), &labels)))
    }
}

impl Histogram {
    fn family<const LABELS: usize>(
        registry: &Registry,
        name: &str,
        help: &str,
        labels: [&str; LABELS],
        bounds: &[f64],
    ) -> Family<Self, LABELS> {
        let options = HistogramOpts::new(name, help).buckets(bounds.to_vec());
        Family(registered(registry, HistogramVec::new(options, &labels)))
    }
}

/// The labels `first`, followed by `word`.
fn and<'a>(first: &'a [String], word: &'a str) -> Vec<&'a str> {
    first.iter().map(String::as_str).chain([word]).collect()
}

/// A handle that is created on its first use.
pub struct Lazy<H> {
    make: Box<dyn Fn() -> H + Send + Sync>,
    made: OnceLock<H>,
}

impl<H> Lazy<H> {
    fn new(make: impl Fn() -> H + Send + Sync + 'static) -> Self {
        Self { make: Box::new(make), made: OnceLock::new() }
    }

    /// The handle, created if this is the first use.
    pub fn get(&self) -> &H {
        self.made.get_or_init(&self.make)
    }
}

/// Handles that differ in one word from our own code; each is created on the first use of its word.
pub struct ByWord<H> {
    make: Box<dyn Fn(&str) -> H + Send + Sync>,
    made: RwLock<Vec<(&'static str, H)>>,
}

impl<H: Clone> ByWord<H> {
    fn new(make: impl Fn(&str) -> H + Send + Sync + 'static) -> Self {
        Self { make: Box::new(make), made: RwLock::default() }
    }

    /// The handle of a word. Only the first use of a word looks it up.
    pub fn of(&self, word: &'static str) -> H {
        let known = |made: &[(&'static str, H)]| {
            made.iter().find(|(known, _)| *known == word).map(|(_, handle)| handle.clone())
        };
        if let Some(handle) = known(&self.made.read().unwrap_or_else(PoisonError::into_inner)) {
            return handle;
        }
        let mut made = self.made.write().unwrap_or_else(PoisonError::into_inner);
        known(&made).unwrap_or_else(|| {
            let handle = (self.make)(word);
            made.push((word, handle.clone()));
            handle
        })
    }
}

/// Registers a metric, which puts it on the page.
fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<C>,
) -> C {
    #[allow(clippy::expect_used, reason = "constants, and a test makes all")]
    let metric = metric.expect("a metric of the table is not well formed");
    register(registry, metric.clone());
    metric
}

fn register(registry: &Registry, metric: impl Collector + 'static) {
    #[allow(clippy::expect_used, reason = "constants, and a test makes all")]
    registry.register(Box::new(metric)).expect("two metrics have one name");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_metric_is_registered_once_with_a_valid_prometheus_name() {
        let page = Metrics::default().page().unwrap();
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
    fn recorded_values_appear_on_their_own_page_only() {
        let metrics = Metrics::default();
        metrics.shed.with(["max_in_flight"]).add(2);
        metrics.rpc_seconds.with(["unary", "S", "M"]).observe(Duration::from_millis(3));
        metrics.quota_left.with(["a", "calls_per_minute"]).set(7.0);
        let answers = metrics.answers.by_last(["a"]);
        for word in ["live", "cache", "live"] {
            answers.of(word).inc();
        }
        let page = metrics.page().unwrap();
        for line in [
            "order_query_shed_total{limit=\"max_in_flight\"} 2",
            "grpc_server_handling_seconds_count{grpc_method=\"M\",grpc_service=\"S\",grpc_type=\"unary\"} 1",
            "order_query_quota_left{account=\"a\",limit=\"calls_per_minute\"} 7",
            "order_query_answers_total{account=\"a\",source=\"live\"} 2",
            "order_query_answers_total{account=\"a\",source=\"cache\"} 1",
        ] {
            assert!(page.contains(line), "{line}\n{page}");
            assert!(!Metrics::default().page().unwrap().contains(line), "{line}");
        }
        metrics.quota_left.forget(["a", "calls_per_minute"]);
        assert!(!metrics.page().unwrap().contains("order_query_quota_left{account=\"a\""));
    }
}
