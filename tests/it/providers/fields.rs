//! The vendors' fields one by one: present, absent, in another spelling, malformed. The cases are
//! derived from the documented answers.

mod unreadable;

use serde::Deserialize;
use serde_json::{Value, json};

use super::bench::{Bench, outcome, unreadable};
use crate::support::facts::{Vendor, put, vendors, with_member};
use order_query::pb::Provider;

/// `fields.toml`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fields {
    pub(super) field: Vec<Field>,
    /// Required fields: without these there is no order.
    required: Vec<String>,
}

/// An optional field.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Field {
    /// Which documented answer has it; `order` by default.
    #[serde(default = "order")]
    pub(super) of: String,
    /// Its path in the answer.
    pub(super) at: String,
    pub(super) kind: Kind,
    /// What is unset in the order where it is absent.
    pub(super) order: Vec<String>,
    /// The value instead.
    becomes: Option<Value>,
    /// Whether the answer is unreadable without it: the status, an id, the order's own money, and
    /// what marks a success.
    #[serde(default)]
    pub(super) must: bool,
}

fn order() -> String {
    "order".to_owned()
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// For people.
    Text,
    Id,
    /// For a state.
    Word,
    /// The number of the order, masked.
    Masked,
    /// Whether it is a success.
    Code,
    Integer,
    Amount,
    Time,
    CivilTime,
    Day,
    Flag,
    Object,
    List,
}

const NO_AMOUNTS: &[&str] = &[
    "\"x\"",
    "\"1.005\"",
    "1.005",
    "1e2",
    "\"1e2\"",
    "\"1,00\"",
    "\"1,000.00\"",
    "\"¥3.00\"",
    "\" 3.00\"",
    "\"+3.00\"",
    "\"3.\"",
    "\".5\"",
    "\"-\"",
    "\"--1\"",
    "\"1.0.0\"",
    "\"３.00\"",
    "true",
    "\"92233720368547758.08\"",
    "1e400",
];

impl Kind {
    /// JSON of a type that it never has.
    fn wrong_types(self) -> &'static [&'static str] {
        match self {
            Self::Object => &["[1]", "[{}]", "[null]", "\"text\"", "\" \"", "7", "true", "NaN"],
            Self::List => &["{\"0\":{}}", "\"text\"", "7", "true", "NaN"],
            _ => &["{}", "[]", "{\"a\":1}", "[1]", "[\"\"]"],
        }
    }

    /// The values that mean absent.
    fn none(self) -> &'static [&'static str] {
        match self {
            Self::Object => &["null", "\"\"", "[]", "[ ]", "{}", "{\n}", "false", "0"],
            Self::List => {
                &["null", "\"\"", "[]", "[\n]", "{}", "{ }", "false", "0", "[null]", "[\"\",[],0]"]
            }
            _ => &["null", "\"\""],
        }
    }

    /// Texts with a truncated character, and words that JSON does not have.
    fn broken(self) -> &'static [&'static str] {
        match self {
            // The first is kept up to the cut, the others are not strings anyway.
            Self::Text | Self::Object | Self::List => &[],
            Self::CivilTime => &["\"2023-04-12 16:59:54@CUT@\"", "NaN"],
            Self::Day => &["\"2024-04-26@CUT@\"", "NaN"],
            _ => &["\"1@CUT@\"", "\"1\\ud83d\"", "\"@CUT@1\"", "NaN", "-Infinity"],
        }
    }

    /// All unreadable values.
    fn unreadable(self) -> impl Iterator<Item = &'static str> {
        let kinds = [self.wrong_types(), self.malformed(), self.broken()];
        kinds.into_iter().flatten().copied()
    }

    /// JSON of the right type with an invalid value.
    fn malformed(self) -> &'static [&'static str] {
        match self {
            Self::Text
            | Self::Id
            | Self::Word
            | Self::Masked
            | Self::Code
            | Self::Object
            | Self::List => &[],
            Self::Integer => &[
                "\"x\"",
                "1.5",
                "1e3",
                "\"1e3\"",
                "\" 1\"",
                "\"+1\"",
                "\"１\"",
                "true",
                "9223372036854775808",
                "-9223372036854775809",
                "\"0x10\"",
            ],
            Self::Amount => NO_AMOUNTS,
            Self::Time => &["\"x\"", "1.5", "\"2023-06-20\"", "9223372036854775807", "true"],
            Self::CivilTime => &[
                "\"2023-02-30 00:00:00\"",
                "\"2023-04-12T16:59:54\"",
                "\"2023-04-12T16:59:54Z\"",
                "\"2023-04-12 16:59:54 \"",
                "\"2023-04-12 24:00:00\"",
                "\"2023-04-12\"",
                "\"2023/04/12 16:59:54\"",
                "1681290000",
                "0",
            ],
            Self::Day => &[
                "\"2024-13-01\"",
                "\"2023-02-29\"",
                "\"2024-4-26\"",
                "\"2024-04-26 00:00:00\"",
                "\"26.04.2024\"",
                "20240426",
            ],
            Self::Flag => &["\"2\"", "2", "-1", "\"yes\"", "\"TRUE\"", "1.5", "True"],
        }
    }
}

impl Field {
    /// The answer that has the field.
    pub(super) fn answer(&self, vendor: &Vendor) -> Value {
        vendor.json(&format!("{}.answer.json", self.of))
    }

    /// The order that this answer maps to.
    pub(super) fn expected(&self, vendor: &Vendor) -> Value {
        vendor.json(&format!("{}.expected.json", self.of))
    }

    /// The same without this field.
    fn absent(&self, vendor: &Vendor) -> Value {
        let mut order = self.expected(vendor);
        for place in &self.order {
            put(&mut order, place, self.becomes.clone());
        }
        order
    }

    /// The same where it is unreadable: then an omitted zero is unset as well.
    fn unset(&self, vendor: &Vendor) -> Value {
        let mut order = self.expected(vendor);
        for place in &self.order {
            put(&mut order, place, None);
        }
        order
    }

    /// Whether it maps to anything in the order.
    pub(super) fn is_mapped(&self) -> bool {
        !self.order.is_empty()
    }

    async fn check(&self, vendor: &Vendor, raw: Option<&str>, expected: &Value) {
        let outcome = outcome(vendor, cut(&with_member(&self.answer(vendor), &self.at, raw))).await;
        let Self { of, at, .. } = self;
        assert_eq!(outcome, *expected, "{} {of} {at} {raw:?}", vendor.provider.word());
    }
}

/// The bytes of a text, with two bytes of a three-byte character in place of `@CUT@`.
pub(super) fn cut(text: &str) -> Vec<u8> {
    let pieces: Vec<_> = text.split("@CUT@").map(str::as_bytes).collect();
    pieces.join(&b"\xe5\x8f"[..])
}

impl Fields {
    pub(super) fn of(vendor: &Vendor) -> Self {
        vendor.table("fields.toml")
    }
}

#[tokio::test]
async fn absent_fields_are_unset() {
    for vendor in vendors() {
        for field in Fields::of(&vendor).field {
            for raw in field.kind.none().iter().copied().map(Some).chain([None]) {
                field.check(&vendor, raw, &field.absent(&vendor)).await;
            }
        }
    }
}

#[tokio::test]
async fn numbers_and_strings_are_accepted_for_each_other() {
    for vendor in vendors() {
        for field in Fields::of(&vendor).field {
            let other = match field.answer(&vendor).pointer(&field.at).unwrap() {
                Value::Number(number) => format!("\"{number}\""),
                Value::String(text) if serde_json::from_str::<f64>(text).is_ok() => text.clone(),
                _ => continue,
            };
            field.check(&vendor, Some(&other), &field.expected(&vendor)).await;
        }
    }
}

#[tokio::test]
async fn flags_are_numbers_strings_or_booleans() {
    for vendor in vendors() {
        for field in Fields::of(&vendor).field {
            if field.kind != Kind::Flag {
                continue;
            }
            for (raw, meaning) in [
                ("1", true),
                ("\"1\"", true),
                ("true", true),
                ("\"true\"", true),
                ("0", false),
                ("\"0\"", false),
                ("false", false),
            ] {
                let mut order = field.expected(&vendor);
                put(&mut order, &field.order[0], Some(json!(meaning)));
                field.check(&vendor, Some(raw), &order).await;
            }
        }
    }
}

/// Some encoders have no integers.
#[tokio::test]
async fn a_whole_number_may_have_a_decimal_point() {
    for vendor in vendors() {
        for field in Fields::of(&vendor).field {
            // A word is also passed on verbatim: see `words.toml`. An amount has decimals.
            if matches!(field.kind, Kind::Word | Kind::Amount | Kind::Text) {
                continue;
            }
            let number = match field.answer(&vendor).pointer(&field.at).unwrap() {
                Value::Number(number) => number.to_string(),
                Value::String(text) if text.parse::<u64>().is_ok() => text.clone(),
                _ => continue,
            };
            for raw in [format!("{number}.0"), format!("\"{number}.0\""), format!("{number}.000")] {
                field.check(&vendor, Some(&raw), &field.expected(&vendor)).await;
            }
        }
        if vendor.sheet.id.parse::<u64>().is_ok() {
            let raw = format!("{}.0", vendor.sheet.id);
            let body = with_member(&vendor.sample(), &vendor.sheet.id_at, Some(&raw));
            assert_eq!(outcome(&vendor, body).await, vendor.expected(), "{raw}");
        }
    }
}

/// Every member of the documented answer is either optional or required, so that none is left
/// untested. Of a list, the first element stands for all.
#[test]
fn every_member_of_the_sample_has_a_row() {
    fn walk(json: &Value, at: &str, found: &mut Vec<String>) {
        let Value::Object(members) = json else {
            if let Value::Array(elements) = json {
                walk(&elements[0], &format!("{at}/0"), found);
            }
            return;
        };
        for (name, member) in members {
            let at = format!("{at}/{name}");
            walk(member, &at, found);
            found.push(at);
        }
    }
    for vendor in vendors() {
        let mut found = Vec::new();
        walk(&vendor.sample(), "", &mut found);
        let Fields { field, mut required } = Fields::of(&vendor);
        let of_order = field.into_iter().filter(|field| field.of == order());
        required.extend(of_order.map(|field| field.at));
        found.sort();
        required.sort();
        assert_eq!(found, required, "{}", vendor.provider.word());
    }
}

/// The decimals of an amount depend on the currency, which the account may set.
#[tokio::test]
async fn dingshang_amounts_are_in_the_accounts_currency() {
    let vendor = Vendor::of(Provider::Dingshang);
    for (currency, amount, minor_units) in [
        ("JPY", "\"300\"", Some("300")),
        ("JPY", "\"300.00\"", Some("300")),
        ("JPY", "\"3.5\"", None),
        ("KWD", "\"3.005\"", Some("3005")),
        ("KWD", "3.0055", None),
        ("EUR", "-0.01", Some("-1")),
    ] {
        let bench = Bench::start_with(&vendor, |account| {
            account.insert("currency".to_owned(), currency.to_owned());
        })
        .await;
        let body = with_member(&vendor.sample(), "/data/records", None);
        let body = serde_json::from_str(&body).unwrap();
        bench.scripted.answers(200, with_member(&body, "/data/amount", Some(amount)));
        let outcome = bench.finish(vendor.question()).await;
        match minor_units {
            Some(minor_units) => {
                let total = json!({ "currencyCode": currency, "minorUnits": minor_units });
                assert_eq!(outcome["total"], total, "{amount}");
            }
            None => assert_eq!(outcome, unreadable(), "{currency} {amount}"),
        }
    }
}
