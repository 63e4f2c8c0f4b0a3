//! Unreadable fields: the real binary counts each by its name, and logs each once.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::fields::{Field, Fields, Kind};
use crate::support::Scripted;
use crate::support::child::Serving;
use crate::support::facts::{Vendor, put, vendors};
use crate::support::scrape::{page, value};

/// A field's name in metrics and logs: `data.records.price`.
fn name(field: &Field) -> String {
    let parts =
        field.at.split('/').filter(|part| part.parse::<usize>().is_err() && !part.is_empty());
    parts.collect::<Vec<_>>().join(".")
}

fn series(vendor: &Vendor, field: &Field) -> String {
    let (field, provider) = (name(field), vendor.provider.word());
    format!("order_query_unreadable_fields_total{{field=\"{field}\",provider=\"{provider}\"}}")
}

fn is_outer(field: &Field) -> bool {
    matches!(field.kind, Kind::Object | Kind::List)
}

/// The documented answer with all of these fields unreadable.
fn answer(vendor: &Vendor, fields: &[&Field]) -> String {
    let mut answer = vendor.sample();
    for field in fields {
        let wrong = if is_outer(field) { json!("no") } else { json!(["13095540000"]) };
        // Adds a field that the sample does not have.
        put(&mut answer, &field.at, Some(wrong));
    }
    answer.to_string()
}

async fn serving(vendors: &[Vendor]) -> (Serving, Vec<Scripted>) {
    let mut config = String::new();
    let mut scripted = Vec::new();
    for vendor in vendors {
        let at = Scripted::start().await;
        let word = vendor.provider.word();
        let url = format!("http://{}", at.address);
        let mut account = vendor.sheet.account.clone();
        account.extend([("provider".to_owned(), word.clone()), ("base_url".to_owned(), url)]);
        let lines = account.iter().map(|(key, value)| format!("{key} = {value:?}\n"));
        config.extend([format!("[accounts.{word}]\n")].into_iter().chain(lines));
        for call in vendor.sheet.calls.values() {
            at.answers_at(&call.path, 200, call.answer.clone());
        }
        scripted.push(at);
    }
    (Serving::start(&config), scripted)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_field_is_counted_by_name_and_logged_once() {
    let vendors = vendors();
    let (server, scripted) = serving(&vendors).await;
    let start = page(&server).await;
    let mut expected = BTreeMap::new();
    for (vendor, scripted) in vendors.iter().zip(&scripted) {
        let fields = Fields::of(vendor).field;
        let sides: Vec<&Field> =
            fields.iter().filter(|field| !field.must && field.is_mapped()).collect();
        let (outer, inner): (Vec<_>, Vec<_>) = sides.iter().partition(|field| is_outer(field));
        for fields in [&inner, &inner, &outer] {
            scripted.answers(200, answer(vendor, fields));
            let mut arguments = vec![vendor.provider.word(), vendor.sheet.id.clone()];
            arguments.extend(["--max-age", "0s", "--json"].map(str::to_owned));
            if !vendor.sheet.machine_no.is_empty() {
                arguments.extend(["--machine-no".to_owned(), vendor.sheet.machine_no.clone()]);
            }
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let ended = server.get(&arguments);
            assert_eq!(ended.code, Some(0), "{}", ended.err);
            let order: Value = serde_json::from_str(&ended.out).unwrap();
            assert_eq!(order["order"]["status"], vendor.expected()["status"], "{order}");
        }
        for field in sides {
            let series = series(vendor, field);
            assert_eq!(value(&start, &series), Some(0.0), "{series}");
            let times = if is_outer(field) { 1.0 } else { 2.0 };
            expected.insert(series, times);
        }
    }
    let told = page(&server).await;
    let counted: BTreeMap<_, _> = told
        .lines()
        .filter(|line| line.starts_with("order_query_unreadable_fields_total{"))
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(series, value)| (series.to_owned(), value.parse::<f64>().unwrap()))
        .collect();
    assert_eq!(counted, expected);

    let ended = server.stop();
    let lines = ended.err.lines().filter(|line| line.contains("a vendor's field cannot be read"));
    let mut logged: Vec<_> = lines
        .map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            assert_eq!(line["level"], "WARN");
            assert!(line["expected"].is_string(), "{line}");
            line["field"].as_str().unwrap().to_owned()
        })
        .collect();
    logged.sort();
    let mut names: Vec<_> = expected
        .keys()
        .map(|series| {
            let [_, field, _, provider, _] = series.split('"').collect::<Vec<_>>()[..] else {
                panic!("{series}")
            };
            format!("{provider} {field}")
        })
        .collect();
    names.sort();
    assert_eq!(logged, names);
    // Not the field's content.
    assert!(!ended.err.contains("13095540000"), "{}", ended.err);
}
