//! The sandbox's vendors, asked over HTTP as the vendors' documents say. The signatures here are
//! computed from the documents once more, so that the sandbox does not prove itself.
#![allow(
    clippy::disallowed_types,
    reason = "plain HTTP to the sandbox, without the product's client"
)]
#![allow(clippy::unwrap_used, reason = "a test may end here")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use md5::{Digest as _, Md5};
use order_query::clock::{Clock as _, ManualClock};
use order_query::sandbox::{Kind, Sandbox, Vendor};
use reqwest::{Client, Response};
use serde_json::{Value, json};

const START: u64 = 1_700_000_000;

struct World {
    sandbox: Sandbox,
    clock: ManualClock,
    http: Client,
    accounts: toml::Table,
}

impl World {
    async fn new() -> Self {
        let clock = ManualClock::new(UNIX_EPOCH + Duration::from_secs(START));
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let sandbox = Sandbox::start(listen, Arc::new(clock.clone())).await.unwrap();
        let accounts: toml::Table = sandbox.accounts().parse().unwrap();
        let accounts = accounts["accounts"].as_table().unwrap().clone();
        // The second test in a process finds a provider installed, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self { sandbox, clock, http, accounts }
    }

    fn account(&self, account: &str, key: &str) -> String {
        self.accounts[account][key].as_str().unwrap().to_owned()
    }

    fn url(&self, vendor: Vendor, path: &str) -> String {
        format!("http://{}{path}", self.sandbox.address(vendor))
    }

    fn seconds(&self) -> u64 {
        self.clock.now().duration_since(UNIX_EPOCH).unwrap().as_secs()
    }

    async fn stable(&self, app_id: &str, secret: &str) -> Value {
        let body = json!({"grant_type": "client_credential", "appid": app_id, "secret": secret});
        let url = self.url(Vendor::Wechat, "/cgi-bin/stable_token");
        read(self.http.post(url).body(body.to_string()).send().await.unwrap()).await
    }

    async fn classic(&self, app_id: &str, secret: &str) -> Value {
        let query = [("grant_type", "client_credential"), ("appid", app_id), ("secret", secret)];
        let url = self.url(Vendor::Wechat, "/cgi-bin/token");
        read(self.http.get(url).query(&query).send().await.unwrap()).await
    }

    async fn token(&self) -> String {
        let app = self.account("wechat-sandbox", "app_id");
        let answer = self.stable(&app, &self.account("wechat-sandbox", "app_secret")).await;
        answer["access_token"].as_str().unwrap().to_owned()
    }

    async fn wechat(&self, token: &str, id: &str) -> Response {
        let url = self.url(Vendor::Wechat, "/wxa/charge/service-provider/order/get");
        let query = [("access_token", token), ("orderId", id)];
        self.http.get(url).query(&query).send().await.unwrap()
    }

    /// Asks Dingshang for `path` with a payload of these members.
    async fn vending(&self, path: &str, payload: &Value) -> Response {
        let payload = base64::engine::general_purpose::STANDARD.encode(payload.to_string());
        self.http
            .post(self.url(Vendor::Dingshang, path))
            .header("Appid", self.account("dingshang-sandbox", "app_id"))
            .header("AppSecret", self.account("dingshang-sandbox", "app_secret"))
            .body(json!({"payload": payload}).to_string())
            .send()
            .await
            .unwrap()
    }

    fn payload(&self) -> Value {
        let machine = self.account("dingshang-sandbox", "machine_no");
        let key = self.account("dingshang-sandbox", "app_key");
        let timestamp = self.seconds().to_string();
        let signed = format!("machine_no={machine}&timestamp={timestamp}&key={key}");
        let sign = md5(&signed).to_uppercase();
        json!({"machine_no": machine, "sign": sign, "timestamp": timestamp})
    }

    async fn dingshang(&self, id: &str) -> Response {
        self.vending(&format!("/api/openapi/v1/orders/{id}"), &self.payload()).await
    }

    fn card_form(&self, id: &str, timestamp: &str) -> [(&'static str, String); 4] {
        let user = self.account("haoka-sandbox", "user_id");
        let secret = self.account("haoka-sandbox", "secret");
        let sign = md5(&format!("DownOrderID={id}&Timestamp={timestamp}&user_id={user}{secret}"));
        [
            ("user_id", user),
            ("Timestamp", timestamp.to_owned()),
            ("DownOrderID", id.to_owned()),
            ("user_sign", sign),
        ]
    }

    async fn cards(&self, form: &[(&'static str, String)]) -> Response {
        let url = self.url(Vendor::Haoka, "/api/order/GetOrderInfo");
        self.http.post(url).form(form).send().await.unwrap()
    }

    async fn haoka(&self, id: &str) -> Response {
        self.cards(&self.card_form(id, &self.seconds().to_string())).await
    }

    /// Asks any vendor, well, for an order.
    async fn order(&self, vendor: Vendor, id: &str) -> Response {
        match vendor {
            Vendor::Wechat => self.wechat(&self.token().await, id).await,
            Vendor::Dingshang => self.dingshang(id).await,
            Vendor::Haoka => self.haoka(id).await,
        }
    }
}

pub fn md5(text: &str) -> String {
    Md5::digest(text).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

async fn read(response: Response) -> Value {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

#[test]
fn the_page_lists_exactly_the_ids_that_are_played() {
    let played: BTreeSet<_> = Sandbox::scripted()
        .into_iter()
        .map(|entry| (format!("{:?}", entry.vendor).to_lowercase(), entry.id, entry.answers))
        .collect();
    let page = include_str!("../../docs/sandbox.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let mut listed = BTreeSet::new();
    for row in rows {
        let cells: Vec<_> = row.splitn(3, " | ").collect();
        let [vendors, ids, answers] = cells[..] else { continue };
        for vendor in vendors.split(", ").filter(|vendor| *vendor != "vendor") {
            for id in ids.split(", ") {
                let entry =
                    (vendor.to_owned(), id.trim_matches('`').to_owned(), answers.to_owned());
                listed.insert(entry);
            }
        }
    }
    let missing: Vec<_> = played.difference(&listed).collect();
    let false_ones: Vec<_> = listed.difference(&played).collect();
    assert!(missing.is_empty(), "not on the page: {missing:#?}");
    assert!(false_ones.is_empty(), "not played: {false_ones:#?}");
}

#[tokio::test]
async fn the_page_has_the_credentials() {
    let world = World::new().await;
    let page = include_str!("../../docs/sandbox.md");
    for (account, keys) in &world.accounts {
        for (key, value) in keys.as_table().unwrap() {
            let value = value.as_str().unwrap();
            assert!(
                key == "base_url" || page.contains(&format!("{key} = \"{value}\"")),
                "{account} {key}"
            );
        }
    }
}

#[tokio::test]
async fn the_accounts_are_toml_for_the_three_addresses() {
    let world = World::new().await;
    for (name, provider, vendor) in [
        ("wechat-sandbox", "wechat", Vendor::Wechat),
        ("dingshang-sandbox", "dingshang", Vendor::Dingshang),
        ("haoka-sandbox", "haoka", Vendor::Haoka),
    ] {
        assert_eq!(world.account(name, "provider"), provider);
        assert_eq!(world.account(name, "base_url"), world.url(vendor, ""));
    }
    assert_eq!(world.account("dingshang-sandbox", "machine_no"), "16327129");
}

#[tokio::test]
async fn listens_on_loopback_only_and_on_ports_that_fit() {
    for listen in ["0.0.0.0:0", "192.0.2.1:0", "[::]:0", "127.0.0.1:65534"] {
        let clock = Arc::new(ManualClock::new(UNIX_EPOCH));
        let refused = Sandbox::start(listen.parse().unwrap(), clock).await;
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidInput, "{listen}");
    }
}

#[tokio::test]
async fn takes_three_ports_in_a_row() {
    // Another process may take a port in between: three free ones are found within a few tries.
    for _ in 0..50 {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let clock = Arc::new(ManualClock::new(UNIX_EPOCH));
        let Ok(sandbox) = Sandbox::start(free, clock).await else { continue };
        let ports = Vendor::ALL.map(|vendor| sandbox.address(vendor).port());
        assert_eq!(ports, [free.port(), free.port() + 1, free.port() + 2]);
        return;
    }
    panic!("no three free ports in a row");
}

#[tokio::test]
async fn every_scripted_answer_is_json() {
    let world = World::new().await;
    for entry in Sandbox::scripted() {
        // The ids of the faults: Dingshang's are the numbers from 9001.
        if entry.id.starts_with("fault-")
            || (entry.vendor == Vendor::Dingshang && entry.id.starts_with("90"))
        {
            continue;
        }
        let response = world.order(entry.vendor, &entry.id).await;
        assert_eq!(response.headers()["content-type"], "application/json; charset=utf-8");
        let body = response.text().await.unwrap();
        assert!(serde_json::from_str::<Value>(&body).is_ok(), "{entry:?}: {body}");
    }
}

#[tokio::test]
async fn wechat_answers_the_documented_sample() {
    let world = World::new().await;
    let answer = read(world.order(Vendor::Wechat, "DD2981741311549200000").await).await;
    assert_eq!(answer["order"]["orderPrice"], "1");
    assert_eq!(answer["order"]["usage"], json!({"used": "0", "all": "1000"}));
    assert_eq!(answer["order"]["orderProductInfo"]["validityEndTime"], 1_718_801_856);
}

#[tokio::test]
async fn wechat_has_an_order_for_every_status_under_both_names() {
    let world = World::new().await;
    for status in [1, 2, 3, 5, 6, 7, 9] {
        for id in [format!("status-{status}"), format!("DD100000000000000000{status}")] {
            let order = read(world.order(Vendor::Wechat, &id).await).await["order"].clone();
            assert_eq!(order["status"], status);
            assert_eq!(order["orderId"], id);
            let paid = ![1, 3, 9].contains(&status);
            assert_eq!(order.get("usage").is_some(), paid, "{id}");
            assert_eq!(order["payInfo"].get("finishPayTime").is_some(), paid, "{id}");
        }
    }
}

#[tokio::test]
async fn wechat_answers_the_code_that_the_id_names() {
    let world = World::new().await;
    for (id, errcode) in [
        ("errcode-45009", 45009),
        ("errcode--1", -1),
        ("errcode-x", 10_120_800),
        ("nobody", 10_120_800),
        ("a b", 10_120_002),
        ("", 10_120_002),
    ] {
        let response = world.order(Vendor::Wechat, id).await;
        assert_eq!(response.status(), 200);
        assert_eq!(read(response).await["errcode"], errcode, "{id}");
    }
}

#[tokio::test]
async fn wechat_refuses_tokens_that_are_missing_unknown_or_old() {
    let world = World::new().await;
    let id = "status-2";
    let token = world.token().await;
    assert!(token.len() >= 512);
    assert_eq!(read(world.wechat("", id).await).await["errcode"], 41001);
    assert_eq!(read(world.wechat("other", id).await).await["errcode"], 40001);
    world.clock.advance(Duration::from_secs(7199));
    assert_eq!(read(world.wechat(&token, id).await).await["errcode"], 0);
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(read(world.wechat(&token, id).await).await["errcode"], 42001);
}

#[tokio::test]
async fn wechat_tells_wrong_credentials_apart_in_both_ways() {
    let world = World::new().await;
    let app = world.account("wechat-sandbox", "app_id");
    for (app_id, secret, errcode) in [
        ("wx0000000000000000", "x", 40013),
        (&app, "wrong", 40125),
        ("wxerrcode40164", "x", 40164),
        ("wxerrcode-1", "x", -1),
    ] {
        assert_eq!(world.stable(app_id, secret).await["errcode"], errcode);
        assert_eq!(world.classic(app_id, secret).await["errcode"], errcode);
    }
}

#[tokio::test]
async fn wechat_gives_one_stable_token_and_a_new_classic_one_each_time() {
    let world = World::new().await;
    let app = world.account("wechat-sandbox", "app_id");
    let secret = world.account("wechat-sandbox", "app_secret");
    let first = world.stable(&app, &secret).await;
    assert_eq!(first["expires_in"], 7200);
    world.clock.advance(Duration::from_secs(100));
    let again = world.stable(&app, &secret).await;
    assert_eq!(again["access_token"], first["access_token"]);
    assert_eq!(again["expires_in"], 7100);
    let one = world.classic(&app, &secret).await;
    let two = world.classic(&app, &secret).await;
    assert_ne!(one["access_token"], two["access_token"]);
    let one = one["access_token"].as_str().unwrap();
    assert_eq!(read(world.wechat(one, "status-2").await).await["errcode"], 0);
    world.clock.advance(Duration::from_mins(5));
    assert_eq!(read(world.wechat(one, "status-2").await).await["errcode"], 42001);
}

#[tokio::test]
async fn wechat_ends_a_token_once_and_answers_the_next() {
    let world = World::new().await;
    let app = world.account("wechat-sandbox", "app_id");
    let secret = world.account("wechat-sandbox", "app_secret");
    let other = world.classic(&app, &secret).await["access_token"].as_str().unwrap().to_owned();
    let first = world.token().await;
    let refused = read(world.wechat(&first, "token-refused-once").await).await;
    assert_eq!(refused["errcode"], 40001);
    assert_eq!(read(world.wechat(&first, "status-2").await).await["errcode"], 40001);
    let second = world.token().await;
    assert_ne!(first, second);
    let order = read(world.wechat(&second, "token-refused-once").await).await;
    assert_eq!(order["order"]["orderId"], "token-refused-once");
    assert_eq!(read(world.wechat(&other, "status-2").await).await["errcode"], 0);
}

#[tokio::test]
async fn dingshang_answers_the_documented_sample() {
    let world = World::new().await;
    let answer = read(world.dingshang("54").await).await;
    assert_eq!(answer["code"], 0);
    assert_eq!(answer["data"]["trade_id"], "3f2a58ad69b74e86b8a1a3da6fd75cc1");
    assert_eq!(answer["data"]["records"][2]["id"], 72);
}

#[tokio::test]
async fn dingshang_has_an_order_for_every_status() {
    let world = World::new().await;
    let statuses = "SUCCESS REFUND CLOSED REVOKED USERPAYING PAYERROR PICKUPCODE NOTPAY TESTPAY";
    for (id, status) in (101..).zip(statuses.split(' ')) {
        let data = read(world.dingshang(&id.to_string()).await).await["data"].clone();
        assert_eq!((&data["status"], &data["order_id"]), (&json!(status), &json!(id)));
    }
    let records = "WAITING_PICKED_UP IS_DELIVERING IS_SUCCESS IS_PICKED_UP IS_FAILED IS_TIMEOUT \
                   IS_REFUND 未取货 已取货 订单取消";
    for (id, status) in (201..).zip(records.split_whitespace()) {
        let data = read(world.dingshang(&id.to_string()).await).await["data"].clone();
        assert_eq!(
            (&data["status"], &data["records"][0]["status"]),
            (&json!("SUCCESS"), &json!(status))
        );
    }
}

#[tokio::test]
async fn dingshang_answers_the_code_that_the_id_names() {
    let world = World::new().await;
    for (id, status, code) in [
        ("40005", 200, 40005),
        ("4001", 401, 4001),
        ("404", 404, 404),
        ("12345", 200, 80002),
        ("054", 200, 10001),
        ("x", 200, 10001),
        ("18446744073709551616", 200, 10001),
    ] {
        let response = world.dingshang(id).await;
        assert_eq!(response.status(), status, "{id}");
        let answer = read(response).await;
        assert_eq!((&answer["code"], &answer["data"]), (&json!(code), &json!({})), "{id}");
    }
}

#[tokio::test]
async fn dingshang_checks_headers_sign_machine_and_time() {
    let world = World::new().await;
    let path = "/api/openapi/v1/orders/54";
    let bare = world.http.post(world.url(Vendor::Dingshang, path)).send().await.unwrap();
    assert_eq!(bare.status(), 401);
    assert_eq!(read(bare).await["code"], 4001);
    let stamp = world.seconds();
    let at = |seconds: u64| json!({"machine_no": "16327129", "timestamp": seconds.to_string()});
    for (payload, status, code) in [
        (at(stamp), 200, 0),
        (at(stamp - 300), 200, 0),
        (at(stamp - 301), 401, 4009),
        (at(stamp + 301), 401, 4009),
        (json!({"machine_no": "16327129", "timestamp": stamp}), 200, 10001),
        (json!({"machine_no": "16327129"}), 200, 10001),
        (json!({"timestamp": stamp.to_string()}), 200, 10001),
        (json!({"machine_no": "12345678", "timestamp": stamp.to_string()}), 200, 30003),
        (json!({"machine_no": "16327129", "timestamp": stamp.to_string(), "sign": "X"}), 401, 4006),
        (json!("text"), 200, 10001),
    ] {
        let response = world.vending(path, &payload).await;
        assert_eq!(response.status(), status, "{payload}");
        assert_eq!(read(response).await["code"], code, "{payload}");
    }
    let lower = world.payload()["sign"].as_str().unwrap().to_lowercase();
    let mut payload = world.payload();
    payload["sign"] = lower.into();
    assert_eq!(read(world.vending(path, &payload).await).await["code"], 4006);
}

#[tokio::test]
async fn dingshang_answers_a_ping_to_good_credentials() {
    let world = World::new().await;
    let path = "/api/openapi/v1/ping";
    let pong = read(world.vending(path, &world.payload()).await).await;
    assert_eq!((&pong["code"], &pong["data"]), (&json!(0), &json!("pong")));
    let bare = world.http.post(world.url(Vendor::Dingshang, path)).send().await.unwrap();
    assert_eq!(bare.status(), 401);
    let gotten = world.http.get(world.url(Vendor::Dingshang, path)).send().await.unwrap();
    assert_eq!(gotten.status(), 404);
}

#[tokio::test]
async fn haoka_reads_both_forms_and_tells_the_sandbox_time() {
    let world = World::new().await;
    let response = world.haoka("sample").await;
    assert_eq!(response.headers()["date"], "Tue, 14 Nov 2023 22:13:20 GMT");
    let answer = read(response).await;
    assert_eq!((&answer["code"], &answer["data"]["name"]), (&json!(0), &json!("田**")));

    let fields = world.card_form("card-activated", &START.to_string());
    let form = fields
        .into_iter()
        .fold(reqwest::multipart::Form::new(), |form, (name, value)| form.text(name, value));
    let url = world.url(Vendor::Haoka, "/api/order/GetOrderInfo");
    let answer = read(world.http.post(url).multipart(form).send().await.unwrap()).await;
    assert_eq!(answer["data"]["cardStatus"], "已激活");
    assert_eq!(answer["data"]["downOrderNo"], "card-activated");
}

#[tokio::test]
async fn haoka_has_an_order_for_every_status() {
    let world = World::new().await;
    for (id, status) in [
        ("pending", "待处理"),
        ("submitted", "已提运营商"),
        ("shipped", "已发货"),
        ("completed", "已完成"),
        ("withdrawn", "已撤单"),
        ("rejected", "审核不通过"),
        ("canceled", "已取消"),
        ("settled", "已结算"),
        ("unsettleable", "无法结算"),
        ("entering", "正在进单"),
        ("review-failed", "审核失败"),
    ] {
        assert_eq!(read(world.haoka(id).await).await["data"]["orderStatus"], status);
    }
}

#[tokio::test]
async fn haoka_checks_sign_user_and_time() {
    let world = World::new().await;
    let now = world.seconds();
    let mut wrong_sign = world.card_form("shipped", &now.to_string());
    wrong_sign[3].1 = wrong_sign[3].1.to_uppercase();
    let mut wrong_user = world.card_form("shipped", &now.to_string());
    let secret = world.account("haoka-sandbox", "secret");
    wrong_user[0].1 = "other".into();
    wrong_user[3].1 = md5(&format!("DownOrderID=shipped&Timestamp={now}&user_id=other{secret}"));
    for (form, message) in [
        (world.card_form("nobody", &now.to_string()), "订单不存在"),
        (world.card_form("shipped", &(now - 300).to_string()), "成功"),
        (world.card_form("shipped", &(now - 301).to_string()), "时间戳错误"),
        (world.card_form("shipped", &format!("{now}000")), "时间戳错误"),
        (world.card_form("shipped", &format!("0{now}")), "时间戳错误"),
        (wrong_sign, "签名错误"),
        (wrong_user, "签名错误"),
    ] {
        let answer = read(world.cards(&form).await).await;
        assert_eq!(answer["message"], message);
        assert_eq!(answer["code"], if message == "成功" { 0 } else { -1 });
    }
    let form = world.card_form("shipped", &now.to_string());
    let answer = read(world.cards(&form[..3]).await).await;
    assert_eq!(answer["code"], -1);
}

#[tokio::test]
async fn no_vendor_knows_the_paths_of_another() {
    let world = World::new().await;
    let paths = [
        (Vendor::Wechat, "/wxa/charge/service-provider/order/get"),
        (Vendor::Dingshang, "/api/openapi/v1/orders/54"),
        (Vendor::Haoka, "/api/order/GetOrderInfo"),
    ];
    for (owner, path) in paths {
        for vendor in Vendor::ALL.into_iter().filter(|vendor| *vendor != owner) {
            let response = world.http.post(world.url(vendor, path)).send().await.unwrap();
            assert_eq!(response.status(), 404);
            assert!(serde_json::from_str::<Value>(&response.text().await.unwrap()).is_err());
        }
    }
}

#[tokio::test]
async fn every_vendor_plays_the_faults() {
    let world = World::new().await;
    for vendor in Vendor::ALL {
        for (number, name, status, start) in [
            (9001, "fault-500", 500, "<html>"),
            (9002, "fault-503", 503, "<html>"),
            (9003, "fault-404", 404, "<html>"),
            (9004, "fault-429", 429, "<html>"),
            (9005, "fault-redirect", 302, "<html>"),
            (9006, "fault-html", 200, "<html>"),
            (9007, "fault-empty", 200, ""),
            (9008, "fault-truncated", 200, "{"),
            (9009, "fault-types", 200, "{\"errcode\":[]"),
            (9010, "fault-nested", 200, "{\"errcode\":0,\"code\":0,\"order\":[[[["),
            (9016, "fault-list", 200, "[]"),
            (9017, "fault-bytes", 200, "{\"code\":0,\"message\":\"\u{fffd}"),
            (9018, "fault-cut", 200, "{\"note\":\"号\u{fffd}\","),
            (9019, "fault-block", 403, "<html>"),
        ] {
            let number = number.to_string();
            let id = if vendor == Vendor::Dingshang { number.as_str() } else { name };
            let response = world.order(vendor, id).await;
            assert_eq!(response.status(), status, "{vendor:?} {id}");
            let header = |name| response.headers().get(name).map(|value| value.to_str().unwrap());
            assert_eq!(header("retry-after"), (status == 429).then_some("30"));
            assert_eq!(header("location"), (status == 302).then_some("/sandbox/redirected"));
            assert!(response.text().await.unwrap().starts_with(start), "{vendor:?} {id}");
        }
        let redirected = world.http.get(world.url(vendor, "/sandbox/redirected")).send().await;
        assert_eq!(redirected.unwrap().status(), 404);
    }
}

#[tokio::test]
async fn a_truncated_answer_is_half_of_an_order() {
    let world = World::new().await;
    let body = world.haoka("fault-truncated").await.text().await.unwrap();
    assert!(serde_json::from_str::<Value>(&body).unwrap_err().is_eof(), "{body}");
}

#[tokio::test]
async fn a_huge_answer_is_100_mib_without_a_length() {
    let world = World::new().await;
    let mut response = world.haoka("fault-huge").await;
    assert_eq!(response.content_length(), None);
    let mut bytes = 0;
    while let Some(piece) = response.chunk().await.unwrap() {
        bytes += piece.len();
    }
    assert!(bytes > 100 * 1024 * 1024);
}

#[tokio::test]
async fn a_reset_cuts_the_body_in_the_middle() {
    let world = World::new().await;
    let mut response = world.haoka("fault-reset").await;
    assert!(response.chunk().await.unwrap().is_some());
    assert!(response.chunk().await.is_err());
}

#[tokio::test]
async fn an_endless_answer_goes_on_until_the_sandbox_is_dropped() {
    let world = World::new().await;
    let mut response = world.haoka("fault-endless").await;
    assert!(response.chunk().await.unwrap().is_some());
    drop(world.sandbox);
    // A drip may be under way already; an error must follow.
    while response.chunk().await.is_ok_and(|piece| {
        assert!(piece.is_some(), "the body ended as if it were whole");
        true
    }) {}
}

#[tokio::test]
async fn dropping_the_sandbox_cuts_what_hangs_and_frees_the_ports() {
    let world = World::new().await;
    let form = world.card_form("fault-hang", &START.to_string());
    let url = world.url(Vendor::Haoka, "/api/order/GetOrderInfo");
    let hanging = tokio::spawn(world.http.post(url.clone()).form(&form).send());
    while world.sandbox.arrivals().is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(!hanging.is_finished());
    drop(world.sandbox);
    assert!(hanging.await.unwrap().is_err());
    assert!(world.http.post(url).send().await.unwrap_err().is_connect());
}

#[tokio::test]
async fn remembers_what_arrived() {
    let world = World::new().await;
    let start: SystemTime = world.clock.now();
    let token = world.token().await;
    world.wechat(&token, "status-2").await;
    world.clock.advance(Duration::from_secs(7));
    world.dingshang("54").await;
    world.vending("/api/openapi/v1/ping", &world.payload()).await;
    world.haoka("nobody").await;
    world.http.get(world.url(Vendor::Haoka, "/elsewhere")).send().await.unwrap();
    let seen: Vec<_> = world
        .sandbox
        .arrivals()
        .into_iter()
        .map(|arrival| {
            let seconds = arrival.time.duration_since(start).unwrap().as_secs();
            (arrival.vendor, arrival.kind, arrival.order_id, seconds)
        })
        .collect();
    let id = |text: &str| Some(text.to_owned());
    assert_eq!(
        seen,
        [
            (Vendor::Wechat, Kind::Token, None, 0),
            (Vendor::Wechat, Kind::Order, id("status-2"), 0),
            (Vendor::Dingshang, Kind::Order, id("54"), 7),
            (Vendor::Dingshang, Kind::Other, None, 7),
            (Vendor::Haoka, Kind::Order, id("nobody"), 7),
            (Vendor::Haoka, Kind::Other, None, 7),
        ]
    );
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let world = World::new().await;
    let url = world.url(Vendor::Haoka, "/api/order/GetOrderInfo");
    for (bytes, status) in [(256 * 1024, 200), (256 * 1024 + 1, 413)] {
        let response = world.http.post(&url).body("x".repeat(bytes)).send().await.unwrap();
        assert_eq!(response.status(), status, "{bytes}");
    }
}

#[tokio::test]
async fn garbage_is_answered_and_never_ends_the_vendor() {
    let world = World::new().await;
    let garbage = ["", "{", "[]", "{\"payload\":7}", "{\"payload\":\"?\"}", "a=b&&=%zz", "\u{0}"];
    let types = [
        "",
        "multipart/form-data",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
    ];
    for path in ["/cgi-bin/stable_token", "/api/openapi/v1/orders/54", "/api/order/GetOrderInfo"] {
        for vendor in Vendor::ALL {
            for (body, content_type) in
                garbage.iter().flat_map(|body| types.map(|kind| (body, kind)))
            {
                let request =
                    world.http.post(world.url(vendor, path)).header("content-type", content_type);
                let response =
                    request.header("Appid", world.account("dingshang-sandbox", "app_id"));
                let response =
                    response.header("AppSecret", world.account("dingshang-sandbox", "app_secret"));
                response.body((*body).to_owned()).send().await.unwrap();
            }
        }
    }
    assert_eq!(read(world.haoka("shipped").await).await["code"], 0);
}
