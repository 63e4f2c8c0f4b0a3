//! Logs and traces. `cli` sets them up once; every module logs through `tracing`, and `spans` creates
//! the spans.

mod line;
pub mod metrics;
mod otlp;
mod queue;
mod settings;
pub mod spans;
mod text;

use std::io;
use std::panic::PanicHookInfo;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tracing::{Dispatch, Level, Metadata};
use tracing_subscriber::filter::{FilterExt as _, LevelFilter, Targets, filter_fn};
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, registry};

use self::metrics::Metrics;
use self::otlp::SpanExport;
use self::queue::Queue;
pub use self::settings::{LogCalls, LogFormat, Settings, Traces};
pub(crate) use self::text::is_harmful;
use crate::config::Section;

/// How long the shutdown waits for the log's reader to read the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the shutdown waits for the collector to accept the last spans.
const LAST_SPANS_TIMEOUT: Duration = Duration::from_secs(2);

/// Logs and spans that are still to be sent. Dropping it waits until all are sent, for three seconds
/// at most; the runtime must still run.
#[must_use]
pub struct Outgoing {
    logs: Arc<Queue>,
    spans: Option<SpanExport>,
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if let Some(spans) = &self.spans {
            spans.flush(LAST_SPANS_TIMEOUT);
        }
        self.logs.flush(FLUSH_TIMEOUT);
    }
}

/// Sends the logs to standard error from here on, by a separate thread: code that writes a line never
/// waits for the log's reader. Also sends spans where that is configured. A second call changes
/// nothing.
///
/// # Errors
/// Where no thread can be started, or the system has no root certificates to check a collector's
/// certificate with.
pub fn init(settings: &Settings, metrics: &Metrics) -> io::Result<Outgoing> {
    let queue = Arc::new(Queue::new(metrics.log_lines_lost.with([])));
    let layer = layer(settings, Arc::clone(&queue));
    if registry().with(layer).try_init().is_ok() {
        std::panic::set_hook(Box::new(log_panic));
        let direct = Dispatch::new(registry().with(self::layer(settings, io::stderr)));
        let queue = Arc::clone(&queue);
        thread::Builder::new().name("logs".to_owned()).spawn(move || {
            // This thread's own log lines must not wait in the queue that it empties.
            let _direct = tracing::dispatcher::set_default(&direct);
            queue.write_to(io::stderr());
        })?;
    }
    let start = |traces| SpanExport::start(traces, metrics.spans_lost.with([]));
    let spans = settings.traces.as_ref().map(start).transpose()?;
    Ok(Outgoing { logs: queue, spans })
}

/// Reads `[telemetry]`. `log_level` is the value from the environment; it overrides the file's. What is
/// wrong is recorded as a problem, as well as a collector whose certificate could not be checked.
pub fn read(section: Section, log_level: Option<Targets>) -> Settings {
    let place = section.place();
    let settings = Settings::read(section, log_level);
    if let Some(Err(text)) = settings.traces.as_ref().map(otlp::check) {
        place.problem("otlp_endpoint", text);
    }
    settings
}

/// The layer that filters, formats and writes the log.
fn layer<W>(settings: &Settings, writer: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = levels(&settings.log_level).and(filter_fn(is_fit));
    // A line that cannot be written must not reach standard error in another way.
    let layer = fmt::layer().with_writer(writer).with_ansi(false).log_internal_errors(false);
    match settings.log_format {
        LogFormat::Json => layer.event_format(line::Json).with_filter(filter).boxed(),
        LogFormat::Text => layer
            .event_format(line::Text::default())
            .fmt_fields(debug_fn(text::write_field))
            .with_filter(filter)
            .boxed(),
    }
}

/// The level from which on each target is logged. A level without a target is for this crate:
/// libraries log a peer's mistakes as warnings, and strangers could fill the log with them. Libraries
/// log their errors, and more where a target names them.
fn levels(set: &Targets) -> Targets {
    let ours = set.default_level().unwrap_or(LevelFilter::OFF);
    Targets::new()
        .with_default(ours.min(LevelFilter::ERROR))
        .with_target(env!("CARGO_CRATE_NAME"), ours)
        .with_targets(set.iter().map(|(target, level)| (target.to_owned(), level)))
}

/// Libraries may log what they send and receive below `INFO`, so that is their lowest level, even
/// where a target names them. This crate never logs such data.
fn is_fit(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with(env!("CARGO_CRATE_NAME")) || *metadata.level() <= Level::INFO
}

/// The message of a panic may hold the data that was being processed: only its location is logged.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(place, "a task panicked");
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};

    use super::*;

    /// The log of some events, at that level and in that format.
    fn logged(level: &str, log_format: LogFormat) -> String {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let log_level = level.parse().unwrap();
        let settings = Settings { log_format, log_level, ..Settings::default() };
        let layer = layer(&settings, Arc::clone(&file));
        tracing::subscriber::with_default(registry().with(layer), || {
            tracing::trace!("ours, in detail");
            tracing::warn!("ours");
            tracing::error!(target: "rustls::conn", "an end");
            tracing::warn!(target: "rustls::conn", "a stranger's word");
            tracing::error!(target: "h2::proto", "another end");
            tracing::info!(target: "h2::proto", "a peer's reset");
            tracing::debug!(target: "h2::proto", "what is sent");
        });
        let mut text = String::new();
        (&*file).rewind().unwrap();
        (&*file).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_bare_level_applies_to_this_crate_and_libraries_log_errors_unless_named() {
        const EVENTS: [&str; 7] = [
            "ours, in detail",
            "ours",
            "an end",
            "a stranger's word",
            "another end",
            "a peer's reset",
            "what is sent",
        ];
        for (level, shown) in [
            ("off", [0, 0, 0, 0, 0, 0, 0]),
            ("error", [0, 0, 1, 0, 1, 0, 0]),
            ("info", [0, 1, 1, 0, 1, 0, 0]),
            ("trace", [1, 1, 1, 0, 1, 0, 0]),
            ("info,h2=off", [0, 1, 1, 0, 0, 0, 0]),
            ("info,h2=info", [0, 1, 1, 0, 1, 1, 0]),
            // Below `info` a library may log what it sends.
            ("info,h2=trace", [0, 1, 1, 0, 1, 1, 0]),
            ("error,order_query=trace", [1, 1, 1, 0, 1, 0, 0]),
            ("trace,order_query=off", [0, 0, 1, 0, 1, 0, 0]),
            ("h2=warn", [0, 0, 0, 0, 1, 0, 0]),
        ] {
            for format in [LogFormat::Json, LogFormat::Text] {
                let text = logged(level, format);
                let logged = EVENTS.map(|event| u8::from(is_logged(&text, event)));
                assert_eq!(logged, shown, "{level}: {text}");
            }
        }
    }

    /// Whether a line has that message, in either format.
    fn is_logged(log: &str, message: &str) -> bool {
        let json = format!("\"message\":\"{message}\"");
        log.lines().any(|line| line.contains(&json) || line.ends_with(&format!(": {message}")))
    }
}
