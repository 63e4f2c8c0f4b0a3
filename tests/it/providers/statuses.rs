//! HTTP statuses: their meaning where the body has no code, and that a code in the vendor's tables
//! overrides it.

use std::time::Duration;

use order_query::pb::{GetOrderRequest, Provider};
use serde_json::{Value, json};

use super::bench::{Bench, unreadable};
use super::errors::Errors;
use crate::support::Reply;
use crate::support::facts::{ORDER_CALL, Vendor, vendors};

/// The vendor's clock in these tests, which differs from ours: HTTP dates are relative to it.
const DATE: (&str, &str) = ("date", "Mon, 21 Sep 2026 10:00:00 GMT");

/// A status, the headers with it, and what it means: the gRPC code, the reason, and the wait.
type Row = (u16, &'static [(&'static str, &'static str)], [&'static str; 2], Option<u64>);

const ERROR: [&str; 2] = ["UNKNOWN", "PROVIDER_ERROR"];
const UNAVAILABLE: [&str; 2] = ["UNAVAILABLE", "PROVIDER_UNAVAILABLE"];
const TOO_MANY: [&str; 2] = ["RESOURCE_EXHAUSTED", "PROVIDER_QUOTA_EXHAUSTED"];

const ROWS: &[Row] = &[
    // A wrong `base_url` must not look like "no such order", and no redirect is followed.
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
    // No wait.
    (429, &[("retry-after", "soon")], TOO_MANY, Some(60)),
    (429, &[("retry-after", "-5")], TOO_MANY, Some(60)),
];

/// Bodies that gateways send and the vendor's own code does not: they carry no code.
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

/// The outcome of the order request when that call is answered so.
async fn outcome(vendor: &Vendor, call: &str, reply: Reply) -> Value {
    let bench = Bench::start(vendor).await;
    bench.scripted.replies_at(vendor.paths()[call], [reply]);
    let outcome = bench.ask(vendor.question()).await;
    let arrived = bench.scripted.asked();
    assert!(arrived.iter().all(|call| call.uri.path() != "/elsewhere"), "a redirect was followed");
    outcome
}

#[tokio::test]
async fn the_http_status_decides_when_the_body_does_not() {
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
async fn an_unknown_code_is_reported_along_with_the_status() {
    for vendor in vendors() {
        let errors = Errors::of(&vendor);
        for call in vendor.paths().into_keys() {
            for (status, headers, meaning, retry) in ROWS {
                let body = errors.body("77777", "busy");
                let outcome = outcome(&vendor, call, reply(*status, headers, body)).await;
                // Unless the vendor's own table lists the status.
                if let Some(group) = errors.error.iter().find(|group| group.http == *status) {
                    assert_eq!(outcome, group.expected(77777, "busy"), "{status}");
                    continue;
                }
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
async fn a_known_code_overrides_any_status() {
    for vendor in vendors() {
        let errors = Errors::of(&vendor);
        // Where the table lists a status, the code does not count.
        let known = errors
            .error
            .iter()
            .filter(|group| group.http == 200)
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
async fn an_empty_answer_with_status_200_is_unreadable() {
    for vendor in vendors() {
        for call in vendor.paths().into_keys() {
            for body in SILENT_BODIES {
                let outcome = outcome(&vendor, call, reply(200, &[], *body)).await;
                assert_eq!(outcome, unreadable(), "{} {call} {body}", vendor.provider.word());
            }
        }
    }
}

/// A large answer is not read to its end, and a truncated one is no answer.
#[tokio::test]
async fn an_answer_has_a_maximum_size() {
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

/// Too many lines would take many times their bytes in memory; such an answer is dropped.
#[tokio::test]
async fn an_order_has_at_most_1000_lines() {
    let vendors = vendors();
    let vendor = vendors.iter().find(|vendor| vendor.provider == Provider::Dingshang).unwrap();
    let sample: Value = serde_json::from_str(&vendor.text("order.answer.json")).unwrap();
    let with = |records: Vec<Value>| {
        let mut answer = sample.clone();
        answer["data"]["records"] = records.into();
        answer.to_string()
    };
    let line = sample["data"]["records"][0].clone();
    for (line, count, fits) in [
        (line.clone(), 1000, true),
        (line, 1001, false),
        (json!({}), 1000, true),
        (json!({}), 60_000, false),
    ] {
        let body = with(vec![line; count]);
        let outcome = outcome(vendor, ORDER_CALL, reply(200, &[], body)).await;
        assert_eq!(outcome != unreadable(), fits, "{count}: {outcome}");
    }
}

/// What a firewall in front of a vendor answers: a status, and a page or nothing.
const BLOCK_PAGES: &[(u16, &str)] = &[
    (403, "<html><h1>403 Forbidden</h1></html>"),
    (405, " \r\n<!doctype html>"),
    (418, "<html></html>"),
    (444, ""),
    (493, "<html></html>"),
    (302, ""),
    (302, "<a href='/blocked'>moved</a>"),
    (200, "<html>请稍后再试</html>"),
];

/// Fetches orders of that vendor while it answers so, and returns the reasons.
async fn reasons(bench: &Bench<'_>, replies: &[(u16, String)]) -> Vec<String> {
    let mut reasons = Vec::new();
    for (index, (status, body)) in replies.iter().enumerate() {
        bench.scripted.answers(*status, body.clone());
        // A new order each time, so that no order's own limit applies.
        let question =
            GetOrderRequest { id: format!("{}", 1000 + index), ..bench.vendor.question() };
        let outcome = bench.ask(question).await;
        reasons.push(outcome["failure"]["reason"].as_str().unwrap_or("OK").to_owned());
    }
    reasons
}

/// Haoka blocks clients that call too often, and for longer if they continue.
#[tokio::test]
async fn consecutive_html_pages_from_haoka_pause_the_account() {
    let vendor = Vendor::of(Provider::Haoka);
    for (status, page) in BLOCK_PAGES {
        let bench = Bench::start(&vendor).await;
        let page = (*status, (*page).to_owned());
        let one = if *status == 200 { "PROVIDER_RESPONSE_INVALID" } else { "PROVIDER_ERROR" };
        let told = reasons(&bench, &vec![page.clone(); 6]).await;
        let blocked = "PROVIDER_QUOTA_EXHAUSTED";
        assert_eq!(told, [one, one, blocked, blocked, blocked, blocked], "{page:?}");
        assert_eq!(bench.scripted.asked().len(), 3, "{page:?}");
        // Each minute one probe checks whether the block has ended.
        for asked in [4, 5] {
            bench.clock.advance(Duration::from_mins(1));
            assert_eq!(reasons(&bench, &vec![page.clone(); 3]).await, [blocked; 3], "{page:?}");
            assert_eq!(bench.scripted.asked().len(), asked, "{page:?}");
        }
        bench.clock.advance(Duration::from_mins(1));
        let order = (200, r#"{"code":0,"data":{"orderStatus":"已发货"}}"#.to_owned());
        assert_eq!(reasons(&bench, &vec![order; 3]).await, ["OK"; 3], "{page:?}");
        bench.clock.advance(Duration::from_secs(1));
        assert_eq!(reasons(&bench, std::slice::from_ref(&page)).await, [one], "{page:?}");
    }
}

/// A few pages are no block: from a wrong `base_url`, for one request, from a gateway. Nor is any page
/// from a vendor that is not known to block.
#[tokio::test]
async fn other_html_pages_pause_no_account() {
    let page = |status| (status, "<html></html>".to_owned());
    let haoka = Vendor::of(Provider::Haoka);
    let words = [
        (200, r#"{"code":0,"data":{"orderStatus":"已发货"}}"#),
        (200, r#"{"code":-1,"message":"订单不存在"}"#),
        (403, r#"{"code":-1,"message":"系统异常","data":[]}"#),
    ];
    for (status, word) in words {
        let bench = Bench::start(&haoka).await;
        let word = (status, word.to_owned());
        let replies = [page(403), page(200), word.clone(), page(403), page(403), word, page(403)];
        reasons(&bench, &replies).await;
        assert_eq!(bench.scripted.asked().len(), replies.len());
    }
    for (vendor, replies) in [
        (&haoka, vec![page(404); 6]),
        (&haoka, vec![(403, r#"{"status":403}"#.to_owned()); 6]),
        (&haoka, vec![(200, String::new()); 6]),
        (&Vendor::of(Provider::Dingshang), vec![page(403); 6]),
        (&Vendor::of(Provider::Wechat), vec![page(403); 6]),
    ] {
        let bench = Bench::start(vendor).await;
        reasons(&bench, &replies).await;
        let arrived = bench.scripted.asked();
        let of_order = arrived.iter().filter(|call| !call.uri.path().starts_with("/cgi-bin/"));
        assert_eq!(of_order.count(), replies.len(), "{}", vendor.provider.word());
    }
}
