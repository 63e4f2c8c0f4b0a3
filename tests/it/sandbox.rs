//! The sandbox's vendors, called over HTTP as documented. The signatures here are computed
//! independently from the documents, so that the sandbox does not verify itself.

mod dingshang;
mod faults;
mod haoka;
mod wechat;

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use order_query::clock::{Clock as _, ManualClock};
use order_query::pb::Provider;
use order_query::sandbox::{Kind, Sandbox};
use reqwest::{Client, Response};
use serde_json::{Value, json};

use crate::support::md5;

const START: u64 = 1_700_000_000;

/// The vendors whose protocol is implemented here independently, from their documents.
const KNOWN: [Provider; 3] = [Provider::Wechat, Provider::Dingshang, Provider::Haoka];

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
        // The second test in a process finds a provider installed, which is fine.
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

    fn url(&self, vendor: Provider, path: &str) -> String {
        format!("http://{}{path}", self.sandbox.address(&vendor.word()).unwrap())
    }

    fn seconds(&self) -> u64 {
        self.clock.now().duration_since(UNIX_EPOCH).unwrap().as_secs()
    }

    async fn stable(&self, app_id: &str, secret: &str) -> Value {
        let body = json!({"grant_type": "client_credential", "appid": app_id, "secret": secret});
        let url = self.url(Provider::Wechat, "/cgi-bin/stable_token");
        read(self.http.post(url).body(body.to_string()).send().await.unwrap()).await
    }

    async fn classic(&self, app_id: &str, secret: &str) -> Value {
        let query = [("grant_type", "client_credential"), ("appid", app_id), ("secret", secret)];
        let url = self.url(Provider::Wechat, "/cgi-bin/token");
        read(self.http.get(url).query(&query).send().await.unwrap()).await
    }

    async fn token(&self) -> String {
        let app = self.account("wechat-sandbox", "app_id");
        let answer = self.stable(&app, &self.account("wechat-sandbox", "app_secret")).await;
        answer["access_token"].as_str().unwrap().to_owned()
    }

    async fn wechat(&self, token: &str, id: &str) -> Response {
        let url = self.url(Provider::Wechat, "/wxa/charge/service-provider/order/get");
        let query = [("access_token", token), ("orderId", id)];
        self.http.get(url).query(&query).send().await.unwrap()
    }

    /// Asks Dingshang for `path` with a payload of these members.
    async fn vending(&self, path: &str, payload: &Value) -> Response {
        let payload = base64::engine::general_purpose::STANDARD.encode(payload.to_string());
        self.http
            .post(self.url(Provider::Dingshang, path))
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
        let url = self.url(Provider::Haoka, "/api/order/GetOrderInfo");
        self.http.post(url).form(form).send().await.unwrap()
    }

    async fn haoka(&self, id: &str) -> Response {
        self.cards(&self.card_form(id, &self.seconds().to_string())).await
    }

    /// Fetches an order from one of these vendors with a valid request.
    async fn order(&self, vendor: Provider, id: &str) -> Response {
        if vendor == Provider::Wechat {
            self.wechat(&self.token().await, id).await
        } else if vendor == Provider::Dingshang {
            self.dingshang(id).await
        } else {
            assert_eq!(vendor, Provider::Haoka);
            self.haoka(id).await
        }
    }
}

async fn read(response: Response) -> Value {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

#[test]
fn the_page_lists_exactly_the_scripted_ids() {
    let played: BTreeSet<_> = Sandbox::scripted()
        .into_iter()
        .map(|entry| (entry.vendor.to_owned(), entry.id, entry.answers))
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
async fn the_accounts_are_toml_with_the_vendors_addresses() {
    let world = World::new().await;
    for provider in Provider::all() {
        let name = format!("{}-sandbox", provider.word());
        assert_eq!(world.account(&name, "provider"), provider.word());
        assert_eq!(world.account(&name, "base_url"), world.url(provider, ""));
    }
    assert_eq!(world.account("dingshang-sandbox", "machine_no"), "16327129");
}

#[tokio::test]
async fn the_sandbox_listens_on_loopback_and_valid_ports_only() {
    for listen in ["0.0.0.0:0", "192.0.2.1:0", "[::]:0", "127.0.0.1:65534"] {
        let clock = Arc::new(ManualClock::new(UNIX_EPOCH));
        let refused = Sandbox::start(listen.parse().unwrap(), clock).await;
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidInput, "{listen}");
    }
}

#[tokio::test]
async fn the_sandbox_uses_consecutive_ports() {
    // Another process may take a port in between: consecutive free ones are found within a few tries.
    for _ in 0..50 {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let clock = Arc::new(ManualClock::new(UNIX_EPOCH));
        let Ok(sandbox) = Sandbox::start(free, clock).await else { continue };
        let address = |vendor| sandbox.address(vendor).unwrap();
        let ports: Vec<_> =
            Sandbox::vendors().into_iter().map(|vendor| address(vendor).port()).collect();
        assert_eq!(ports, (free.port()..).take(ports.len()).collect::<Vec<_>>());
        assert_eq!(ports.len(), Provider::all().count());
        return;
    }
    panic!("no free ports in a row");
}

#[tokio::test]
async fn every_scripted_answer_is_json() {
    let world = World::new().await;
    for entry in Sandbox::scripted() {
        let Some(vendor) = KNOWN.into_iter().find(|known| known.word() == entry.vendor) else {
            continue;
        };
        // The ids of the faults: Dingshang's are the numbers from 9001.
        if entry.id.starts_with("fault-")
            || (vendor == Provider::Dingshang && entry.id.starts_with("90"))
        {
            continue;
        }
        let response = world.order(vendor, &entry.id).await;
        assert_eq!(response.headers()["content-type"], "application/json; charset=utf-8");
        let body = response.text().await.unwrap();
        assert!(serde_json::from_str::<Value>(&body).is_ok(), "{entry:?}: {body}");
    }
}

#[tokio::test]
async fn no_vendor_answers_on_the_paths_of_another() {
    let world = World::new().await;
    let paths = [
        (Provider::Wechat, "/wxa/charge/service-provider/order/get"),
        (Provider::Dingshang, "/api/openapi/v1/orders/54"),
        (Provider::Haoka, "/api/order/GetOrderInfo"),
    ];
    for (owner, path) in paths {
        for vendor in KNOWN.into_iter().filter(|vendor| *vendor != owner) {
            let response = world.http.post(world.url(vendor, path)).send().await.unwrap();
            assert_eq!(response.status(), 404);
            assert!(serde_json::from_str::<Value>(&response.text().await.unwrap()).is_err());
        }
    }
}

#[tokio::test]
async fn the_sandbox_records_requests() {
    let world = World::new().await;
    let start: SystemTime = world.clock.now();
    let token = world.token().await;
    world.wechat(&token, "status-2").await;
    world.clock.advance(Duration::from_secs(7));
    world.dingshang("54").await;
    world.vending("/api/openapi/v1/ping", &world.payload()).await;
    world.haoka("nobody").await;
    world.http.get(world.url(Provider::Haoka, "/elsewhere")).send().await.unwrap();
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
            ("wechat", Kind::Token, None, 0),
            ("wechat", Kind::Order, id("status-2"), 0),
            ("dingshang", Kind::Order, id("54"), 7),
            ("dingshang", Kind::Other, None, 7),
            ("haoka", Kind::Order, id("nobody"), 7),
            ("haoka", Kind::Other, None, 7),
        ]
    );
}

#[tokio::test]
async fn an_oversized_body_is_refused() {
    let world = World::new().await;
    let url = world.url(Provider::Haoka, "/api/order/GetOrderInfo");
    for (bytes, status) in [(256 * 1024, 200), (256 * 1024 + 1, 413)] {
        let response = world.http.post(&url).body("x".repeat(bytes)).send().await.unwrap();
        assert_eq!(response.status(), status, "{bytes}");
    }
}

#[tokio::test]
async fn garbage_is_answered_and_never_stops_the_vendor() {
    let world = World::new().await;
    let garbage = ["", "{", "[]", "{\"payload\":7}", "{\"payload\":\"?\"}", "a=b&&=%zz", "\u{0}"];
    let types = [
        "",
        "multipart/form-data",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
    ];
    for path in ["/cgi-bin/stable_token", "/api/openapi/v1/orders/54", "/api/order/GetOrderInfo"] {
        for vendor in KNOWN {
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
