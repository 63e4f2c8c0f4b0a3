//! The guide to adding a vendor: its code is the code that the tests build and run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::contract::REQUIRED;
use super::errors::Errors;
use super::fields::Fields;
use super::words::Words;
use crate::support::facts::Sheet;

const PAGE: &str = include_str!("../../../docs/adding-a-vendor.md");

/// Where the invented vendor's files are, and where they would be.
const PLACES: &[(&str, &str)] = &[
    ("tests/acme/provider.rs", "src/providers/acme.rs"),
    ("tests/acme/sandbox.rs", "src/sandbox/acme.rs"),
];
const FIXTURES: (&str, &str) = ("tests/acme/fixtures", "tests/fixtures/acme");

fn text(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Each file's text, by its path on the page: its blocks, separated by an empty line.
fn shown() -> BTreeMap<&'static str, String> {
    let mut shown = BTreeMap::<_, String>::new();
    for block in PAGE.split("\n```").skip(1).step_by(2) {
        let (info, code) = block.split_once('\n').unwrap();
        if let Some((_, path)) = info.split_once(' ') {
            let whole = shown.entry(path).or_default();
            if !whole.is_empty() {
                whole.push('\n');
            }
            whole.push_str(code);
            whole.push('\n');
        }
    }
    shown
}

#[test]
fn the_page_shows_the_code_that_is_tested() {
    let mut files: BTreeMap<String, String> =
        PLACES.iter().map(|(here, there)| ((*there).to_owned(), text(here))).collect();
    let (here, there) = FIXTURES;
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(here)).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        files.insert(format!("{there}/{name}"), text(&format!("{here}/{name}")));
    }
    let shown = shown();
    for (path, text) in &files {
        assert_eq!(shown.get(path.as_str()), Some(text), "{path}");
    }
    let known: BTreeSet<_> = files.keys().map(String::as_str).collect();
    assert_eq!(shown.into_keys().collect::<BTreeSet<_>>(), known);
}

/// The fixtures are readable, and none is missing.
#[test]
fn the_page_shows_every_fixture() {
    let (folder, _) = FIXTURES;
    let read = |name: &str| text(&format!("{folder}/{name}"));
    let sheet: Sheet = toml::from_str(&read("vendor.toml")).unwrap();
    let answer: Value = serde_json::from_str(&read("order.answer.json")).unwrap();
    assert_eq!(answer.pointer(&sheet.id_at), Some(&Value::String(sheet.id)));
    assert!(!toml::from_str::<Errors>(&read("errors.toml")).unwrap().error.is_empty());
    assert!(!toml::from_str::<Fields>(&read("fields.toml")).unwrap().field.is_empty());
    assert!(!toml::from_str::<Words>(&read("words.toml")).unwrap().table.is_empty());
    for name in REQUIRED {
        assert!(!read(name).is_empty(), "{name}");
    }
}
