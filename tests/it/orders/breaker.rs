//! The breaker: what callers, health probes and the vendor see of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use order_query::clock::ManualClock;
use order_query::pb::order_service_client::OrderServiceClient;
use order_query::pb::{GetOrderRequest, Provider, Source};
use tokio::sync::Semaphore;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::health::check;
use crate::support::child::Serving;
use crate::support::played::{Played, answer};
use crate::support::{Failed, Reply, Scripted, Server, connect, manual_clock, question};

/// How many consecutive failures open the breaker.
const ENOUGH: usize = 5;

/// An account at each vendor, each at its own address.
fn accounts(wechat: &str, dingshang: &str, haoka: &str) -> String {
    format!(
        "[accounts.market]\nprovider = \"wechat\"\nbase_url = \"{wechat}\"\n\
         app_id = \"wx\"\napp_secret = \"s\"\n\
         [accounts.vending]\nprovider = \"dingshang\"\nbase_url = \"{dingshang}\"\n\
         app_id = \"ds\"\napp_secret = \"s\"\napp_key = \"k\"\nmachine_no = \"16327129\"\n\
         [accounts.cards]\nprovider = \"haoka\"\nbase_url = \"{haoka}\"\n\
         user_id = \"agent\"\nsecret = \"s\"\n"
    )
}

const HAOKA_ORDER: &str = r#"{"code":0,"data":{"orderStatus":"已发货"}}"#;
const NOT_SERVING: Result<ServingStatus, Code> = Ok(ServingStatus::NotServing);
const SERVING: Result<ServingStatus, Code> = Ok(ServingStatus::Serving);

/// A server with a scripted Haoka, over a clock that the test advances.
struct Fixture {
    clock: ManualClock,
    vendor: Scripted,
    server: Server,
}

impl Fixture {
    async fn new() -> Self {
        let vendor = Scripted::start().await;
        let clock = manual_clock();
        let url = format!("http://{}", vendor.address);
        let server = Server::start_at(&accounts(&url, &url, &url), Arc::new(clock.clone())).await;
        Self { clock, vendor, server }
    }

    /// Fetches any order from Haoka.
    async fn ask(&self) -> Result<Source, Failed> {
        // Each order has its own daily limit.
        let id = format!("order-{}", self.vendor.asked().len());
        self.server.get(question(Provider::Haoka, &id)).await.map(|answer| answer.source())
    }

    /// Fails until the breaker opens. Returns for how long.
    async fn open(&self, reply: Reply) -> Duration {
        let before = self.vendor.asked().len();
        self.vendor.replies_at("", [reply]);
        for _ in 0..ENOUGH {
            self.ask().await.unwrap_err();
        }
        assert_eq!(self.vendor.asked().len(), before + ENOUGH);
        self.refused().await
    }

    /// Calls while the breaker is open. Returns how long to wait.
    async fn refused(&self) -> Duration {
        let before = self.vendor.asked().len();
        let failed = self.ask().await.unwrap_err();
        assert_eq!(
            (failed.code, failed.reason.as_str()),
            (Code::Unavailable, "PROVIDER_UNAVAILABLE")
        );
        assert_eq!(
            failed.message,
            "the vendor is failing and its circuit breaker is open; retry later"
        );
        assert_eq!(self.vendor.asked().len(), before, "nothing is sent");
        failed.retry_delay.unwrap()
    }

    async fn health(&self) -> Result<ServingStatus, Code> {
        for other in ["readiness", "account/market", "account/vending"] {
            assert_eq!(check(&self.server.channel, other).await, SERVING, "{other}");
        }
        check(&self.server.channel, "account/cards").await
    }
}

fn millis(range: std::ops::RangeInclusive<u64>) -> std::ops::RangeInclusive<Duration> {
    Duration::from_millis(*range.start())..=Duration::from_millis(*range.end())
}

#[tokio::test]
async fn the_breaker_backs_off_longer_each_time() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.health().await, SERVING);
    let mut wait = fixture.open(Reply::new(503, "")).await;
    for range in [
        1000..=2000,
        2000..=4000,
        4000..=8000,
        8000..=16_000,
        16_000..=32_000,
        30_000..=60_000,
        30_000..=60_000,
    ] {
        assert!(millis(range.clone()).contains(&wait), "{wait:?} is not of {range:?}");
        assert_eq!(fixture.health().await, NOT_SERVING);
        let last = Duration::from_nanos(1);
        fixture.clock.advance(wait.saturating_sub(last));
        assert_eq!(fixture.refused().await, last);
        fixture.clock.advance(last);
        let probe = fixture.ask().await.unwrap_err();
        assert!(probe.message.contains("HTTP 503"), "{}", probe.message);
        wait = fixture.refused().await;
    }
    fixture.clock.advance(wait);
    fixture.vendor.answers(200, HAOKA_ORDER);
    assert_eq!(fixture.health().await, NOT_SERVING, "before a probe nobody knows");
    assert_eq!(fixture.ask().await, Ok(Source::Live));
    assert_eq!(fixture.health().await, SERVING);
    // The breaker starts over, from the shortest wait.
    let wait = fixture.open(Reply::new(503, "")).await;
    assert!(millis(1000..=2000).contains(&wait), "{wait:?}");
}

#[tokio::test]
async fn only_one_probe_is_in_flight_at_a_time() {
    let gate = Arc::new(Semaphore::new(ENOUGH));
    let status = Arc::new(AtomicU16::new(503));
    let (opened, says) = (Arc::clone(&gate), Arc::clone(&status));
    let vendor = Played::start(move |_| {
        let (gate, status) = (Arc::clone(&opened), Arc::clone(&says));
        async move {
            gate.acquire().await.unwrap().forget();
            answer(status.load(Ordering::SeqCst), HAOKA_ORDER)
        }
    })
    .await;
    let clock = manual_clock();
    let config = accounts("http://127.0.0.1:9", "http://127.0.0.1:9", &vendor.url());
    let server = Server::start_at(&config, Arc::new(clock.clone())).await;
    let ask = async |n: usize| server.order(Provider::Haoka, &format!("order-{n}")).await;
    for n in 0..ENOUGH {
        ask(n).await.unwrap_err();
    }
    clock.advance(Duration::from_secs(2));
    status.store(200, Ordering::SeqCst);
    let all = join_all((0..50).map(|n| ask(100 + n)));
    let answered = async {
        // All calls but the probe are refused while it is in flight.
        vendor.until_asked(ENOUGH + 1).await;
        let late = ask(200).await.unwrap_err();
        assert_eq!(late.retry_delay, Some(Duration::from_secs(1)));
        assert_eq!(check(&server.channel, "account/cards").await, NOT_SERVING);
        gate.add_permits(1);
    };
    let (outcomes, ()) = tokio::join!(all, answered);
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert_eq!(vendor.asked().len(), ENOUGH + 1);
    gate.add_permits(50);
    assert!(join_all((0..50).map(|n| ask(300 + n))).await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_failure_rate_of_half_opens_the_breaker() {
    let fixture = Fixture::new().await;
    let [fine, failing] = [Reply::new(200, HAOKA_ORDER), Reply::new(503, "")];
    fixture.vendor.replies_at("", (0..100).flat_map(|_| [fine.clone(), failing.clone()]));
    for call in 1..=20 {
        assert_eq!(fixture.health().await, SERVING, "before call {call}");
        assert_eq!(fixture.ask().await.is_ok(), call % 2 == 1);
    }
    assert_eq!(fixture.health().await, NOT_SERVING);
    fixture.refused().await;
    assert_eq!(fixture.vendor.asked().len(), 20);
}

#[tokio::test]
async fn the_breaker_honors_retry_after() {
    let fixture = Fixture::new().await;
    let headers = vec![("retry-after", "300".to_owned())];
    let wait = fixture.open(Reply { headers, ..Reply::new(503, "") }).await;
    assert_eq!(wait, Duration::from_mins(5));
}

#[tokio::test]
async fn a_stale_answer_is_served_while_the_breaker_is_open() {
    let fixture = Fixture::new().await;
    fixture.vendor.answers(200, HAOKA_ORDER);
    fixture.server.get(question(Provider::Haoka, "known")).await.unwrap();
    let wait = fixture.open(Reply::new(500, "")).await;
    fixture.clock.advance(Duration::from_hours(1));
    fixture.ask().await.unwrap_err();
    let wait = fixture.refused().await.max(wait);
    let stale = fixture.server.get(question(Provider::Haoka, "known")).await.unwrap();
    assert_eq!(stale.source(), Source::Stale);
    let refresh_time = std::time::SystemTime::try_from(stale.refresh_time.unwrap()).unwrap();
    let until = manual_clock_start() + Duration::from_hours(1) + wait;
    assert_eq!(refresh_time, until, "when a probe may go");
    let max_age = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    let insisting = GetOrderRequest { max_age, ..question(Provider::Haoka, "known") };
    assert_eq!(fixture.server.get(insisting).await.unwrap_err().reason, "PROVIDER_UNAVAILABLE");
}

fn manual_clock_start() -> std::time::SystemTime {
    use order_query::clock::Clock as _;
    manual_clock().now()
}

#[tokio::test]
async fn any_answer_resets_the_failure_count() {
    let answers = [
        (200, HAOKA_ORDER),
        (200, r#"{"code":-1,"message":"订单不存在"}"#),
        (200, r#"{"code":-1,"message":"签名错误"}"#),
        (200, r#"{"code":-1,"message":"what nobody knows"}"#),
        (200, "<html>"),
        (404, ""),
        (429, ""),
    ];
    for (status, body) in answers {
        let fixture = Fixture::new().await;
        for reply in [Reply::new(503, ""), Reply::new(status, body), Reply::new(503, "")] {
            let is_failure = reply.status == 503;
            fixture.vendor.replies_at("", [reply]);
            for _ in 0..if is_failure { ENOUGH - 1 } else { 1 } {
                let before = fixture.vendor.asked().len();
                let _ = fixture.ask().await;
                assert_eq!(fixture.vendor.asked().len(), before + 1, "{status} {body}");
                // The pause after a 429.
                fixture.clock.advance(Duration::from_mins(1));
            }
        }
        let credentials = body.contains("签名");
        assert_eq!(fixture.health().await == NOT_SERVING, credentials, "{status} {body}");
    }
}

#[tokio::test]
async fn each_impairment_is_cleared_by_its_own_evidence() {
    let fixture = Fixture::new().await;
    fixture.vendor.answers(200, r#"{"code":-1,"message":"签名错误"}"#);
    fixture.ask().await.unwrap_err();
    assert_eq!(fixture.health().await, NOT_SERVING);
    fixture.clock.advance(fixture.open(Reply::new(503, "")).await);
    // The vendor is reachable again; an HTML page says nothing about the credentials.
    fixture.vendor.answers(200, "<html>");
    fixture.ask().await.unwrap_err();
    assert_eq!(fixture.health().await, NOT_SERVING);
    fixture.vendor.answers(200, HAOKA_ORDER);
    fixture.ask().await.unwrap();
    assert_eq!(fixture.health().await, SERVING);
}

#[tokio::test]
async fn a_probe_refused_by_our_limit_does_not_count() {
    let vendor = Scripted::start().await;
    let clock = manual_clock();
    let url = format!("http://{}", vendor.address);
    let config = accounts(&url, &url, &url).replace("user_id", "calls_per_minute = 5\nuser_id");
    let server = Server::start_at(&config, Arc::new(clock.clone())).await;
    let fixture = Fixture { clock, vendor, server };
    let wait = fixture.open(Reply::new(503, "")).await;
    fixture.vendor.answers(200, HAOKA_ORDER);
    fixture.clock.advance(wait);
    for _ in 0..3 {
        let failed = fixture.ask().await.unwrap_err();
        assert_eq!(failed.reason, "PROVIDER_QUOTA_EXHAUSTED");
        assert_eq!(fixture.health().await, NOT_SERVING);
    }
    fixture.clock.advance(Duration::from_mins(2));
    assert_eq!(fixture.ask().await, Ok(Source::Live));
    assert_eq!(fixture.health().await, SERVING);
}

/// Fetches a new order with the vending machines' account.
async fn vend(channel: &Channel, n: usize) -> Result<(), Failed> {
    let mut client = OrderServiceClient::new(channel.clone());
    let outcome = client.get_order(question(Provider::Dingshang, &n.to_string())).await;
    outcome.map(drop).map_err(|status| Failed::from(&status))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_spares_a_vendor_that_returns_503_and_recovers() {
    let [failing, fine] = [Scripted::start().await, Scripted::start().await];
    failing.answers(503, "");
    fine.answers_at("/cgi-bin/", 200, r#"{"access_token":"t","expires_in":7200}"#);
    fine.answers_at("/wxa/", 200, r#"{"order":{"orderId":"A1","status":2}}"#);
    fine.answers_at("/api/order/", 200, HAOKA_ORDER);
    let [failing_url, fine_url] =
        [&failing, &fine].map(|vendor| format!("http://{}", vendor.address));
    let mut server = Serving::start(&accounts(&fine_url, &failing_url, &fine_url));
    let channel = connect(server.address).await;
    for calls in 1..=100 {
        let failed = vend(&channel, calls).await.unwrap_err();
        assert_eq!(failed.reason, "PROVIDER_UNAVAILABLE");
        assert!(failed.retry_delay.is_some_and(|wait| wait <= Duration::from_secs(2)));
        let arrived = failing.asked().len();
        let most = calls + 5 + calls / 10;
        assert!(arrived <= most, "{arrived} requests for {calls} calls");
    }
    // On a slow machine this may take as long as the breaker's wait.
    assert!(failing.asked().len() <= 2 * ENOUGH, "{}", failing.asked().len());
    let mut client = OrderServiceClient::new(channel.clone());
    for provider in [Provider::Wechat, Provider::Haoka] {
        client.get_order(question(provider, "A1")).await.unwrap();
    }
    let admin = connect(server.admin_address).await;
    for (name, expected) in [
        ("account/vending", NOT_SERVING),
        ("account/market", SERVING),
        ("account/cards", SERVING),
        ("readiness", SERVING),
        ("", SERVING),
    ] {
        assert_eq!(check(&admin, name).await, expected, "{name}");
    }

    failing.answers(200, r#"{"code":0,"data":{"order_id":7,"status":"SUCCESS"}}"#);
    let before = failing.asked().len();
    let mut wait = Duration::ZERO;
    for _ in 0..10 {
        tokio::time::sleep(wait).await;
        match vend(&channel, 7).await {
            Ok(()) => break,
            Err(failed) => wait = failed.retry_delay.unwrap(),
        }
    }
    assert_eq!(failing.asked().len(), before + 1, "the probe");
    assert_eq!(check(&admin, "account/vending").await, SERVING);
    let left_alone = server.child.err.with("its circuit breaker is open until a probe");
    assert!(left_alone.contains("\"account\":\"vending\""), "{left_alone}");
    server.child.err.with("the vendor answers again");
    let log = server.stop().err;
    assert_eq!(log.matches("its circuit breaker is open until a probe").count(), 1, "told once");
    assert_eq!(log.matches("the vendor answers again").count(), 1, "told once");
}
