//! Logs and traces. Set up once by `cli`; everyone writes to the logs through `tracing`, and spans
//! are made by `spans`.

mod otlp;
mod queue;

use std::io;
use std::panic::PanicHookInfo;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tracing::{Dispatch, Level, Metadata};
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, registry};

use self::otlp::Sending;
use self::queue::Queue;
pub(crate) use self::queue::is_harmful;
use crate::config::{LogFormat, Telemetry};

/// How long the end waits for lines that nobody reads.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the end waits for a collector that does not take the last spans.
const LAST_SPANS_TIMEOUT: Duration = Duration::from_secs(2);

/// Logs and spans on their way out. Whoever drops it waits until all are out, for three seconds at
/// most; the runtime must still run.
#[must_use]
pub struct Outgoing {
    logs: Arc<Queue>,
    spans: Option<Sending>,
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if let Some(spans) = &self.spans {
            spans.flush(LAST_SPANS_TIMEOUT);
        }
        self.logs.flush(FLUSH_TIMEOUT);
    }
}

/// Sends the logs to standard error from here on, by a thread of their own: whoever writes a line
/// never waits for whoever reads it. Sends spans where that is set. A second call changes nothing.
///
/// # Errors
/// Where no thread can be started, or the system has no roots to check a collector's certificate by.
pub fn init(telemetry: &Telemetry) -> io::Result<Outgoing> {
    let queue = Arc::new(Queue::default());
    let layer = layer(telemetry, Arc::clone(&queue));
    if registry().with(layer).try_init().is_ok() {
        std::panic::set_hook(Box::new(log_panic));
        let direct = Dispatch::new(registry().with(self::layer(telemetry, io::stderr)));
        let queue = Arc::clone(&queue);
        thread::Builder::new().name("logs".to_owned()).spawn(move || {
            // What this thread has to tell must not wait in the queue that it empties.
            let _direct = tracing::dispatcher::set_default(&direct);
            queue.write_to(io::stderr());
        })?;
    }
    let spans = telemetry.traces.as_ref().map(Sending::start).transpose()?;
    Ok(Outgoing { logs: queue, spans })
}

/// Whether a collector's certificate could be checked.
///
/// # Errors
/// Why not.
pub fn check(telemetry: &Telemetry) -> Result<(), String> {
    telemetry.traces.as_ref().map_or(Ok(()), otlp::check)
}

/// Writes what is to be logged, as it is to look.
fn layer<W>(telemetry: &Telemetry, writer: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = telemetry.log_level.clone().and(filter_fn(is_fit));
    // A line that cannot be written must not go to standard error another way.
    let layer = fmt::layer().with_writer(writer).with_ansi(false).log_internal_errors(false);
    match telemetry.log_format {
        LogFormat::Json => layer
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_filter(filter)
            .boxed(),
        LogFormat::Text => layer.with_filter(filter).boxed(),
    }
}

/// Libraries may write what they send and receive below this level; we never do. HTTP/2's warns of
/// what a peer does wrong, once for each connection: strangers could fill the log with it.
fn is_fit(metadata: &Metadata<'_>) -> bool {
    let (target, level) = (metadata.target(), *metadata.level());
    let least = if target.starts_with("h2::") { Level::ERROR } else { Level::INFO };
    target.starts_with(env!("CARGO_CRATE_NAME")) || level <= least
}

/// A panic's own words may hold what was being worked on: only its place is logged.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(place, "a task panicked");
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};

    use tracing_subscriber::filter::{LevelFilter, Targets};

    use super::*;

    #[test]
    fn libraries_tell_less_than_we_do() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let log_level = Targets::new().with_default(LevelFilter::TRACE);
        let layer = layer(&Telemetry { log_level, ..Telemetry::default() }, Arc::clone(&file));
        tracing::subscriber::with_default(registry().with(layer), || {
            tracing::trace!("ours");
            tracing::info!(target: "redis::client", "a library's");
            tracing::error!(target: "h2::proto", "a connection's end");
            tracing::warn!(target: "h2::proto", "a peer's reset");
            tracing::debug!(target: "reqwest::connect", "what is sent");
        });
        let mut text = String::new();
        (&*file).rewind().unwrap();
        (&*file).read_to_string(&mut text).unwrap();
        for (words, shown) in [
            ("ours", true),
            ("a library's", true),
            ("a connection's end", true),
            ("a peer's reset", false),
            ("what is sent", false),
        ] {
            assert_eq!(text.contains(words), shown, "{words}: {text}");
        }
    }
}
