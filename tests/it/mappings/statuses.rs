//! HTTP statuses: what they mean where the answer does not say it better, and that a code of the
//! vendor's tables says it better.

use serde_json::{Value, json};

use super::bench::{Bench, ORDER_CALL, Vendor, unreadable, vendors};
use super::errors::Errors;
use crate::support::Reply;

/// The vendor's own clock in these tests, which is not ours: dates count from it.
const DATE: (&str, &str) = ("date", "Mon, 21 Sep 2026 10:00:00 GMT");

/// A status, the headers with it, and what it means: the gRPC code, the reason, and the wait.
type Row = (u16, &'static [(&'static str, &'static str)], [&'static str; 2], Option<u64>);

const ERROR: [&str; 2] = ["UNKNOWN", "PROVIDER_ERROR"];
const UNAVAILABLE: [&str; 2] = ["UNAVAILABLE", "PROVIDER_UNAVAILABLE"];
const TOO_MANY: [&str; 2] = ["RESOURCE_EXHAUSTED", "PROVIDER_QUOTA_EXHAUSTED"];

const ROWS: &[Row] = &[
    // A wrong `base_url` must not read as "no such order", and no redirect is followed.
    (400, &[], ERROR, None),
    (401, &[], ERROR, None),
    (403, &[], ERROR, None),
    (404, &[], ERROR, None),
    (410, &[], ERROR, None),
    (301, &[("location", "/elsewhere")], ERROR, None),
    (302, &[("location", "/elsewhere")], ERROR, None),
    (307, &[("location", "/elsewhere")], ERROR, None),
    (404, &[("retry-after", "30")], ERROR, None),
    (408, &[], UNAVAILABLE, Some(1)),
    (500, &[], UNAVAILABLE, Some(1)),
    (502, &[], UNAVAILABLE, Some(1)),
    (503, &[], UNAVAILABLE, Some(1)),
    (503, &[("retry-after", "30")], UNAVAILABLE, Some(30)),
    (503, &[("retry-after", "0")], UNAVAILABLE, Some(1)),
    (503, &[("retry-after", "99999")], UNAVAILABLE, Some(3600)),
    (503, &[DATE, ("retry-after", "Mon, 21 Sep 2026 10:00:45 GMT")], UNAVAILABLE, Some(45)),
    (429, &[], TOO_MANY, Some(60)),
    (429, &[("retry-after", "30")], TOO_MANY, Some(30)),
    (429, &[("retry-after", "0")], TOO_MANY, Some(1)),
    (429, &[("retry-after", "99999")], TOO_MANY, Some(3600)),
    (429, &[DATE, ("retry-after", "Mon, 21 Sep 2026 10:00:45 GMT")], TOO_MANY, Some(45)),
    // In the past, and far ahead.
    (429, &[DATE, ("retry-after", "Mon, 21 Sep 2026 09:59:00 GMT")], TOO_MANY, Some(1)),
    (429, &[DATE, ("retry-after", "Tue, 22 Sep 2026 10:00:00 GMT")], TOO_MANY, Some(3600)),
    // No wait at all.
    (429, &[("retry-after", "soon")], TOO_MANY, Some(60)),
    (429, &[("retry-after", "-5")], TOO_MANY, Some(60)),
];

/// What gateways send, and what a vendor's own code does not send: it says nothing.
const SILENT_BODIES: &[&str] = &[
    "",
    "<html><h1>Bad Gateway</h1></html>",
    "{}",
    "[]",
    "null",
    "\"no\"",
    "{\"status\":404}",
    "{",
];

fn failure([code, reason]: [&str; 2], retry: Option<u64>) -> Value {
    let mut failure = json!({ "code": code, "reason": reason });
    if let Some(retry) = retry {
        failure["retry_seconds"] = json!(retry);
    }
    failure
}

fn reply(status: u16, headers: &[(&'static str, &str)], body: impl Into<String>) -> Reply {
    let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned()));
    Reply { headers: headers.collect(), ..Reply::new(status, body.into()) }
}

/// What becomes of the question for the order when that call is answered so.
async fn outcome(vendor: &Vendor, call: &str, reply: Reply) -> Value {
    let bench = Bench::start(vendor).await;
    bench.scripted.replies_at(vendor.paths()[call], [reply]);
    let outcome = bench.ask(vendor.question()).await;
    let arrived = bench.scripted.arrived();
    assert!(arrived.iter().all(|call| call.uri.path() != "/elsewhere"), "a redirect was followed");
    outcome
}

#[tokio::test]
async fn a_status_counts_where_the_answer_says_nothing() {
    for vendor in vendors() {
        let whole = vendor.text("order.answer.json");
        for call in vendor.paths().into_keys() {
            for (status, headers, meaning, retry) in ROWS {
                for body in SILENT_BODIES.iter().copied().chain([whole.as_str()]) {
                    let outcome = outcome(&vendor, call, reply(*status, headers, body)).await;
                    let expected = json!({ "failure": failure(*meaning, *retry) });
                    let name = vendor.provider.word();
                    assert_eq!(outcome, expected, "{name} {call} {status} {headers:?} {body}");
                }
            }
        }
    }
}

#[tokio::test]
async fn an_unknown_code_is_told_along_with_the_status() {
    for vendor in vendors() {
        let errors = Errors::of(&vendor);
        for call in vendor.paths().into_keys() {
            for (status, headers, meaning, retry) in ROWS {
                let body = errors.body("77777", "busy");
                let outcome = outcome(&vendor, call, reply(*status, headers, body)).await;
                let mut expected = failure(*meaning, *retry);
                expected["provider_code"] = json!("77777");
                expected["provider_message"] = json!("busy");
                let name = vendor.provider.word();
                assert_eq!(outcome["failure"], expected, "{name} {call} {status} {headers:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_known_code_goes_before_any_status() {
    for vendor in vendors() {
        let errors = Errors::of(&vendor);
        let known = errors
            .error
            .iter()
            .filter(|group| group.expected(0, "")["failure"]["code"] != ERROR[0]);
        for group in known {
            let (code, text) = &group.rows[0];
            for call in &group.calls {
                for status in [400, 401, 403, 404, 429, 500, 503] {
                    let reply = reply(status, &[], errors.body(&code.to_string(), text));
                    let outcome = group.outcome(&vendor, call, reply).await;
                    let name = vendor.provider.word();
                    assert_eq!(outcome, group.expected(*code, text), "{name} {call} {status}");
                }
            }
        }
    }
}

#[tokio::test]
async fn silence_with_a_good_status_cannot_be_read() {
    for vendor in vendors() {
        for call in vendor.paths().into_keys() {
            for body in SILENT_BODIES {
                let outcome = outcome(&vendor, call, reply(200, &[], *body)).await;
                assert_eq!(outcome, unreadable(), "{} {call} {body}", vendor.provider.word());
            }
        }
    }
}

/// A large answer is not read to its end, and one that breaks off is no answer.
#[tokio::test]
async fn an_answer_has_a_largest_size() {
    const LIMIT: usize = 256 * 1024;
    for vendor in vendors() {
        let sample = vendor.text("order.answer.json");
        let padded = |size: usize| format!("{sample}{}", " ".repeat(size - sample.len()));
        for (size, expected) in [(LIMIT, vendor.expected()), (LIMIT + 1, unreadable())] {
            let outcome = outcome(&vendor, ORDER_CALL, reply(200, &[], padded(size))).await;
            assert_eq!(outcome, expected, "{} {size}", vendor.provider.word());
        }
    }
}
