//! The lines of the log: how an event becomes one. Used by `telemetry`.
//!
//! This module writes JSON itself: `tracing-subscriber`'s writer bounds no text and escapes too little,
//! and a second pass over each line costs more than the line.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_log::NormalizeEvent as _;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::text::{Quoted, harmless};

/// Writes an event as a JSON object: its time, its level, its fields and its target.
pub(super) struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        // An event from the `log` crate holds its level and target in its fields.
        let normalized = event.normalized_metadata();
        let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
        writer.write_str("{\"timestamp\":\"")?;
        SystemTime.format_time(&mut writer)?;
        for piece in ["\",\"level\":\"", metadata.level().as_str(), "\""] {
            writer.write_str(piece)?;
        }
        let mut members = Members { writer: &mut writer, outcome: Ok(()) };
        event.record(&mut members);
        members.outcome?;
        writer.write_str(",\"target\":")?;
        quoted(&mut writer, |quoted| quoted.write_str(metadata.target()))?;
        writer.write_str("}\n")
    }
}

/// Writes the fields of an event as members of a JSON object.
struct Members<'a, 'w> {
    writer: &'a mut Writer<'w>,
    outcome: fmt::Result,
}

impl Members<'_, '_> {
    fn member(&mut self, field: &Field, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        // The source location of a line that a library logs through the `log` crate.
        if self.outcome.is_err() || field.name().starts_with("log.") {
            return;
        }
        // Names are our own and the libraries': Rust's identifiers and dots.
        let pieces = [",\"", field.name(), "\":"];
        self.outcome = pieces.iter().try_for_each(|piece| self.writer.write_str(piece));
        self.outcome = self.outcome.and_then(|()| value(self.writer));
    }
}

impl Visit for Members<'_, '_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.member(field, |writer| {
            if value.is_finite() { write!(writer, "{value:?}") } else { writer.write_str("null") }
        });
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.member(field, |writer| write!(writer, "{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.member(field, |writer| write!(writer, "{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.member(field, |writer| write!(writer, "{value}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.member(field, |writer| quoted(writer, |quoted| quoted.write_str(value)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.member(field, |writer| quoted(writer, |quoted| write!(quoted, "{value:?}")));
    }
}

/// Writes a JSON string with the text that `write` writes.
fn quoted<'w>(
    writer: &mut Writer<'w>,
    write: impl FnOnce(&mut Quoted<&mut Writer<'w>>) -> fmt::Result,
) -> fmt::Result {
    writer.write_str("\"")?;
    // This fails where the text is cut, and the line continues.
    let _ = write(&mut Quoted::new(&mut *writer));
    writer.write_str("\"")
}

/// Writes an event as a line for people.
#[derive(Default)]
pub(super) struct Text(Format<Full>);

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        writer.write_str(&harmless(&line))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::Value;
    use tracing_subscriber::Registry;
    use tracing_subscriber::fmt::layer;
    use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};

    use super::*;

    /// The lines of what `logs` logs, as JSON.
    fn lines(logs: impl FnOnce()) -> Vec<Value> {
        let written = Arc::new(Mutex::new(Vec::new()));
        let out = Arc::clone(&written);
        let writer = move || Out(Arc::clone(&out));
        let layer = layer().event_format(Json).with_writer(writer).boxed();
        tracing::subscriber::with_default(Registry::default().with(layer), logs);
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    struct Out(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Out {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_kind_of_value_is_json() {
        let absent: Option<u64> = None;
        let lines = lines(|| {
            tracing::warn!(
                word = "a \"word\" \\ \n\u{1b}\u{202e}号",
                count = 3_u64,
                less = -3_i64,
                time = 0.25,
                whole = 200.0,
                endless = f64::INFINITY,
                is = true,
                absent,
                shown = %std::net::Ipv4Addr::LOCALHOST,
                "it {}",
                "happened"
            );
        });
        let [line] = lines.as_slice() else { panic!("{lines:?}") };
        let time = line["timestamp"].as_str().unwrap();
        assert!(time.parse::<jiff::Timestamp>().is_ok() && time.len() == 27, "{time}");
        let mut rest = line.clone();
        rest.as_object_mut().unwrap().remove("timestamp");
        let expected = serde_json::json!({
            "level": "WARN",
            "message": "it happened",
            "word": "a \"word\" \\ \n\u{1b}\u{202e}号",
            "count": 3,
            "less": -3,
            "time": 0.25,
            "whole": 200.0,
            "endless": null,
            "is": true,
            "shown": "127.0.0.1",
            "target": "order_query::telemetry::line::tests",
        });
        assert_eq!(rest, expected);
    }

    #[test]
    fn a_text_has_200_characters_and_its_line_stays_whole() {
        for c in ["x", "号", "\"", "\\", "\n", "\u{1b}", "u", "\u{202e}"] {
            let texts =
                [c.repeat(200), c.repeat(201), format!("{}{}", "x".repeat(199), c.repeat(60_000))];
            let lines = lines(|| texts.iter().for_each(|text| tracing::info!(text, after = "y")));
            let kept =
                [c.repeat(200), format!("{}…", c.repeat(200)), format!("{}{c}…", "x".repeat(199))];
            assert_eq!(lines.len(), 3);
            for (line, kept) in lines.iter().zip(kept) {
                assert_eq!((&line["text"], &line["after"]), (&kept.into(), &"y".into()));
            }
        }
    }
}
