//! The vendors' fields one by one: told, not told, told in other letters, told wrongly. The cases are
//! made from the documented answers.

use serde::Deserialize;
use serde_json::{Value, json};

use super::bench::{Bench, Vendor, put, unreadable, vendors, with_member};
use order_query::pb::Provider;

/// `fields.toml`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fields {
    pub(super) field: Vec<Field>,
    /// What must be told: without these there is no order.
    required: Vec<String>,
}

/// An optional field.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Field {
    /// Which documented answer has it: `order` where it is not said.
    #[serde(default = "order")]
    pub(super) of: String,
    /// Where it stands in the answer.
    pub(super) at: String,
    pub(super) kind: Kind,
    /// What is unset in the order where it is not told.
    pub(super) order: Vec<String>,
    /// What stands there instead.
    becomes: Option<Value>,
    /// Whether the answer cannot be read without it: the status, an id, the order's own money, and
    /// what says whether it is a success.
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

    /// What stands where it is not told.
    fn none(self) -> &'static [&'static str] {
        match self {
            Self::Object => &["null", "\"\"", "[]", "[ ]", "{}", "{\n}", "false", "0"],
            Self::List => {
                &["null", "\"\"", "[]", "[\n]", "{}", "{ }", "false", "0", "[null]", "[\"\",[],0]"]
            }
            _ => &["null", "\"\""],
        }
    }

    /// Texts with a character that was cut, and words that JSON does not have.
    fn broken(self) -> &'static [&'static str] {
        match self {
            // The one is kept up to the cut, the others are no texts in any case.
            Self::Text | Self::Object | Self::List => &[],
            Self::CivilTime => &["\"2023-04-12 16:59:54@CUT@\"", "NaN"],
            Self::Day => &["\"2024-04-26@CUT@\"", "NaN"],
            _ => &["\"1@CUT@\"", "\"1\\ud83d\"", "\"@CUT@1\"", "NaN", "-Infinity"],
        }
    }

    /// All that cannot be read.
    fn unreadable(self) -> impl Iterator<Item = &'static str> {
        let kinds = [self.wrong_types(), self.malformed(), self.broken()];
        kinds.into_iter().flatten().copied()
    }

    /// JSON of the right type that cannot be understood.
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

    /// The order that this answer becomes.
    pub(super) fn expected(&self, vendor: &Vendor) -> Value {
        vendor.json(&format!("{}.expected.json", self.of))
    }

    /// The same without this field.
    fn untold(&self, vendor: &Vendor) -> Value {
        let mut order = self.expected(vendor);
        for place in &self.order {
            put(&mut order, place, self.becomes.clone());
        }
        order
    }

    /// The same where it cannot be read: not even a zero that is left out can be told then.
    fn unset(&self, vendor: &Vendor) -> Value {
        let mut order = self.expected(vendor);
        for place in &self.order {
            put(&mut order, place, None);
        }
        order
    }

    /// Whether it tells anything of the order.
    pub(super) fn is_told(&self) -> bool {
        !self.order.is_empty()
    }

    async fn check(&self, vendor: &Vendor, raw: Option<&str>, expected: &Value) {
        let outcome = vendor.outcome(cut(&with_member(&self.answer(vendor), &self.at, raw))).await;
        let Self { of, at, .. } = self;
        assert_eq!(outcome, *expected, "{} {of} {at} {raw:?}", vendor.provider.word());
    }
}

/// The bytes of a text, with two bytes of a character of three in the place of `@CUT@`.
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
async fn what_is_not_told_is_unset() {
    for vendor in vendors() {
        for field in Fields::of(&vendor).field {
            for raw in field.kind.none().iter().copied().map(Some).chain([None]) {
                field.check(&vendor, raw, &field.untold(&vendor)).await;
            }
        }
    }
}

#[tokio::test]
async fn numbers_and_texts_are_taken_for_each_other() {
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
async fn yes_and_no_are_numbers_texts_or_booleans() {
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

/// Some writers know no whole numbers.
#[tokio::test]
async fn a_whole_number_may_be_written_with_a_point() {
    for vendor in vendors() {
        for field in Fields::of(&vendor).field {
            // Of a word the letters are told as well: they are in `words.toml`. An amount has places.
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
            assert_eq!(vendor.outcome(body).await, vendor.expected(), "{raw}");
        }
    }
}

#[tokio::test]
async fn a_side_field_that_cannot_be_read_costs_itself_alone() {
    for vendor in vendors() {
        for field in Fields::of(&vendor).field.into_iter().filter(|field| !field.must) {
            for raw in field.kind.unreadable() {
                field.check(&vendor, Some(raw), &field.unset(&vendor)).await;
            }
        }
    }
}

#[tokio::test]
async fn what_an_order_cannot_do_without_is_refused() {
    for vendor in vendors() {
        let mut seen = 0;
        for field in Fields::of(&vendor).field.into_iter().filter(|field| field.must) {
            seen += 1;
            for raw in field.kind.unreadable() {
                field.check(&vendor, Some(raw), &unreadable()).await;
            }
        }
        assert!(seen >= 2, "{}", vendor.provider.word());
        for raw in ["{}", "[]", "\"@CUT@\"", "\"1\\ud83d\"", "NaN"] {
            let body = with_member(&vendor.sample(), &vendor.sheet.id_at, Some(raw));
            let outcome = vendor.outcome(cut(&body)).await;
            assert_eq!(outcome, unreadable(), "{} {raw}", vendor.provider.word());
        }
    }
}

/// A terminal order stays one, whatever stands beside its status.
#[tokio::test]
async fn no_side_field_costs_an_order_its_end() {
    let vendor = Vendor::of(Provider::Haoka);
    let fields = Fields::of(&vendor).field;
    let wrong = |field: &&Field| !field.must && field.is_told() && field.of == order();
    for raw in ["[]", "\"0001-01-01 00:00:00\"", "\"@CUT@\"", "{\"a\":[null]}"] {
        let mut answer = vendor.sample();
        put(&mut answer, "/data/orderStatus", Some(json!("已取消")));
        for field in fields.iter().filter(wrong) {
            let body = with_member(&answer, &field.at, Some(raw));
            let outcome = vendor.outcome(cut(&body)).await;
            assert_eq!(outcome["terminal"], true, "{} {raw}: {outcome}", field.at);
            assert_eq!(outcome["status"], "ORDER_STATUS_CANCELED");
        }
    }
}

#[tokio::test]
async fn a_text_that_was_cut_is_kept_up_to_the_cut() {
    for vendor in vendors() {
        for field in Fields::of(&vendor).field {
            if field.kind != Kind::Text || !field.is_told() {
                continue;
            }
            for raw in ["\"号@CUT@\"", "\"号\\ud83d\"", "\"号\\x0\"", "\"号@CUT@号\""] {
                let mut order = field.expected(&vendor);
                put(&mut order, &field.order[0], Some(json!("号")));
                field.check(&vendor, Some(raw), &order).await;
            }
            field.check(&vendor, Some("\"@CUT@\""), &field.unset(&vendor)).await;
            // All of these can be read.
            for (raw, text) in [("\"\\ud83d\\ude9a\"", "🚚"), ("\"a\nb\"", "a\nb")] {
                let mut order = field.expected(&vendor);
                put(&mut order, &field.order[0], Some(json!(text)));
                field.check(&vendor, Some(raw), &order).await;
            }
        }
    }
}

/// What databases and languages write where no time is, in the zone that they think they are in.
#[tokio::test]
async fn a_time_that_stands_for_none_is_unset() {
    let dates = [
        "0000-00-00",
        "0001-01-01",
        "0000-12-31",
        "1753-01-01",
        "1752-12-31",
        "1899-12-30",
        "1899-12-31",
        "1900-01-01",
        "1970-01-01",
    ];
    let times = ["00:00:00", "08:00:00", "08:05:43", "15:54:17", "16:00:00"];
    let of_dates = dates.iter().flat_map(|date| times.map(|time| format!("\"{date} {time}\"")));
    let of_dates: Vec<_> = of_dates.chain(["\"0001-01-01T00:00:00\"".to_owned()]).collect();
    let seconds = [0, -1, 28_800, -28_800, -62_135_596_800_i64, -6_847_804_800, -2_208_988_800];
    let mut seen = Vec::new();
    for vendor in vendors() {
        for field in Fields::of(&vendor).field {
            let none: Vec<String> = match field.kind {
                Kind::CivilTime => of_dates.clone(),
                Kind::Day => {
                    dates.iter().map(|date| format!("\"{date}\"")).chain(of_dates.clone()).collect()
                }
                // Whatever the unit is, these are no times of orders.
                Kind::Time => {
                    seconds.iter().flat_map(|s| [s.to_string(), format!("\"{s}000\"")]).collect()
                }
                _ => continue,
            };
            seen.push(vendor.provider);
            for raw in none.iter().filter(|raw| field.kind != Kind::Time || fits(&field, raw)) {
                field.check(&vendor, Some(raw), &field.unset(&vendor)).await;
            }
        }
    }
    assert!(Provider::all().all(|provider| seen.contains(&provider)), "{seen:?}");
}

/// Whether such a number of units is a time of none: thousands of seconds may be another time.
fn fits(field: &Field, raw: &str) -> bool {
    let is_in_milliseconds = ["/order/createTime", "/order/updateTime"].contains(&&*field.at);
    raw.ends_with("000\"") == is_in_milliseconds
}

/// JSON that no reader of ours asks for.
const UNKNOWN: &[&str] = &[
    "\"@CUT@\"",
    "\"田@CUT@\\ud83d\\ude9a\\udd00\"",
    "\"\\x\\u12\\'\n\t\u{0}\"",
    "{\"@CUT@\":[\"@CUT@\",{\"\\ud83d\":1}]}",
    "1e999999",
    "-0.00000000000000000000000000000000000000000000000000000001E-99999",
    "123456789012345678901234567890123456789012345678901234567890",
    "NaN",
    "[Infinity,-Infinity,undefined]",
    "{\"a\":1,\"a\":[2],\"\":null}",
];

#[tokio::test]
async fn an_unknown_field_can_hold_anything() {
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let deep_objects = format!("{}1{}", "{\"a\":".repeat(9_000), "}".repeat(9_000));
    for vendor in vendors() {
        let sample = vendor.sample();
        let mut objects = vec![String::new()];
        objects.extend(vendor.sheet.id_at.rsplit_once('/').map(|(order, _)| order.to_owned()));
        for field in Fields::of(&vendor).field {
            let parent = field.at.rsplit_once('/').unwrap().0.to_owned();
            if field.of == order() && !objects.contains(&parent) {
                objects.push(parent);
            }
        }
        let names = ["0", "zz", "号", "\\ud83d", "@CUT@", "CODE", "OrderStatus"];
        let raws = UNKNOWN.iter().copied().chain([&*deep, &*deep_objects]);
        let cases: Vec<_> =
            raws.map(|raw| ("zz", raw)).chain(names.map(|name| (name, UNKNOWN[0]))).collect();
        for object in objects {
            for (unknown, raw) in &cases {
                let name = "@NAME@";
                let body = with_member(&sample, &format!("{object}/{name}"), Some(raw));
                let outcome = vendor.outcome(cut(&body.replace(name, unknown))).await;
                let case = format!("{} {object}/{unknown} {raw:.60}", vendor.provider.word());
                assert_eq!(outcome, vendor.expected(), "{case}");
            }
        }
        let marked = [b"\xef\xbb\xbf", sample.to_string().as_bytes()].concat();
        assert_eq!(vendor.outcome(marked).await, vendor.expected(), "a byte order mark");
    }
}

/// Most readers take the last; where it decides over the order, none may be taken.
#[tokio::test]
async fn a_field_that_is_there_twice() {
    for vendor in vendors() {
        for field in Fields::of(&vendor).field {
            let answer = field.answer(&vendor);
            let own = answer.pointer(&field.at).unwrap().to_string();
            let name = field.at.rsplit_once('/').unwrap().1;
            if name.parse::<u32>().is_ok() {
                continue;
            }
            // A second member of that name goes in with the value of the first one.
            let twice = |first: &str, last: &str| format!("{first},\"{name}\":{last}");
            let expected = field.expected(&vendor);
            field.check(&vendor, Some(&twice(&own, &own)), &expected).await;
            let expected = if field.must { unreadable() } else { expected };
            field.check(&vendor, Some(&twice("[\"@CUT@\"]", &own)), &expected).await;
        }
        let id = json!(vendor.sheet.id).to_string();
        let name = vendor.sheet.id_at.rsplit_once('/').unwrap().1;
        let body = with_member(
            &vendor.sample(),
            &vendor.sheet.id_at,
            Some(&format!("\"9\",\"{name}\":{id}")),
        );
        assert_eq!(vendor.outcome(body).await, unreadable(), "{}", vendor.provider.word());
    }
}

/// A line of an order that cannot be read is still a line, of which nothing is known.
#[tokio::test]
async fn an_unreadable_line_loses_no_other() {
    let vendor = Vendor::of(Provider::Dingshang);
    let line = vendor.sample().pointer("/data/records/0").unwrap().clone();
    let expected = vendor.expected().pointer("/items/0").unwrap().clone();
    for raw in ["7", "\"IS_SUCCESS\"", "[70,121,1,\"1.00\",\"IS_SUCCESS\",\"1\"]", "true", "NaN"] {
        let records = format!("[{raw},{line},null,\"\",[],{raw}]");
        let outcome =
            vendor.outcome(with_member(&vendor.sample(), "/data/records", Some(&records))).await;
        assert_eq!(outcome["items"], json!([{}, expected, {}]), "{raw}");
        assert_eq!(outcome["status"], vendor.expected()["status"]);
    }
}

/// Every member of the documented answer is either optional or required, so that none is left
/// untested. Of a list, the first element stands for all.
#[test]
fn every_member_of_the_sample_has_its_row() {
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

/// `unreadable.toml`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unreadable {
    /// Successes that hold no order.
    no_order: Vec<String>,
    /// Successes that hold another order.
    other_order: Vec<String>,
    /// Lists in the place of objects.
    list: Vec<String>,
}

#[tokio::test]
async fn an_answer_without_the_order_is_refused() {
    for vendor in vendors() {
        let Unreadable { no_order, other_order, list } = vendor.table("unreadable.toml");
        for body in no_order.into_iter().chain(other_order).chain(list) {
            let outcome = vendor.outcome(body.clone()).await;
            assert_eq!(outcome, unreadable(), "{} {body}", vendor.provider.word());
        }
    }
}

/// The last place of an amount is the currency's, which the account may set.
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
