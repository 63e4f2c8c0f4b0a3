//! The vendors' status words: every row of every table, and words in none.

use serde::Deserialize;
use serde_json::{Value, json};

use super::bench::outcome;
use crate::support::facts::{Vendor, put, vendors, with_member};

/// `words.toml`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Words {
    pub(super) table: Vec<Table>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    /// The path of the word in the answer.
    at: String,
    /// The path of its meaning in the order.
    name: String,
    /// The path of the word in the order.
    word: String,
    /// The prefix of the enum's values.
    prefix: String,
    words: Vec<(String, String)>,
    /// The words that the vendor documents as terminal.
    terminal: Vec<String>,
    /// Words that resemble known ones.
    unknown: Vec<String>,
}

impl Table {
    /// The documented order with that word in it.
    fn expected(&self, vendor: &Vendor, word: &str, meaning: &str) -> Value {
        let mut order = vendor.expected();
        let text = |text: String| Some(json!(text)).filter(|_| !word.is_empty());
        put(&mut order, &self.name, text(format!("{}{meaning}", self.prefix)));
        put(&mut order, &self.word, text(word.to_owned()));
        let terminal = self.terminal.iter().any(|last| last == word);
        put(&mut order, "/terminal", Some(json!(true)).filter(|_| terminal));
        order
    }

    async fn check(&self, vendor: &Vendor, raw: Option<&str>, word: &str, meaning: &str) {
        let outcome = outcome(vendor, with_member(&vendor.sample(), &self.at, raw)).await;
        let expected = self.expected(vendor, word, meaning);
        assert_eq!(outcome, expected, "{} {} {raw:?}", vendor.provider.word(), self.at);
    }
}

/// How a word can be written in JSON: a number as a string, too.
fn spellings(word: &str) -> Vec<String> {
    // The JSON parser skips white space around a number.
    let number = serde_json::from_str::<f64>(word).is_ok() && word.trim() == word;
    let spelled = json!(word).to_string();
    [spelled].into_iter().chain(number.then(|| word.to_owned())).collect()
}

fn tables() -> Vec<(Vendor, Vec<Table>)> {
    let of = |vendor: Vendor| {
        let Words { table } = vendor.table("words.toml");
        (vendor, table)
    };
    vendors().into_iter().map(of).collect()
}

#[tokio::test]
async fn every_known_word_maps_to_its_status() {
    for (vendor, tables) in tables() {
        for table in tables {
            for (word, meaning) in &table.words {
                for raw in spellings(word) {
                    table.check(&vendor, Some(&raw), word, meaning).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn every_unknown_word_is_passed_on_verbatim() {
    for (vendor, tables) in tables() {
        for table in tables {
            let known = &table.words[0].0;
            let odd = [
                format!(" {known}"),
                format!("{known}\n"),
                format!("{known}{known}"),
                "号".repeat(300),
                "🚚".to_owned(),
                "\u{0}\"\\\u{202e}".to_owned(),
                "null".to_owned(),
                " ".to_owned(),
            ];
            for word in odd.iter().chain(&table.unknown) {
                for raw in spellings(word) {
                    table.check(&vendor, Some(&raw), word, "OTHER").await;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_missing_word_is_an_unspecified_status() {
    for (vendor, tables) in tables() {
        for table in tables {
            for raw in [None, Some("null"), Some("\"\"")] {
                table.check(&vendor, raw, "", "UNSPECIFIED").await;
            }
        }
    }
}

#[test]
fn every_terminal_word_is_known() {
    for (_, tables) in tables() {
        for table in tables {
            for word in &table.terminal {
                assert!(table.words.iter().any(|(known, _)| known == word), "{word}");
            }
        }
    }
}
