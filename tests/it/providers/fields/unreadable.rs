//! An unreadable part of an answer costs as little as possible: an optional field or a line costs
//! itself, and only a required field costs the order.

use order_query::pb::Provider;
use serde::Deserialize;
use serde_json::json;

use super::super::bench::{outcome, unreadable};
use super::{Field, Fields, Kind, cut, order};
use crate::support::facts::{Vendor, put, vendors, with_member};

#[tokio::test]
async fn an_unreadable_optional_field_is_unset_alone() {
    for vendor in vendors() {
        for field in Fields::of(&vendor).field.into_iter().filter(|field| !field.must) {
            for raw in field.kind.unreadable() {
                field.check(&vendor, Some(raw), &field.unset(&vendor)).await;
            }
        }
    }
}

#[tokio::test]
async fn an_unreadable_required_field_fails_the_order() {
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
            let outcome = outcome(&vendor, cut(&body)).await;
            assert_eq!(outcome, unreadable(), "{} {raw}", vendor.provider.word());
        }
    }
}

/// A terminal order stays terminal, whatever the other fields.
#[tokio::test]
async fn no_unreadable_optional_field_changes_a_terminal_state() {
    let vendor = Vendor::of(Provider::Haoka);
    let fields = Fields::of(&vendor).field;
    let wrong = |field: &&Field| !field.must && field.is_mapped() && field.of == order();
    for raw in ["[]", "\"0001-01-01 00:00:00\"", "\"@CUT@\"", "{\"a\":[null]}"] {
        let mut answer = vendor.sample();
        put(&mut answer, "/data/orderStatus", Some(json!("已取消")));
        for field in fields.iter().filter(wrong) {
            let body = with_member(&answer, &field.at, Some(raw));
            let outcome = outcome(&vendor, cut(&body)).await;
            assert_eq!(outcome["terminal"], true, "{} {raw}: {outcome}", field.at);
            assert_eq!(outcome["status"], "ORDER_STATUS_CANCELED");
        }
    }
}

#[tokio::test]
async fn a_truncated_text_is_kept_up_to_the_cut() {
    for vendor in vendors() {
        for field in Fields::of(&vendor).field {
            if field.kind != Kind::Text || !field.is_mapped() {
                continue;
            }
            for raw in ["\"号@CUT@\"", "\"号\\ud83d\"", "\"号\\x0\"", "\"号@CUT@号\""] {
                let mut order = field.expected(&vendor);
                put(&mut order, &field.order[0], Some(json!("号")));
                field.check(&vendor, Some(raw), &order).await;
            }
            field.check(&vendor, Some("\"@CUT@\""), &field.unset(&vendor)).await;
            // All of these are readable.
            for (raw, text) in [("\"\\ud83d\\ude9a\"", "🚚"), ("\"a\nb\"", "a\nb")] {
                let mut order = field.expected(&vendor);
                put(&mut order, &field.order[0], Some(json!(text)));
                field.check(&vendor, Some(raw), &order).await;
            }
        }
    }
}

/// What databases and languages write for no time, in their assumed zone.
#[tokio::test]
async fn a_placeholder_time_is_unset() {
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
                // In any unit, these are no times of orders.
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

/// Whether the number is a placeholder in the field's unit: thousands of seconds may be a real time.
fn fits(field: &Field, raw: &str) -> bool {
    let is_in_milliseconds = ["/order/createTime", "/order/updateTime"].contains(&&*field.at);
    raw.ends_with("000\"") == is_in_milliseconds
}

/// JSON in fields that are not read.
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
async fn an_unknown_field_may_hold_anything() {
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
                let outcome = outcome(&vendor, cut(&body.replace(name, unknown))).await;
                let case = format!("{} {object}/{unknown} {raw:.60}", vendor.provider.word());
                assert_eq!(outcome, vendor.expected(), "{case}");
            }
        }
        let marked = [b"\xef\xbb\xbf", sample.to_string().as_bytes()].concat();
        assert_eq!(outcome(&vendor, marked).await, vendor.expected(), "a byte order mark");
    }
}

/// Most parsers use the last value; where it decides about the order, neither may be used.
#[tokio::test]
async fn a_duplicate_field_is_refused_where_it_decides() {
    for vendor in vendors() {
        for field in Fields::of(&vendor).field {
            let answer = field.answer(&vendor);
            let own = answer.pointer(&field.at).unwrap().to_string();
            let name = field.at.rsplit_once('/').unwrap().1;
            if name.parse::<u32>().is_ok() {
                continue;
            }
            // The value of the first member carries a second member of that name.
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
        assert_eq!(outcome(&vendor, body).await, unreadable(), "{}", vendor.provider.word());
    }
}

/// An unreadable line of an order is kept as an empty line.
#[tokio::test]
async fn an_unreadable_line_does_not_affect_the_others() {
    let vendor = Vendor::of(Provider::Dingshang);
    let line = vendor.sample().pointer("/data/records/0").unwrap().clone();
    let expected = vendor.expected().pointer("/items/0").unwrap().clone();
    for raw in ["7", "\"IS_SUCCESS\"", "[70,121,1,\"1.00\",\"IS_SUCCESS\",\"1\"]", "true", "NaN"] {
        let records = format!("[{raw},{line},null,\"\",[],{raw}]");
        let outcome =
            outcome(&vendor, with_member(&vendor.sample(), "/data/records", Some(&records))).await;
        assert_eq!(outcome["items"], json!([{}, expected, {}]), "{raw}");
        assert_eq!(outcome["status"], vendor.expected()["status"]);
    }
}

/// `unreadable.toml`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unreadable {
    /// Successful answers without an order.
    no_order: Vec<String>,
    /// Successful answers with another order.
    other_order: Vec<String>,
    /// Lists in place of objects.
    list: Vec<String>,
}

#[tokio::test]
async fn an_answer_without_the_requested_order_is_refused() {
    for vendor in vendors() {
        let Unreadable { no_order, other_order, list } = vendor.table("unreadable.toml");
        for body in no_order.into_iter().chain(other_order).chain(list) {
            let outcome = outcome(&vendor, body.clone()).await;
            assert_eq!(outcome, unreadable(), "{} {body}", vendor.provider.word());
        }
    }
}
