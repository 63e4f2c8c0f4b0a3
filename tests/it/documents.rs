//! Checks pages for callers against the code: the tables of docs/statuses.md have every word that the
//! vendors' modules have, with its meaning in the fixtures.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use order_query::pb::Provider;
use serde::Deserialize;

use crate::architecture::source::sources;

const STATUSES: &str = include_str!("../../docs/statuses.md");

/// A word's meaning, without its enum's prefix, and whether it is terminal.
type Meanings = BTreeMap<String, (String, bool)>;

/// The tables of a vendor's `words.toml`: every row is tested against a real server.
#[derive(Deserialize)]
struct Facts {
    table: Vec<Table>,
}

#[derive(Deserialize)]
struct Table {
    at: String,
    prefix: String,
    words: Vec<(String, String)>,
    terminal: Vec<String>,
}

impl Table {
    fn meanings(&self) -> Meanings {
        let mut meanings = Meanings::new();
        for (word, name) in &self.words {
            let terminal = self.terminal.contains(word);
            meanings.insert(shortest(word).to_owned(), (name.clone(), terminal));
        }
        meanings
    }

    /// The enum's name: `ORDER_STATUS_` is `OrderStatus`.
    fn kind(&self) -> String {
        let mut name = String::new();
        for part in self.prefix.split_terminator('_') {
            name.push_str(&part[..1]);
            name.push_str(&part[1..].to_lowercase());
        }
        name
    }
}

/// Vendors also write 2 as `2.0`. The page has each number once.
fn shortest(word: &str) -> &str {
    match word.split_once('.') {
        Some((whole, zeros)) if zeros.chars().all(|digit| digit == '0') => whole,
        _ => word,
    }
}

fn facts(provider: Provider) -> Vec<Table> {
    let file = format!("tests/fixtures/{}/words.toml", provider.word());
    let facts: Facts = toml::from_str(&fs::read_to_string(&file).expect(&file)).expect(&file);
    facts.table
}

/// The part of the page about a vendor.
fn section(provider: Provider) -> &'static str {
    let named = |part: &&str| {
        let (heading, _) = part.split_once('\n').unwrap();
        heading.to_lowercase() == provider.word()
    };
    STATUSES.split("\n## ").skip(1).find(named).expect("a section for each vendor")
}

/// The words in backticks.
fn quoted(cell: &str) -> impl Iterator<Item = String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned)
}

/// The tables of a vendor's section by the enum that they map to.
fn documented(provider: Provider) -> Vec<(String, Meanings)> {
    let mut tables: Vec<(String, Meanings)> = Vec::new();
    for row in section(provider).lines().filter_map(|line| line.strip_prefix("| ")) {
        let cells: Vec<&str> = row.trim_end_matches('|').split('|').map(str::trim).collect();
        let meaning = quoted(cells[1]).next().expect("an enum or its value");
        let terminal = cells.get(2).is_some_and(|cell| *cell == "yes");
        // A heading has the enum's name in camel case; values are in capitals.
        if meaning.contains(char::is_lowercase) {
            tables.push((meaning, Meanings::new()));
            continue;
        }
        let (_, words) = tables.last_mut().expect("a heading before the first row");
        for word in quoted(cells[0]) {
            let before = words.insert(word, (meaning.clone(), terminal));
            assert_eq!(before, None, "a word stands in two rows");
        }
    }
    tables
}

#[test]
fn the_status_page_matches_the_vendor_facts() {
    for provider in Provider::all() {
        let facts: Vec<_> =
            facts(provider).iter().map(|table| (table.kind(), table.meanings())).collect();
        assert_eq!(documented(provider), facts, "{}", provider.word());
    }
}

/// The words in the code of a vendor's `Words` tables.
fn in_code(provider: Provider) -> Vec<BTreeSet<String>> {
    let vendor = provider.word();
    let files = sources("src");
    let module = files.iter().find(|file| file.module == ["providers", &vendor]);
    let code = module.expect("one module for each vendor").without_tests();
    let mut tables = Vec::new();
    for item in code.split("\nstatic ").skip(1) {
        let (item, _) = item.split_once(";\n").unwrap();
        let (declared, value) = item.split_once(" = ").unwrap();
        if declared.contains(": Words<") {
            let rows = value.split("(\"").skip(1);
            tables.push(rows.map(|row| row.split('"').next().unwrap().to_owned()).collect());
        }
    }
    tables
}

#[test]
fn the_status_page_lists_every_status_word_in_the_code() {
    for provider in Provider::all() {
        let tables = documented(provider).into_iter();
        let words: Vec<BTreeSet<String>> =
            tables.map(|(_, meanings)| meanings.into_keys().collect()).collect();
        assert_eq!(words, in_code(provider), "{}", provider.word());
    }
}

/// The fields that the page names are those of the vendors' answers.
#[test]
fn the_status_page_names_the_vendors_fields() {
    for provider in Provider::all() {
        for table in facts(provider) {
            let field = table.at.rsplit('/').next().unwrap();
            assert!(section(provider).contains(&format!("`{field}` |")), "{field}");
        }
    }
}
