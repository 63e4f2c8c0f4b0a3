//! A vendor of several protocols that has the canaries, and all of its possible behaviors.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::http::Response;
use axum::http::header::{LOCATION, SET_COOKIE};
use order_query::pb::Provider;
use serde_json::{Value, json};

use super::{ACCESS_TOKEN, NAME, NUMBER_ID, PHONE, REMARK, TRACKING, WORD_ID};
use crate::support::played::{Asked, Played, answer};

/// The vendors whose protocols it implements, each with canaries in its account and its order.
pub const PLAYED: [Provider; 3] = [Provider::Wechat, Provider::Dingshang, Provider::Haoka];

/// What the vendor does with an order call.
#[derive(Debug, Clone)]
pub enum Behavior {
    /// Answers with this status and body.
    Answers(u16, String),
    /// Redirects the caller.
    Redirects(u16, String),
    /// Never answers.
    Hangs,
    /// Cuts the connection in the middle of the answer.
    Breaks,
}

/// The vendor.
pub struct Vendor {
    pub played: Played,
    behavior: Arc<Mutex<Behavior>>,
}

impl Vendor {
    pub async fn start() -> Self {
        let behavior = Arc::new(Mutex::new(Behavior::Hangs));
        let current = Arc::clone(&behavior);
        let played = Played::start(move |asked: Asked| {
            let behavior = current.lock().unwrap().clone();
            async move { respond(&asked, behavior).await }
        })
        .await;
        Self { played, behavior }
    }

    pub fn does(&self, behavior: &Behavior) {
        *self.behavior.lock().unwrap() = behavior.clone();
    }
}

async fn respond(asked: &Asked, behavior: Behavior) -> Response<Body> {
    if asked.uri.path().starts_with("/cgi-bin/") {
        let token = json!({ "access_token": ACCESS_TOKEN, "expires_in": 7200 });
        return answer(200, token.to_string());
    }
    match behavior {
        Behavior::Answers(status, body) => {
            let mut response = answer(status, body);
            let cookie = format!("name={PHONE}-{ACCESS_TOKEN}");
            response.headers_mut().insert(SET_COOKIE, cookie.parse().unwrap());
            response
        }
        Behavior::Redirects(status, target) => {
            let mut response = answer(status, format!("{NAME} went there"));
            let target = format!("{target}{}?access_token={ACCESS_TOKEN}", asked.uri.path());
            response.headers_mut().insert(LOCATION, target.parse().unwrap());
            response
        }
        Behavior::Hangs => std::future::pending().await,
        Behavior::Breaks => {
            let half = format!("{{\"name\":\"{NAME}\",\"remark\":\"{REMARK}");
            let end = Err(std::io::Error::other("cut"));
            answer(200, Body::from_stream(futures_util::stream::iter([Ok(half), end])))
        }
    }
}

/// An order at each of the vendors, with all personal data.
pub fn order() -> Value {
    let number: u64 = NUMBER_ID.parse().unwrap();
    json!({
        "errcode": 0,
        "order": {
            "orderId": WORD_ID, "status": 2, "orderPrice": 300,
            "orderProductInfo": { "spuName": REMARK },
        },
        "code": 0,
        "data": {
            "order_id": number, "trade_id": TRACKING, "status": "SUCCESS", "amount": "3.00",
            "records": [],
            "downOrderNo": WORD_ID, "orderNo": TRACKING, "orderStatus": "已发货", "name": NAME,
            "thirdPhone": PHONE, "remark": REMARK, "expressName": NAME, "expressCode": TRACKING,
        },
    })
}

/// The order, with other values at these paths.
fn changed(places: &[(&str, Value)]) -> String {
    let mut order = order();
    for (place, value) in places {
        *order.pointer_mut(place).unwrap_or_else(|| panic!("{place}")) = value.clone();
    }
    order.to_string()
}

/// An error in each of the protocols.
pub fn error(errcode: i64, code: i64, text: &str) -> String {
    let data = json!({ "name": NAME, "thirdPhone": PHONE, "remark": REMARK });
    json!({ "errcode": errcode, "errmsg": text, "code": code, "message": text, "data": data })
        .to_string()
}

/// Every wrong behavior, with a name for failure messages. A redirect leads to `trap`.
pub fn bad_behaviors(trap: &str) -> Vec<(String, Behavior)> {
    let page = format!("<html>{NAME} {PHONE} {REMARK} {ACCESS_TOKEN}</html>");
    let whole = order().to_string();
    let (first, _) = whole.split_at(whole.len() - 40);
    let mut deeds: Vec<(String, Behavior)> = Vec::new();
    for status in [400, 401, 403, 404, 408, 413, 429, 500, 502, 503] {
        deeds.push((format!("HTTP {status}"), Behavior::Answers(status, page.clone())));
    }
    for status in [301, 302, 303, 307, 308] {
        deeds.push((format!("HTTP {status}"), Behavior::Redirects(status, trap.to_owned())));
    }
    for (errcode, code, text) in [
        (10_120_800, 80_002, "订单不存在"),
        (10_120_002, 10_001, "malformed"),
        (-1, 50_000, "busy"),
        (45_009, 40_005, "频繁"),
        (40_164, 4_006, "签名"),
        (48_001, 10_014, "时间戳"),
        (40_001, 30_003, "拦截"),
        (7, 7, "what nobody knows"),
    ] {
        deeds.push((format!("code {errcode}"), Behavior::Answers(200, error(errcode, code, text))));
    }
    let bodies = [
        ("no JSON", page.clone()),
        ("half of the JSON", first.to_owned()),
        ("a list", json!([NAME, PHONE]).to_string()),
        ("a text", json!(NAME).to_string()),
        ("nothing", String::new()),
        ("too large", format!("{}{}", whole, " ".repeat(300 * 1024))),
        (
            "another order",
            changed(&[
                ("/order/orderId", json!(PHONE)),
                ("/data/order_id", json!(1)),
                ("/data/downOrderNo", json!(PHONE)),
            ]),
        ),
        (
            "wrong types",
            changed(&[
                ("/order/orderPrice", json!(REMARK)),
                ("/data/amount", json!(REMARK)),
                ("/data/name", json!({ NAME: PHONE })),
            ]),
        ),
        (
            "objects in place of texts",
            changed(&[("/order/status", json!([PHONE])), ("/data", json!(NAME))]),
        ),
    ];
    deeds.extend(bodies.map(|(name, body)| (name.to_owned(), Behavior::Answers(200, body))));
    deeds.push(("a cut".to_owned(), Behavior::Breaks));
    deeds.push(("silence".to_owned(), Behavior::Hangs));
    deeds
}
