//! What an operator sees: the log, the metrics and the traces.

mod logging;
pub mod metrics;
mod traces;
