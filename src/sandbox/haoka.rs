//! Plays the 172 Haoka SIM cards, from the page of their order query. Used by the sandbox only.
//!
//! From the page: path, fields, signature, the 5 minutes, status words, the text for an unknown order.
//! From public clients: the urlencoded form, the words 已激活, 正在进单 and 审核失败. Assumed, because no text
//! says it: the words of the other errors. The page's limits are not enforced here:
//! [`super::Sandbox::arrivals`] shows whether a client respects them.

use std::collections::HashMap;
use std::fmt::Write as _;

use async_trait::async_trait;
use axum::body::Body;
use axum::extract::{FromRequest as _, Multipart};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, Request, StatusCode};
use md5::{Digest as _, Md5};
use serde_json::{Value, json};

use super::scenes::{Scene, Stage, letter, over};
use super::{Answer, Call, Kind, Reply, Vendor, faults};

const USER_ID: &str = "sandbox-agent";
const SECRET: &str = "haoka-sandbox-secret";

const ORDER_PATH: &str = "/api/order/GetOrderInfo";

/// The most seconds between a request's `Timestamp` and the clock, in either direction.
const MAX_SKEW: u64 = 300;

/// The vendor.
pub(super) struct Haoka;

#[async_trait]
impl Vendor for Haoka {
    fn name(&self) -> &'static str {
        "haoka"
    }

    fn settings(&self) -> String {
        format!("user_id = \"{USER_ID}\"\nsecret = \"{SECRET}\"\n")
    }

    fn stage(&self) -> &'static Stage {
        &STAGE
    }

    fn sample(&self) -> &'static str {
        "shipped"
    }

    async fn answer(&self, call: Call) -> Answer {
        if call.parts.uri.path() != ORDER_PATH || call.parts.method != Method::POST {
            return Answer::unknown_path();
        }
        let now = call.now;
        let Some(form) = form(call).await else {
            return Answer { kind: Kind::Order, order_id: None, reply: error("参数错误") };
        };
        let reply = match refusal(&form, now) {
            Some(text) => error(text),
            None => play(field(&form, "DownOrderID")),
        };
        Answer { kind: Kind::Order, order_id: form.get("DownOrderID").cloned(), reply }
    }
}

fn field<'a>(form: &'a HashMap<String, String>, name: &str) -> &'a str {
    form.get(name).map_or("", String::as_str)
}

/// The error text for an invalid request; `None` for a valid one.
fn refusal(form: &HashMap<String, String>, now: u64) -> Option<&'static str> {
    let [user, stamp, id, user_sign] =
        ["user_id", "Timestamp", "DownOrderID", "user_sign"].map(|name| field(form, name));
    if user.is_empty() || stamp.is_empty() || id.is_empty() || user_sign.is_empty() {
        return Some("参数错误");
    }
    let seconds = Some(stamp)
        .filter(|stamp| stamp.len() == 10 && stamp.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|stamp| stamp.parse::<u64>().ok());
    if seconds.is_none_or(|seconds| seconds.abs_diff(now) > MAX_SKEW) {
        return Some("时间戳错误");
    }
    (user != USER_ID || user_sign != sign(id, stamp, user, SECRET)).then_some("签名错误")
}

/// The lower-case MD5 of the sorted members, followed directly by the secret.
fn sign(id: &str, stamp: &str, user: &str, secret: &str) -> String {
    let signed = format!("DownOrderID={id}&Timestamp={stamp}&user_id={user}{secret}");
    Md5::digest(signed).iter().fold(String::new(), |mut sign, byte| {
        // Writing to a String cannot fail.
        let _ = write!(sign, "{byte:02x}");
        sign
    })
}

/// The form's fields, in either of the two encodings; `None` if it has neither.
async fn form(call: Call) -> Option<HashMap<String, String>> {
    let content_type = call.parts.headers.get(CONTENT_TYPE)?.to_str().ok()?.to_ascii_lowercase();
    if content_type.starts_with("application/x-www-form-urlencoded") {
        return Some(form_urlencoded::parse(&call.body).into_owned().collect());
    }
    let request = Request::from_parts(call.parts, Body::from(call.body));
    let mut parts = Multipart::from_request(request, &()).await.ok()?;
    let mut form = HashMap::new();
    while let Some(part) = parts.next_field().await.ok()? {
        let name = part.name()?.to_owned();
        form.insert(name, part.text().await.ok()?);
    }
    Some(form)
}

/// The answer for the order `id` to a valid request.
fn play(id: &str) -> Reply {
    if let Some(reply) = STAGE.scene(id, id) {
        return reply;
    }
    match faults::by_id(id) {
        Some(fault) => STAGE.fault(fault, id),
        None => error("订单不存在"),
    }
}

fn error(message: &str) -> Reply {
    let body = json!({"code": -1, "message": message, "errs": Value::Null});
    Reply::Json(StatusCode::OK, body.to_string())
}

/// The page's sample.
const SAMPLE: &str = r#"{
  "data": {
    "orderNo": "mlkj230412165954****",
    "downOrderNo": "4278****",
    "name": "田**",
    "expressName": "京东",
    "expressCode": "JDV01098242****",
    "orderStatus": "已发货",
    "createTime": "2023-04-12 16:59:54",
    "thirdPhone": "1309554****",
    "remark": "[已发货]",
    "cardStatus": "未激活",
    "activationTime": "",
    "isFirstCharge": "0",
    "firstCharge": ""
  },
  "code": 0,
  "message": "成功",
  "errs": null
}"#;

/// A shipped order; the other scenes are made from it.
const ORDINARY: &str = r#"{"code":0,"message":"成功","errs":null,"data":{
    "orderNo":"mlkj2304121659540001","downOrderNo":"","name":"田**","expressName":"京东",
    "expressCode":"JDV010982420001","orderStatus":"已发货","createTime":"2023-04-12 16:59:54",
    "thirdPhone":"1309554****","remark":"[已发货]","cardStatus":"未激活","activationTime":"",
    "isFirstCharge":"0","firstCharge":""}}"#;

static STAGE: Stage = Stage { ordinary: ORDINARY, id_at: "/data/downOrderNo", scenes: SCENES };

#[rustfmt::skip]
static SCENES: &[Scene] = &[
    letter(&["sample"], "the page's sample: 已发货, numbers masked",
        SAMPLE),
    over(&["pending"], "待处理: nothing is sent yet",
        r#"{"data":{"orderStatus":"待处理","expressName":"","expressCode":"","remark":"","cardStatus":""}}"#),
    over(&["submitted"], "已提运营商: nothing is sent yet",
        r#"{"data":{"orderStatus":"已提运营商","expressName":"","expressCode":"","remark":"","cardStatus":""}}"#),
    over(&["shipped"], "已发货", "{}"),
    over(&["completed"], "已完成", r#"{"data":{"orderStatus":"已完成"}}"#),
    over(&["withdrawn"], "已撤单, terminal", r#"{"data":{"orderStatus":"已撤单"}}"#),
    over(&["rejected"], "审核不通过, terminal", r#"{"data":{"orderStatus":"审核不通过","remark":"资料不符"}}"#),
    over(&["canceled"], "已取消, terminal", r#"{"data":{"orderStatus":"已取消"}}"#),
    over(&["settled"], "已结算, terminal",
        r#"{"data":{"orderStatus":"已结算","cardStatus":"已激活","activationTime":"2023-04-15 10:00:00","isFirstCharge":"1","firstCharge":"50"}}"#),
    over(&["unsettleable"], "无法结算, terminal", r#"{"data":{"orderStatus":"无法结算"}}"#),
    over(&["entering"], "正在进单", r#"{"data":{"orderStatus":"正在进单","expressName":"","expressCode":""}}"#),
    over(&["review-failed"], "审核失败", r#"{"data":{"orderStatus":"审核失败","expressName":"","expressCode":""}}"#),
    over(&["card-not-activated"], "`cardStatus` 未激活", r#"{"data":{"cardStatus":"未激活"}}"#),
    over(&["card-activated"], "`cardStatus` 已激活, with its time and a first charge of 50.00",
        r#"{"data":{"cardStatus":"已激活","activationTime":"2023-04-15 10:00:00","isFirstCharge":"1","firstCharge":"50.00"}}"#),
    over(&["card-unknown"], "`cardStatus` 已冻结, a word that no table has", r#"{"data":{"cardStatus":"已冻结"}}"#),
    over(&["charge-word"], "`firstCharge` is no number", r#"{"data":{"isFirstCharge":"1","firstCharge":"五十"}}"#),
    over(&["time-no-date"], "`createTime` \"2023-13-45 25:00:00\", no time", r#"{"data":{"createTime":"2023-13-45 25:00:00"}}"#),
    over(&["time-none"], "已取消, terminal, with .NET's and MySQL's words for no time",
        r#"{"data":{"orderStatus":"已取消","createTime":"0000-00-00 00:00:00","activationTime":"0001-01-01 00:00:00"}}"#),
    over(&["side-types"], "已取消, terminal, with a list or an object in the place of every text beside it",
        r#"{"data":{"orderNo":[],"orderStatus":"已取消","name":[1],"expressName":{},"expressCode":[],"createTime":[],
            "thirdPhone":{"a":[]},"remark":[null],"cardStatus":{},"activationTime":[],"isFirstCharge":[0],"firstCharge":[]}}"#),
    over(&["status-unknown"], "已冻结, a word that no table has", r#"{"data":{"orderStatus":"已冻结"}}"#),
    over(&["status-missing"], "no `orderStatus`", r#"{"data":{"orderStatus":"<absent>"}}"#),
    over(&["status-null"], "`orderStatus` null", r#"{"data":{"orderStatus":null}}"#),
    over(&["status-empty"], "`orderStatus` an empty text", r#"{"data":{"orderStatus":""}}"#),
    over(&["status-number"], "`orderStatus` the number 7", r#"{"data":{"orderStatus":7}}"#),
    over(&["numbers-as-texts"], "`code` is the text \"0\"", r#"{"code":"0"}"#),
    over(&["numbers-with-points"], "`code` is 0.0, `isFirstCharge` 1.0", r#"{"code":0.0,"data":{"isFirstCharge":1.0}}"#),
    over(&["texts-as-numbers"], "an order whose number-like texts are numbers",
        r#"{"data":{"orderNo":2304121659540001,"expressCode":10982420001,"thirdPhone":13095540000,"isFirstCharge":1,"firstCharge":50}}"#),
    over(&["nulls"], "null in every optional place",
        r#"{"message":null,"data":{"orderNo":null,"downOrderNo":null,"name":null,"expressName":null,"expressCode":null,
            "createTime":null,"thirdPhone":null,"remark":null,"cardStatus":null,"activationTime":null,
            "isFirstCharge":null,"firstCharge":null}}"#),
    over(&["empties"], "an empty text in every optional place",
        r#"{"message":"","data":{"orderNo":"","downOrderNo":"","name":"","expressName":"","expressCode":"","createTime":"",
            "thirdPhone":"","remark":"","cardStatus":"","activationTime":"","isFirstCharge":"","firstCharge":""}}"#),
    letter(&["bare"], "`orderStatus` 已发货, nothing else",
        r#"{"code":0,"data":{"orderStatus":"已发货"}}"#),
    over(&["other-order"], "the order another-order, which was not asked for", r#"{"data":{"downOrderNo":"another-order"}}"#),
    over(&["no-order"], "success with `data` null", r#"{"data":null}"#),
    over(&["order-absent"], "success without `data`", r#"{"data":"<absent>"}"#),
    letter(&["order-empty"], "success with `data` empty",
        r#"{"code":0,"message":"成功","data":{},"errs":null}"#),
    over(&["order-text"], "success with `data` a text", r#"{"data":"成功"}"#),
    over(&["error-signature"], "code -1, a text with 签名 [assumed]", r#"{"code":-1,"message":"签名错误","data":null}"#),
    over(&["error-timestamp"], "code -1, a text with 时间戳 [assumed]", r#"{"code":-1,"message":"时间戳错误","data":null}"#),
    over(&["error-frequent"], "code -1, a text with 频繁 [assumed]", r#"{"code":-1,"message":"请求过于频繁","data":null}"#),
    over(&["error-blocked"], "code -1, a text with 拦截 [assumed]", r#"{"code":-1,"message":"该账号已被拦截","data":null}"#),
    over(&["error-blocked-list"], "code -1, a text with 拦截 [assumed], `data` an empty list",
        r#"{"code":-1,"message":"操作频繁，已拦截","data":[]}"#),
    over(&["error-unknown-order-list"], "code -1, 订单不存在, `data` an empty list and `errs` false",
        r#"{"code":-1,"message":"订单不存在","data":[],"errs":false}"#),
    over(&["error-list"], "code -1 with two texts in `errs`",
        r#"{"code":-1,"message":"参数错误","errs":["第一个错误","第二个错误"],"data":null}"#),
    over(&["error-unknown"], "code -1, a text that no table has", r#"{"code":-1,"message":"系统开小差了","data":null}"#),
    over(&["error-code"], "code 500, a code that the page does not have", r#"{"code":500,"message":"系统开小差了","data":null}"#),
    over(&["error-near"], "code -1, 订单不存在 with more behind it", r#"{"code":-1,"message":"订单不存在,请稍后再试","data":null}"#),
    over(&["error-no-text"], "code -1 with `message` null", r#"{"code":-1,"message":null,"data":null}"#),
    over(&["error-code-text"], "code \"-1\", a text, with 订单不存在", r#"{"code":"-1","message":"订单不存在","data":null}"#),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_matches_the_documentation() {
        assert_eq!(sign("A1", "1700000000", "agent", "s3cret"), "12e4ac16d72b83a096ec0ac3e4095b14");
    }
}
