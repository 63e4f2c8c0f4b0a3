//! The metrics of calls: the handles of each method, looked up once. Used by the record of a call.

use crate::pb::order_service_server::SERVICE_NAME;
use crate::telemetry::metrics::{ByWord, Counter, Histogram, Metrics};

/// The label of a method that the service does not have: its name comes from the caller.
const UNKNOWN: &str = "unknown";

/// The handles of one method.
struct MethodMeters {
    name: &'static str,
    /// Calls that have ended, by code.
    handled: ByWord<Counter>,
    seconds: Histogram,
}

/// The handles of all methods.
pub(super) struct Meters {
    methods: Vec<MethodMeters>,
    pub(super) metrics: Metrics,
}

impl MethodMeters {
    fn new(name: &'static str, streams: bool, metrics: &Metrics) -> Self {
        let kind = if streams { "server_stream" } else { "unary" };
        let labels = [kind, SERVICE_NAME, name];
        Self {
            name,
            handled: metrics.rpcs.by_last(labels),
            seconds: metrics.rpc_seconds.with(labels),
        }
    }
}

impl Meters {
    /// The handles of these methods, each with whether it streams.
    pub(super) fn new<const METHODS: usize>(
        methods: [(&'static str, bool); METHODS],
        metrics: &Metrics,
    ) -> Self {
        let known = methods.into_iter().chain([(UNKNOWN, false)]);
        let methods = known.map(|(name, streams)| MethodMeters::new(name, streams, metrics));
        Self { methods: methods.collect(), metrics: metrics.clone() }
    }

    /// The counter of a method's calls that ended with `code`, and the histogram of their durations.
    pub(super) fn of(&self, method: &str, code: &'static str) -> Option<(Counter, &Histogram)> {
        let method = self.methods.iter().find(|known| known.name == method);
        // The last entry is for unknown methods.
        let MethodMeters { handled, seconds, .. } = method.or(self.methods.last())?;
        Some((handled.of(code), seconds))
    }
}
