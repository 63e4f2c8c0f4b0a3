//! Plays the `WeChat` service market, from the page of its order query and from the public rules of its
//! tokens. Used by the sandbox only.
//!
//! From the page: path, parameters, fields, statuses, and the codes 10120002 and 10120405. From
//! `WeChat`'s public list of codes: those of tokens and credentials, and 10120800 for an unknown id.
//! Assumed: an id outside of `[A-Za-z0-9_-]{1,64}` is a parameter error.

mod tokens;

use std::sync::Mutex;

use async_trait::async_trait;
use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use self::tokens::Tokens;
use super::scenes::{Scene, Stage, letter, over};
use super::{Answer, Call, Kind, Reply, Vendor, faults, lock};

const APP_ID: &str = "wxfeed5a0db0c00001";
const APP_SECRET: &str = "wechat-sandbox-secret";

const ORDER_PATH: &str = "/wxa/charge/service-provider/order/get";
const STABLE_PATH: &str = "/cgi-bin/stable_token";
const CLASSIC_PATH: &str = "/cgi-bin/token";

/// The id whose first call invalidates its token.
const REFUSED_ONCE: &str = "token-refused-once";

/// The vendor, and the tokens that it has issued.
#[derive(Default)]
pub(super) struct Wechat {
    tokens: Mutex<Tokens>,
}

#[async_trait]
impl Vendor for Wechat {
    fn name(&self) -> &'static str {
        "wechat"
    }

    fn settings(&self) -> String {
        format!("app_id = \"{APP_ID}\"\napp_secret = \"{APP_SECRET}\"\n")
    }

    fn stage(&self) -> &'static Stage {
        &STAGE
    }

    fn sample(&self) -> &'static str {
        "DD2981741311549200000"
    }

    fn other_ids(&self) -> Vec<(String, String)> {
        let ids = [
            (
                REFUSED_ONCE,
                "the first call: `errcode` 40001, and its token is dead; later: an order",
            ),
            ("errcode-N", "`errcode` N, any whole number (`errcode--1` for -1)"),
        ];
        ids.map(|(id, answers)| (id.to_owned(), answers.to_owned())).into()
    }

    async fn answer(&self, call: Call) -> Answer {
        answer(&mut lock(&self.tokens), &call)
    }
}

fn answer(tokens: &mut Tokens, call: &Call) -> Answer {
    let token = |reply| Answer { kind: Kind::Token, order_id: None, reply };
    match call.parts.uri.path() {
        ORDER_PATH => order(tokens, call),
        STABLE_PATH if call.parts.method == Method::POST => token(stable_token(tokens, call)),
        STABLE_PATH => token(error(43002)),
        CLASSIC_PATH => token(classic_token(tokens, call)),
        _ => Answer::unknown_path(),
    }
}

fn query(call: &Call, name: &str) -> Option<String> {
    let query = call.parts.uri.query()?.as_bytes();
    let found = form_urlencoded::parse(query).find(|(key, _)| key == name)?;
    Some(found.1.into_owned())
}

fn order(tokens: &mut Tokens, call: &Call) -> Answer {
    let order_id = query(call, "orderId");
    let reply = if call.parts.method == Method::GET {
        match query(call, "access_token").filter(|token| !token.is_empty()) {
            None => error(41001),
            Some(token) => match tokens.check(&token, call.now) {
                Err(errcode) => error(errcode),
                Ok(()) => play(tokens, &token, order_id.as_deref().unwrap_or_default()),
            },
        }
    } else {
        error(10_120_405)
    };
    Answer { kind: Kind::Order, order_id, reply }
}

/// The answer for the order `id` to a call with a valid token.
fn play(tokens: &mut Tokens, token: &str, id: &str) -> Reply {
    let usual = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if id.is_empty() || id.len() > 64 || !id.chars().all(usual) {
        return error(10_120_002);
    }
    if let Some(reply) = STAGE.scene(id, id) {
        return reply;
    }
    if let Some(fault) = faults::by_id(id) {
        return STAGE.fault(fault, id);
    }
    if let Some(errcode) = id.strip_prefix("errcode-").and_then(|code| code.parse().ok()) {
        return error(errcode);
    }
    match id {
        REFUSED_ONCE if tokens.refuse_once(token) => error(40001),
        REFUSED_ONCE => STAGE.ordinary(id),
        _ => error(10_120_800),
    }
}

fn stable_token(tokens: &mut Tokens, call: &Call) -> Reply {
    let Ok(Value::Object(asked)) = serde_json::from_slice(&call.body) else {
        return error(47001);
    };
    let text = |name| asked.get(name).and_then(Value::as_str).unwrap_or_default();
    if let Some(refusal) = check_app(text("grant_type"), text("appid"), text("secret")) {
        return refusal;
    }
    given(tokens.stable(call.now, asked.get("force_refresh") == Some(&Value::Bool(true))))
}

fn classic_token(tokens: &mut Tokens, call: &Call) -> Reply {
    let text = |name| query(call, name).unwrap_or_default();
    match check_app(&text("grant_type"), &text("appid"), &text("secret")) {
        Some(refusal) => refusal,
        None => given(tokens.classic(call.now)),
    }
}

fn given((token, expires_in): (String, u64)) -> Reply {
    let body = json!({"access_token": token, "expires_in": expires_in});
    Reply::Json(StatusCode::OK, body.to_string())
}

/// The error for wrong credentials of a token call. An app id that names a code or a fault gets it as
/// its answer, whatever the secret.
fn check_app(grant_type: &str, app_id: &str, secret: &str) -> Option<Reply> {
    if let Some(errcode) = app_id.strip_prefix("wxerrcode").and_then(|code| code.parse().ok()) {
        return Some(error(errcode));
    }
    if let Some(fault) = app_id.strip_prefix("wx").and_then(faults::by_id) {
        return Some(Reply::Fault(fault, json!({"errcode": -1, "errmsg": "slow"}).to_string()));
    }
    let errcode = match (grant_type, app_id, secret) {
        (_, "", _) => 41002,
        (_, _, "") => 41004,
        (grant_type, ..) if grant_type != "client_credential" => 40002,
        (_, app_id, _) if app_id != APP_ID => 40013,
        (_, _, secret) if secret != APP_SECRET => 40125,
        _ => return None,
    };
    Some(error(errcode))
}

/// Every failure has HTTP 200, as at `WeChat`.
fn error(errcode: i64) -> Reply {
    let text = ERRORS.iter().find(|(known, _)| *known == errcode).map_or("error", |(_, text)| text);
    let errmsg = format!("{text} rid: 5a0db0c0-sandbox");
    let body = json!({"errcode": errcode, "errmsg": errmsg});
    Reply::Json(StatusCode::OK, body.to_string())
}

/// The text of each code. That of 40164 contains an IP address, as the real one does: it must not be
/// passed on.
static ERRORS: &[(i64, &str)] = &[
    (-1, "system error"),
    (40001, "invalid credential, access_token is invalid or not latest"),
    (40002, "invalid grant_type"),
    (40013, "invalid appid"),
    (40014, "invalid access_token"),
    (40125, "invalid appsecret"),
    (40164, "invalid ip 192.0.2.7 ipv6 ::ffff:192.0.2.7, not in whitelist"),
    (41001, "access_token missing"),
    (41002, "appid missing"),
    (41004, "appsecret missing"),
    (42001, "access_token expired"),
    (43002, "require POST method"),
    (45009, "reach max api daily quota limit"),
    (45011, "api minute-quota reach limit"),
    (47001, "data format error"),
    (48001, "api unauthorized"),
    (10_120_002, "parameter error"),
    (10_120_405, "method not available"),
    (10_120_800, "order id not valid"),
];

/// The page's sample, with its brackets and quotes repaired, and with `usage` and `validityEndTime`
/// named as in the page's table: translation has broken the sample.
const SAMPLE: &str = r#"{
  "errcode": 0,
  "order": {
    "orderId": "DD2981741311549200000",
    "status": 2,
    "createTime": 1687265841964,
    "updateTime": 1687267671475,
    "orderPrice": "1",
    "payInfo": {
      "applyPayTime": 1687265845,
      "finishPayTime": 1687265856
    },
    "orderProductInfo": {
      "spSpuId": "10000111",
      "spSkuId": "20000176",
      "skuCnt": 1,
      "spBizId": 100100,
      "spuName": "spu name",
      "skuName": "sku name",
      "validityBeginTime": 1687265856,
      "validityEndTime": 1718801856
    },
    "invoiceInfo": {
      "invoiceStatus": 2,
      "invoiceApplyTime": 1687265870
    },
    "usage": {
      "used": "0",
      "all": "1000"
    }
  }
}"#;

/// A paid order without an invoice; the other scenes are made from it.
const ORDINARY: &str = r#"{"errcode":0,"errmsg":"ok","order":{"orderId":"","status":2,
    "createTime":1687265841964,"updateTime":1687267671475,"orderPrice":"19900",
    "payInfo":{"applyPayTime":1687265845,"finishPayTime":1687265856},
    "orderProductInfo":{"spSpuId":"10000111","spSkuId":"20000176","spBizId":100100,
        "spuName":"resource pack","skuName":"1000 calls","skuCnt":1,
        "validityBeginTime":1687265856,"validityEndTime":1718801856},
    "usage":{"used":"250","all":"1000"}}}"#;

static STAGE: Stage = Stage { ordinary: ORDINARY, id_at: "/order/orderId", scenes: SCENES };

#[rustfmt::skip]
static SCENES: &[Scene] = &[
    letter(&["DD2981741311549200000"], "the page's sample: paid, invoice 2",
        SAMPLE),
    over(&["status-1", "DD1000000000000000001"], "status 1, to be paid: no `finishPayTime`, no `usage`",
        r#"{"order":{"status":1,"payInfo":{"finishPayTime":"<absent>"},"usage":"<absent>"}}"#),
    over(&["status-2", "DD1000000000000000002"], "status 2, paid", r#"{"order":{"status":2}}"#),
    over(&["status-3", "DD1000000000000000003"], "status 3, timed out: never paid",
        r#"{"order":{"status":3,"payInfo":{"finishPayTime":"<absent>"},"usage":"<absent>"}}"#),
    over(&["status-5", "DD1000000000000000005"], "status 5, being refunded", r#"{"order":{"status":5}}"#),
    over(&["status-6", "DD1000000000000000006"], "status 6, refunded", r#"{"order":{"status":6}}"#),
    over(&["status-7", "DD1000000000000000007"], "status 7, refund failed", r#"{"order":{"status":7}}"#),
    over(&["status-9", "DD1000000000000000009"], "status 9, canceled: never paid",
        r#"{"order":{"status":9,"payInfo":{"finishPayTime":"<absent>"},"usage":"<absent>"}}"#),
    over(&["status-unknown"], "status 99, which no table has", r#"{"order":{"status":99}}"#),
    over(&["status-word"], "status `\"PAID\"`, a word where a number should be", r#"{"order":{"status":"PAID"}}"#),
    over(&["status-missing"], "no `status`", r#"{"order":{"status":"<absent>"}}"#),
    over(&["status-null"], "`status` null", r#"{"order":{"status":null}}"#),
    over(&["status-empty"], "`status` an empty text", r#"{"order":{"status":""}}"#),
    over(&["invoice-1"], "`invoiceStatus` 1",
        r#"{"order":{"invoiceInfo":{"invoiceApplyTime":1687265870,"invoiceStatus":1}}}"#),
    over(&["invoice-2"], "`invoiceStatus` 2",
        r#"{"order":{"invoiceInfo":{"invoiceApplyTime":1687265870,"invoiceStatus":2}}}"#),
    over(&["invoice-3"], "`invoiceStatus` 3",
        r#"{"order":{"invoiceInfo":{"invoiceApplyTime":1687265870,"invoiceStatus":3}}}"#),
    over(&["invoice-4"], "`invoiceStatus` 4",
        r#"{"order":{"invoiceInfo":{"invoiceApplyTime":1687265870,"invoiceStatus":4}}}"#),
    over(&["invoice-unknown"], "`invoiceStatus` 9, which no table has",
        r#"{"order":{"invoiceInfo":{"invoiceApplyTime":1687265870,"invoiceStatus":9}}}"#),
    over(&["validity"], "`validity` in place of `validityEndTime`, as the page's sample has it",
        r#"{"order":{"orderProductInfo":{"validity":1718801856,"validityEndTime":"<absent>"}}}"#),
    over(&["errcode-absent"], "an order without `errcode` and `errmsg`", r#"{"errcode":"<absent>","errmsg":"<absent>"}"#),
    over(&["numbers-as-texts"], "an order whose numbers are texts",
        r#"{"errcode":"0","order":{"status":"2","createTime":"1687265841964","updateTime":"1687267671475",
            "payInfo":{"applyPayTime":"1687265845","finishPayTime":"1687265856"},
            "orderProductInfo":{"spBizId":"100100","skuCnt":"1","validityBeginTime":"1687265856","validityEndTime":"1718801856"},
            "invoiceInfo":{"invoiceApplyTime":"1687265870","invoiceStatus":"2"}}}"#),
    over(&["texts-as-numbers"], "an order whose number-like texts are numbers",
        r#"{"order":{"orderPrice":19900,"orderProductInfo":{"spSpuId":10000111,"spSkuId":20000176},"usage":{"used":250,"all":1000}}}"#),
    over(&["nulls"], "null in every optional place, inside of the objects",
        r#"{"errmsg":null,"order":{"createTime":null,"updateTime":null,"orderPrice":null,
            "payInfo":{"applyPayTime":null,"finishPayTime":null},
            "orderProductInfo":{"spSpuId":null,"spSkuId":null,"spBizId":null,"spuName":null,"skuName":null,
                "skuCnt":null,"validityBeginTime":null,"validityEndTime":null},
            "invoiceInfo":{"invoiceApplyTime":null,"invoiceStatus":null},"usage":{"used":null,"all":null}}}"#),
    over(&["nulls-outside"], "null in place of the objects",
        r#"{"errmsg":null,"order":{"payInfo":null,"orderProductInfo":null,"invoiceInfo":null,"usage":null}}"#),
    over(&["empties"], "an empty text in every optional place",
        r#"{"errmsg":"","order":{"createTime":"","updateTime":"","orderPrice":"",
            "payInfo":{"applyPayTime":"","finishPayTime":""},
            "orderProductInfo":{"spSpuId":"","spSkuId":"","spBizId":"","spuName":"","skuName":"",
                "skuCnt":"","validityBeginTime":"","validityEndTime":""},
            "invoiceInfo":{"invoiceApplyTime":"","invoiceStatus":""},"usage":{"used":"","all":""}}}"#),
    over(&["bare"], "`orderId` and `status`, nothing else",
        r#"{"errmsg":"<absent>","order":{"createTime":"<absent>","updateTime":"<absent>","orderPrice":"<absent>",
            "payInfo":"<absent>","orderProductInfo":"<absent>","usage":"<absent>"}}"#),
    over(&["price-largest"], "`orderPrice` 9223372036854775807", r#"{"order":{"orderPrice":"9223372036854775807"}}"#),
    over(&["price-too-large"], "`orderPrice` 9223372036854775808, over 64 bits", r#"{"order":{"orderPrice":"9223372036854775808"}}"#),
    over(&["price-word"], "`orderPrice` is no number", r#"{"order":{"orderPrice":"free"}}"#),
    over(&["time-too-large"], "`createTime` beyond any date", r#"{"order":{"createTime":9223372036854775807}}"#),
    over(&["time-zero"], "0 where no time is", r#"{"order":{"updateTime":0,"payInfo":{"finishPayTime":0}}}"#),
    over(&["side-types"], "a list, a text or a number in the place of every object and number beside status and price",
        r#"{"errmsg":[],"order":{"createTime":[],"updateTime":{"a":1},"payInfo":"no","orderProductInfo":7,"invoiceInfo":[1],"usage":true}}"#),
    over(&["numbers-with-points"], "an order whose numbers have a point: status 2.0",
        r#"{"errcode":0.0,"order":{"status":2.0,"createTime":1687265841964.0,"orderPrice":"19900.0","payInfo":{"applyPayTime":1687265845.0}}}"#),
    over(&["other-order"], "the order DD9999999999999999999, which was not asked for",
        r#"{"order":{"orderId":"DD9999999999999999999"}}"#),
    over(&["no-order"], "success without `order`", r#"{"order":"<absent>"}"#),
    over(&["order-null"], "success with `order` null", r#"{"order":null}"#),
    letter(&["order-empty"], "success with `order` empty",
        r#"{"errcode":0,"errmsg":"ok","order":{}}"#),
    over(&["error-list"], "`errcode` 10120800, `order` an empty list, `errmsg` false",
        r#"{"errcode":10120800,"errmsg":false,"order":[]}"#),
    letter(&["error-bare"], "`errcode` 10120002 without `errmsg`",
        r#"{"errcode":10120002}"#),
    letter(&["error-long"], "`errcode` 10120002, `errmsg` of 300 letters with control characters",
        concat!(r#"{"errcode":10120002,"errmsg":"first\nsecond\u0000\u001b[31m"#,
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
            "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc", r#""}"#)),
];
