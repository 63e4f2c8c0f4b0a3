//! The vendors' errors: every row of every table, on each call that can return it.

use serde::Deserialize;
use serde_json::{Value, json};

use super::bench::{Bench, outcome};
use super::fields::cut;
use crate::support::Reply;
use crate::support::facts::{ORDER_CALL, Vendor, vendors, with_member};
use order_query::pb::Provider;

/// `errors.toml`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Errors {
    /// An error's body; `CODE` and `TEXT` stand for JSON.
    body: String,
    pub(super) error: Vec<Group>,
}

/// Errors with the same outcome.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Group {
    /// The calls that can return them.
    pub(super) calls: Vec<String>,
    /// Their HTTP status.
    #[serde(default = "fine")]
    pub(super) http: u16,
    /// Whether the request leaves the machine to the account's default.
    #[serde(default)]
    pub(super) default_machine: bool,
    status: String,
    reason: String,
    field: Option<String>,
    /// In seconds.
    retry: Option<u64>,
    /// Whether callers see the vendor's text.
    #[serde(default = "yes")]
    text_shown: bool,
    pub(super) rows: Vec<(i64, String)>,
}

/// A vendor may report its errors in the body alone.
fn fine() -> u16 {
    200
}

fn yes() -> bool {
    true
}

impl Errors {
    pub(super) fn of(vendor: &Vendor) -> Self {
        vendor.table("errors.toml")
    }

    /// The answer with that code, as JSON, and that text.
    pub(super) fn body(&self, code: &str, text: &str) -> String {
        self.body.replace("CODE", code).replace("TEXT", &json!(text).to_string())
    }
}

impl Group {
    /// The failure that a row maps to.
    pub(super) fn expected(&self, code: i64, text: &str) -> Value {
        let text = Some(text).filter(|text| self.text_shown && !text.is_empty());
        let members = [
            ("code", Some(json!(self.status))),
            ("reason", Some(json!(self.reason))),
            ("field", self.field.as_ref().map(|field| json!(field))),
            ("retry_seconds", self.retry.map(|retry| json!(retry))),
            ("provider_code", Some(json!(code.to_string()))),
            ("provider_message", text.map(|text| json!(text))),
        ];
        let members = members.into_iter();
        let failure: Value =
            members.filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        json!({ "failure": failure })
    }

    /// The outcome of the order request when a call is answered so.
    pub(super) async fn outcome(&self, vendor: &Vendor, call: &str, reply: Reply) -> Value {
        let default = self.default_machine.then(|| vendor.sheet.machine_no.clone());
        let bench = Bench::start_with(vendor, |account| {
            account.extend(default.map(|machine| ("machine_no".to_owned(), machine)));
        })
        .await;
        bench.scripted.replies_at(vendor.paths()[call], [reply]);
        let mut question = vendor.question();
        if self.default_machine {
            question.machine_no.clear();
        }
        bench.finish(question).await
    }
}

#[tokio::test]
async fn every_error_maps_to_its_row() {
    for vendor in vendors() {
        let errors = Errors::of(&vendor);
        for group in &errors.error {
            for (call, (code, text)) in
                group.calls.iter().flat_map(|call| group.rows.iter().map(move |row| (call, row)))
            {
                for written in [code.to_string(), format!("\"{code}\"")] {
                    let reply = Reply::new(group.http, errors.body(&written, text));
                    let outcome = group.outcome(&vendor, call, reply).await;
                    let name = vendor.provider.word();
                    assert_eq!(outcome, group.expected(*code, text), "{name} {call} {written}");
                }
            }
        }
    }
}

/// A vendor's text can be missing, or be anything but a text.
#[tokio::test]
async fn an_error_does_not_require_a_message() {
    for vendor in vendors() {
        let errors = Errors::of(&vendor);
        let group = errors.error.iter().find(|group| group.reason == "PROVIDER_ERROR").unwrap();
        for text in ["null", "\"\""] {
            let body = errors.body.replace("CODE", "77").replace("TEXT", text);
            let outcome = outcome(&vendor, body).await;
            assert_eq!(outcome, group.expected(77, ""), "{} {text}", vendor.provider.word());
        }
    }
}

/// What encoders write for an absent object, list or text, right or wrong.
const SHAPES: &[&str] = &[
    "null",
    "[]",
    "{}",
    "[ ]",
    "false",
    "true",
    "0",
    "7",
    "0.0",
    "\"\"",
    "[1]",
    "[[]]",
    "[{}]",
    "[null]",
    "{\"0\":{}}",
    "{\"a\":[]}",
    "NaN",
    "\"@CUT@\"",
    "{\"@CUT@\":\"\\ud83d\"}",
];

/// PHP and .NET write an error's envelope in many shapes: the code decides, and the text if it is a string.
#[tokio::test]
async fn an_error_is_recognized_by_its_code_in_any_envelope() {
    let others = ["data", "order", "errs", "access_token", "expires_in", "unknown"];
    for vendor in vendors() {
        let errors = Errors::of(&vendor);
        for group in &errors.error {
            let (code, text) = &group.rows[0];
            let body = errors.body(&code.to_string(), text);
            let body: Value = serde_json::from_str(&body).unwrap();
            let name = vendor.provider.word();
            for call in &group.calls {
                for shape in SHAPES {
                    let mut body = body.to_string();
                    for other in others {
                        let json = serde_json::from_str(&body).unwrap();
                        body = with_member(&json, &format!("/{other}"), Some("\"@SHAPE@\""));
                    }
                    let body = cut(&body.replace("\"@SHAPE@\"", shape));
                    let outcome = group.outcome(&vendor, call, Reply::new(group.http, body)).await;
                    assert_eq!(outcome, group.expected(*code, text), "{name} {call} {shape}");
                }
                // The same code in another spelling.
                let written = format!("{code}.0");
                let reply = Reply::new(group.http, errors.body(&written, text));
                let mut expected = group.expected(*code, text);
                expected["failure"]["provider_code"] = json!(written);
                assert_eq!(group.outcome(&vendor, call, reply).await, expected, "{name} {call}");
            }
        }
    }
}

/// A message that is no string is ignored. Haoka's errors differ only in their text.
#[tokio::test]
async fn an_error_message_of_another_type_is_ignored() {
    for vendor in vendors() {
        let errors = Errors::of(&vendor);
        let nameless = errors.error.iter().find(|group| group.reason == "PROVIDER_ERROR").unwrap();
        for group in &errors.error {
            let (code, text) = &group.rows[0];
            let written = |text: &str| {
                let body = errors.body.replace("CODE", &code.to_string()).replace("TEXT", text);
                Reply::new(group.http, cut(&body))
            };
            let name = vendor.provider.word();
            for call in &group.calls {
                let told = if vendor.provider == Provider::Haoka { nameless } else { group };
                for shape in SHAPES {
                    let outcome = group.outcome(&vendor, call, written(shape)).await;
                    assert_eq!(outcome, told.expected(*code, ""), "{name} {call} {shape}");
                }
                let listed = format!("[{},null,{{}}]", json!(text));
                let outcome = group.outcome(&vendor, call, written(&listed)).await;
                assert_eq!(outcome, group.expected(*code, text), "{name} {call} {listed}");
            }
        }
    }
}

/// A truncated text means only its readable part: it does not match exactly.
#[tokio::test]
async fn an_error_message_may_be_truncated() {
    let vendor = Vendor::of(Provider::Haoka);
    let outcome = async |text: &str| {
        let body = Errors::of(&vendor).body.replace("CODE", "-1").replace("TEXT", text);
        outcome(&vendor, cut(&body)).await["failure"].clone()
    };
    let blocked = outcome("\"操作频繁，已拦@CUT@\"").await;
    assert_eq!(blocked["reason"], "PROVIDER_QUOTA_EXHAUSTED");
    assert_eq!(blocked["provider_message"], "操作频繁，已拦");
    assert_eq!(outcome("\"订单不存在@CUT@\"").await["reason"], "PROVIDER_ERROR");
}

/// An unreadable code counts as absent.
#[tokio::test]
async fn an_unreadable_code_is_ignored() {
    for vendor in vendors() {
        let errors = Errors::of(&vendor);
        for call in vendor.paths().into_keys() {
            for code in ["[]", "{}", "[-1]", "\"-1@CUT@\"", "NaN"] {
                let body = errors.body.replace("CODE", code).replace("TEXT", "\"订单不存在\"");
                let group = &errors.error[0];
                for (status, expected) in
                    [(200, "PROVIDER_RESPONSE_INVALID"), (503, "PROVIDER_UNAVAILABLE")]
                {
                    let reply = Reply::new(status, cut(&body));
                    let outcome = group.outcome(&vendor, call, reply).await;
                    let name = vendor.provider.word();
                    assert_eq!(outcome["failure"]["reason"], expected, "{name} {call} {code}");
                }
            }
        }
    }
}

/// Vendor text leaves the server with at most 256 characters and no control characters.
#[tokio::test]
async fn vendor_text_is_sanitized() {
    for vendor in vendors() {
        let errors = Errors::of(&vendor);
        let code = format!("7\u{1b}[31m{}", "号".repeat(300));
        let body = errors.body(&json!(code).to_string(), &format!("a\r\nb{}", "🚚".repeat(300)));
        let failure = &outcome(&vendor, body).await["failure"];
        assert_eq!(failure["provider_code"], format!("7[31m{}", "号".repeat(251)));
        assert_eq!(failure["provider_message"], format!("ab{}", "🚚".repeat(254)));
    }
}

/// How many order and token calls WeChat gets when its tokens are refused.
#[tokio::test]
async fn a_refused_token_is_renewed_and_the_order_call_repeated_once() {
    let vendor = Vendor::of(Provider::Wechat);
    let token = |name: &str| {
        Reply::new(200, json!({ "access_token": name, "expires_in": 7200 }).to_string())
    };
    let refused = |code: u32| Reply::new(200, json!({ "errcode": code }).to_string());
    let order = || Reply::new(200, vendor.text("order.answer.json"));
    for code in [40001, 40014, 42001] {
        let rejected = json!({ "failure": {
            "code": "FAILED_PRECONDITION",
            "reason": "PROVIDER_CREDENTIALS_REJECTED",
            "provider_code": code.to_string(),
        }});
        let cases = [
            (vec![token("a"), token("b")], vec![refused(code), order()], vendor.expected(), 2, 2),
            (vec![token("a"), token("b")], vec![refused(code)], rejected.clone(), 2, 2),
            // An unchanged token would be refused again.
            (vec![token("a")], vec![refused(code), order()], rejected, 1, 2),
        ];
        for (tokens, answers, expected, asked, token_calls) in cases {
            let bench = Bench::start(&vendor).await;
            bench.scripted.replies_at(vendor.paths()["token"], tokens);
            bench.scripted.replies_at(vendor.paths()[ORDER_CALL], answers);
            assert_eq!(bench.ask(vendor.question()).await, expected, "{code}");
            let arrived = bench.scripted.asked();
            let (of_token, of_order): (Vec<_>, Vec<_>) =
                arrived.iter().partition(|call| call.uri.path().starts_with("/cgi-bin/"));
            assert_eq!((of_order.len(), of_token.len()), (asked, token_calls), "{code}");
        }
    }
}
