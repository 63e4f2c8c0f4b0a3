//! Every line that the code may log, except for those about calls, is documented with its
//! fields, and nothing else is.

use super::DOCUMENTED;
use crate::architecture::source::sources;

/// A log event.
struct Event {
    place: String,
    message: String,
    fields: Vec<String>,
}

/// The events in the sources with a literal message.
fn events() -> Vec<Event> {
    let mut events = Vec::new();
    for file in sources("src") {
        for level in ["debug", "info", "warn", "error"] {
            for rest in after(file.without_tests(), &format!("tracing::{level}!(")) {
                let Some((fields, message)) = rest.split_once('"') else { continue };
                let message = message.split('"').next().unwrap();
                // The macro for calls passes its fields on, and a warning of the configuration
                // its text. The sandbox is for tests.
                if fields.contains('$') || message.contains('{') || file.root() == "sandbox" {
                    continue;
                }
                let message = message.split("\\\n").map(str::trim_start).collect();
                let fields = fields.split(',').filter_map(field).collect();
                events.push(Event { place: file.name.clone(), message, fields });
            }
        }
    }
    events
}

/// The text after each occurrence of `what`.
fn after<'a>(text: &'a str, what: &str) -> Vec<&'a str> {
    text.match_indices(what).map(|(at, what)| &text[at + what.len()..]).collect()
}

/// The name in `name`, `%name` and `name = value`.
fn field(text: &str) -> Option<String> {
    let name = text.split('=').next().unwrap().trim().trim_start_matches(['%', '?']);
    let name = name.rsplit('.').next().unwrap();
    (!name.is_empty()).then(|| name.to_owned())
}

/// A row of the documented table: the prefixes of its messages, and its whole text.
fn rows() -> Vec<(Vec<&'static str>, &'static str)> {
    let (_, table) = DOCUMENTED.split_once("## What else is logged").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let (first, rest) = row[2..].split_once(" | ").unwrap();
        (first.split('`').skip(1).step_by(2).collect(), rest)
    })
    .collect()
}

#[test]
fn every_log_line_is_documented_with_its_fields() {
    let (events, rows) = (events(), rows());
    assert!(events.len() > 30, "the events were not found");
    let mut wrong = Vec::new();
    for Event { place, message, fields } in &events {
        if message.chars().count() > 200 {
            wrong.push(format!("{place}: {message:?} is so long that it would be cut"));
        }
        let row =
            rows.iter().find(|(begins, _)| begins.iter().any(|text| message.starts_with(text)));
        match row {
            None => wrong.push(format!("{place}: {message:?} is in no row")),
            Some((_, rest)) => wrong.extend(
                fields
                    .iter()
                    .filter(|field| !rest.contains(&format!("`{field}`")))
                    .map(|field| format!("{place}: {message:?} has {field}, its row has not")),
            ),
        }
    }
    for text in rows.iter().flat_map(|(begins, _)| begins) {
        if !events.iter().any(|event| event.message.starts_with(text)) {
            wrong.push(format!("nothing begins with {text:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
