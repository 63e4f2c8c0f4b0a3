//! Logs. Set up once by `cli`; everyone writes to them through `tracing`.

use std::io;
use std::panic::PanicHookInfo;

use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{fmt, registry};

use crate::config::{LogFormat, Telemetry};

/// Sends the logs to standard error from here on. A second call changes nothing.
pub fn init(telemetry: &Telemetry) {
    let filter = telemetry.log_level.clone().and(filter_fn(shows_no_secrets));
    let layer = fmt::layer().with_writer(io::stderr).with_ansi(false);
    let layer = match telemetry.log_format {
        LogFormat::Json => layer
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_filter(filter)
            .boxed(),
        LogFormat::Text => layer.with_filter(filter).boxed(),
    };
    if registry().with(layer).try_init().is_ok() {
        std::panic::set_hook(Box::new(log_panic));
    }
}

/// Libraries may write what they send and receive below this level; we never do.
fn shows_no_secrets(metadata: &Metadata<'_>) -> bool {
    let ours = metadata.target().starts_with(env!("CARGO_CRATE_NAME"));
    ours || *metadata.level() <= Level::INFO
}

/// A panic's own words may hold what was being worked on: only its place is logged.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(place, "a task panicked");
}
