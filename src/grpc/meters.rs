//! The metrics of calls: the handles of each method, looked up once. Used by the record of a call.

use super::method::Method;
use crate::pb::order_service_server::SERVICE_NAME;
use crate::telemetry::LogCalls;
use crate::telemetry::metrics::{ByWord, Counter, Histogram, Metrics};

/// The label of [`Method::Unknown`].
const UNKNOWN: &str = "unknown";

/// The handles of one method.
struct MethodMeters {
    /// Calls that have ended, by code.
    handled: ByWord<Counter>,
    seconds: Histogram,
}

/// The handles of all methods.
pub(super) struct Meters {
    methods: [MethodMeters; Method::ALL.len()],
    pub(super) metrics: Metrics,
    /// Which calls are logged.
    pub(super) log_calls: LogCalls,
}

impl MethodMeters {
    fn new(method: Method, metrics: &Metrics) -> Self {
        let kind = if method.streams() { "server_stream" } else { "unary" };
        let name = if method == Method::Unknown { UNKNOWN } else { method.name() };
        let labels = [kind, SERVICE_NAME, name];
        Self { handled: metrics.rpcs.by_last(labels), seconds: metrics.rpc_seconds.with(labels) }
    }
}

impl Meters {
    /// Creates the handles.
    pub(super) fn new(metrics: &Metrics, log_calls: LogCalls) -> Self {
        let methods = Method::ALL.map(|method| MethodMeters::new(method, metrics));
        Self { methods, metrics: metrics.clone(), log_calls }
    }

    /// The counter of a method's calls that ended with `code`, and the histogram of their durations.
    pub(super) fn of(&self, method: Method, code: &'static str) -> (Counter, &Histogram) {
        let [get, batch, watch, unknown] = &self.methods;
        let MethodMeters { handled, seconds } = match method {
            Method::GetOrder => get,
            Method::BatchGetOrders => batch,
            Method::WatchOrder => watch,
            Method::Unknown => unknown,
        };
        (handled.of(code), seconds)
    }
}
