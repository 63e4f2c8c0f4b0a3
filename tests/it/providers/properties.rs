//! Whatever a vendor answers, the server survives, and returns either an order or one of the reasons
//! that a vendor's answer can lead to; and an amount is exact or refused.

use std::collections::BTreeSet;
use std::time::Duration;

use order_query::pb::Provider;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::bench::Bench;
use super::fields::{Field, Fields, Kind};
use crate::support::facts::{ORDER_CALL, Vendor, put, vendors, with_member};

/// How many cases each property has, for each vendor and call.
const CASES: u32 = 256;

/// The reasons that a vendor's answer can lead to. `INTERNAL` would be a panic.
const REASONS: &[&str] = &[
    "INVALID_REQUEST",
    "ORDER_NOT_FOUND",
    "ORDER_EXPIRED",
    "PROVIDER_QUOTA_EXHAUSTED",
    "PROVIDER_UNAVAILABLE",
    "PROVIDER_CREDENTIALS_REJECTED",
    "PROVIDER_RESPONSE_INVALID",
    "PROVIDER_ERROR",
];

/// Longer than any limit, wait or token lasts, so that no case affects the next.
const BETWEEN_CASES: Duration = Duration::from_hours(25);

/// Runs a property on one server for all cases.
fn check<S: Strategy>(
    vendor: &Vendor,
    answers: &S,
    property: impl Fn(&Runtime, &Bench<'_>, S::Value) -> Result<(), TestCaseError>,
) where
    S::Value: Clone + std::fmt::Debug,
{
    let runtime = Runtime::new().unwrap();
    let bench = runtime.block_on(Bench::start(vendor));
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(answers, |answer| {
        bench.clock.advance(BETWEEN_CASES);
        property(&runtime, &bench, answer)
    });
    let name = vendor.provider.word();
    result.unwrap_or_else(|error| panic!("{name}: {error}"));

    // Afterwards the same server still reads a valid answer.
    bench.clock.advance(BETWEEN_CASES);
    bench.reset();
    let mut order = runtime.block_on(bench.ask(vendor.question()));
    let mut expected = vendor.expected();
    for order in [&mut order, &mut expected] {
        put(order, "/observeTime", None);
    }
    assert_eq!(order, expected, "{name}");
}

/// The outcome of such an answer to that call, checked to be a permitted one.
fn outcome(
    runtime: &Runtime,
    bench: &Bench<'_>,
    call: &str,
    status: u16,
    body: Vec<u8>,
) -> Result<Value, TestCaseError> {
    let vendor = bench.vendor;
    bench.reset();
    bench.scripted.answers_at(vendor.paths()[call], status, body);
    let outcome = runtime.block_on(bench.ask(vendor.question()));
    if let Some(reason) = outcome["failure"]["reason"].as_str() {
        prop_assert!(REASONS.contains(&reason), "{}", outcome);
    } else {
        prop_assert_eq!(&outcome["id"], &json!(vendor.sheet.id));
    }
    Ok(outcome)
}

/// A property of every answer to every call.
fn every_call<S: Strategy<Value = (u16, Vec<u8>)>>(answers: impl Fn(&Vendor, &str) -> S) {
    for vendor in vendors() {
        for call in vendor.paths().into_keys() {
            check(&vendor, &answers(&vendor, call), |runtime, bench, (status, body)| {
                outcome(runtime, bench, call, status, body).map(drop)
            });
        }
    }
}

fn any_status() -> impl Strategy<Value = u16> {
    prop_oneof![8 => Just(200), 2 => prop::sample::select(vec![201, 302, 400, 401, 404, 429, 500, 503])]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        "[0-9:. -]{0,20}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        let names = prop_oneof![
            "[a-zA-Z_]{0,10}",
            prop::sample::select(vec!["code", "errcode", "message", "errs", "data", "order"])
                .prop_map(str::to_owned),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(names, inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// The documented answer to a call.
fn sample(vendor: &Vendor, call: &str) -> Value {
    match vendor.sheet.calls.get(call) {
        Some(call) => serde_json::from_str(&call.answer).unwrap(),
        None => vendor.sample(),
    }
}

/// Where the members and elements of the JSON are.
fn places(json: &Value, at: &str, found: &mut BTreeSet<String>) {
    let children: Vec<(String, &Value)> = match json {
        Value::Object(members) => {
            members.iter().map(|(name, child)| (name.clone(), child)).collect()
        }
        Value::Array(elements) => {
            elements.iter().enumerate().map(|(i, child)| (i.to_string(), child)).collect()
        }
        _ => Vec::new(),
    };
    for (name, child) in children {
        let at = format!("{at}/{name}");
        places(child, &at, found);
        found.insert(at);
    }
}

#[test]
fn any_bytes_are_handled() {
    every_call(|_, _| (any_status(), prop::collection::vec(any::<u8>(), 0..400)));
}

#[test]
fn any_json_is_handled() {
    every_call(|_, _| (any_status(), any_json().prop_map(|json| json.to_string().into_bytes())));
}

#[test]
fn a_truncated_or_garbled_sample_is_handled() {
    every_call(|vendor, call| {
        let whole = sample(vendor, call).to_string().into_bytes();
        let length = whole.len();
        let flips = prop::collection::vec((0..length, any::<u8>()), 0..4);
        (any_status(), 0..=length, flips).prop_map(move |(status, end, flips)| {
            let mut bytes = whole.clone();
            for (at, bits) in flips {
                bytes[at] ^= bits;
            }
            // Half of the cases are complete: a truncated one is seldom JSON.
            if end % 2 == 0 {
                bytes.truncate(end);
            }
            (status, bytes)
        })
    });
}

#[test]
fn a_sample_with_any_member_replaced_is_handled() {
    every_call(|vendor, call| {
        let whole = sample(vendor, call);
        let mut found = BTreeSet::new();
        places(&whole, "", &mut found);
        let found: Vec<_> = found.into_iter().collect();
        (any_status(), any::<Index>(), any_json()).prop_map(move |(status, place, json)| {
            let mut edited = whole.clone();
            put(&mut edited, &found[place.index(found.len())], Some(json));
            (status, edited.to_string().into_bytes())
        })
    });
}

/// Whatever an optional field holds, the status and whether it is terminal are unaffected.
#[test]
fn no_optional_field_changes_the_status() {
    for vendor in vendors() {
        // A terminal order is fetched once.
        let fits = |it: &Field| !it.must && it.of == "order";
        let sides: Vec<_> = Fields::of(&vendor).field.into_iter().filter(fits).collect();
        let answers = (any::<Index>(), any_json());
        check(&vendor, &answers, |runtime, bench, (place, json)| {
            let field = &sides[place.index(sides.len())];
            let mut body = field.answer(&vendor);
            put(&mut body, &field.at, Some(json));
            let body = body.to_string().into_bytes();
            let outcome = outcome(runtime, bench, ORDER_CALL, 200, body)?;
            let expected = field.expected(&vendor);
            for told in ["id", "status", "providerStatus", "terminal", "total"] {
                prop_assert_eq!(&outcome[told], &expected[told], "{} {}", &field.at, &outcome);
            }
            Ok(())
        });
    }
}

/// The value of a decimal text in units of its last allowed place, computed independently of the
/// program; none where it is not a number, or not representable.
fn minor_units(text: &str, digits: usize) -> Option<i64> {
    let (negative, magnitude) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = magnitude.split_once('.').unwrap_or((magnitude, "0"));
    let are_digits =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !are_digits(whole) || !are_digits(fraction) {
        return None;
    }
    let mut units: i128 = whole.parse().ok()?;
    for place in 0..digits {
        let digit = fraction.as_bytes().get(place).map_or(0, |byte| byte - b'0');
        units = units.checked_mul(10)?.checked_add(digit.into())?;
    }
    if fraction.bytes().skip(digits).any(|byte| byte != b'0') {
        return None;
    }
    i64::try_from(if negative { -units } else { units }).ok()
}

/// An amount's JSON, and the decimal text in it.
fn any_amount() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "-?[0-9]{1,3}(\\.[0-9]{1,3})?",
        4 => "-?[0-9]{15,21}(\\.[0-9]{0,4})?",
        1 => "[-+]?[0-9.,eE]{0,8}",
        1 => "\\PC{0,8}",
        2 => any::<i64>().prop_map(|units| units.to_string()),
        1 => any::<f64>().prop_map(|amount| amount.to_string()),
    ]
}

#[test]
fn an_amount_is_exact_or_refused() {
    let mut tried = Vec::new();
    for vendor in vendors() {
        for field in Fields::of(&vendor).field {
            let Some(total) = field.order.iter().find(|place| place.ends_with("/total")) else {
                continue;
            };
            let digits = match field.kind {
                Kind::Amount => 2,
                Kind::Integer => 0,
                // The total of a resource pack is not an amount of money.
                _ => continue,
            };
            let sample = field.answer(&vendor);
            tried.push((vendor.provider, field.at.clone()));
            check(&vendor, &any_amount(), |runtime, bench, text| {
                amount_is_exact(runtime, bench, &sample, &field, (total, digits), &text)
            });
        }
    }
    let of = |provider| tried.iter().any(|(tried, _)| *tried == provider);
    assert!(of(Provider::Wechat) && of(Provider::Dingshang), "{tried:?}");
}

fn amount_is_exact(
    runtime: &Runtime,
    bench: &Bench<'_>,
    sample: &Value,
    field: &Field,
    (total, digits): (&str, usize),
    text: &str,
) -> Result<(), TestCaseError> {
    let is_number = serde_json::from_str::<f64>(text).is_ok() && text.trim() == text;
    let spellings = [json!(text).to_string()];
    let said = minor_units(text, digits);
    for raw in spellings.into_iter().chain(is_number.then(|| text.to_owned())) {
        let body = with_member(sample, &field.at, Some(&raw)).into_bytes();
        let outcome = outcome(runtime, bench, ORDER_CALL, 200, body)?;
        // JSON omits a zero.
        let units = |total: &Value| total["minorUnits"].as_str().map_or("0".into(), str::to_owned);
        let told: Option<i64> = outcome.pointer(total).map(|total| units(total).parse().unwrap());
        match said {
            // The lowest number has no positive counterpart, and may be refused.
            Some(i64::MIN) if told.is_none() => {}
            said => prop_assert_eq!(told, said, "{} in {}", raw, outcome),
        }
        let refused = outcome["failure"]["reason"] == "PROVIDER_RESPONSE_INVALID";
        // The order's own amount, that is. An unreadable line costs nothing else.
        let is_untold = told.is_none() && !text.is_empty();
        prop_assert_eq!(refused, is_untold && field.must, "{}", outcome);
    }
    Ok(())
}
