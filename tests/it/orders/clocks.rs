//! What callers and operators see once a clock that was ahead is right again: limits, pauses and
//! answers follow their rules.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use order_query::clock::{Clock as _, ManualClock, SystemClock};
use order_query::pb::{
    GetOrderRequest, GetOrderResponse, OrderRef, OrderStatus, Provider, Source, WatchOrderRequest,
};
use order_query::store::{File, Redis, Store};
use tempfile::TempDir;

use crate::store::{call, minute, observed};
use crate::support::log::Log;
use crate::support::redis_server::RedisServer;
use crate::support::{CACHE_BYTES, Failed, Scripted, Server, manual_clock, question};

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const YEARS: Duration = Duration::from_hours(10 * 365 * 24);

/// A vendor, and servers one after the other over one file.
struct Fixture {
    vendor: Scripted,
    folder: TempDir,
}

impl Fixture {
    async fn new() -> Self {
        Self { vendor: Scripted::start().await, folder: tempfile::tempdir().unwrap() }
    }

    async fn start(&self, clock: &ManualClock) -> Server {
        let config = format!(
            "store.url = \"file:{}\"\n[accounts.h]\nprovider = \"haoka\"\nuser_id = \"a\"\n\
             secret = \"b\"\nbase_url = \"http://{}\"\ncalls_per_order_per_day = 2\n",
            self.folder.path().join("orders.redb").display(),
            self.vendor.address
        );
        Server::start_at(&config, Arc::new(clock.clone())).await
    }
}

async fn stop(server: Server) {
    let Server { app, channel, client } = server;
    drop((channel, client));
    app.stop().await;
}

async fn get_fresh(server: &Server, id: &str) -> Result<GetOrderResponse, Failed> {
    let max_age = Some(prost_types::Duration::default());
    server.get(GetOrderRequest { max_age, ..question(Provider::Haoka, id) }).await
}

fn haoka(status: &str) -> String {
    format!("{{\"code\":0,\"data\":{{\"orderNo\":\"1\",\"orderStatus\":\"{status}\"}}}}")
}

const BLOCKED: &str = r#"{"code":-1,"message":"操作频繁"}"#;

#[tokio::test]
async fn limits_pauses_and_answers_recover_after_the_clock_was_ahead() {
    for ahead in [HOUR * 30, YEARS] {
        let fixture = Fixture::new().await;
        let clock = manual_clock();
        clock.advance(ahead);
        let server = fixture.start(&clock).await;
        fixture.vendor.answers(200, haoka("待处理"));
        get_fresh(&server, "A1").await.unwrap();
        clock.advance(Duration::from_secs(1));
        get_fresh(&server, "A1").await.unwrap();
        fixture.vendor.answers(200, BLOCKED);
        get_fresh(&server, "A2").await.unwrap_err();
        stop(server).await;

        let clock = manual_clock();
        let server = fixture.start(&clock).await;
        fixture.vendor.answers(200, haoka("已发货"));
        let before = fixture.vendor.asked().len();
        let spent = get_fresh(&server, "A1").await.unwrap_err();
        assert_eq!(spent.reason, "PROVIDER_QUOTA_EXHAUSTED");
        let flight = Duration::from_secs(30);
        assert_eq!(spent.retry_delay, Some(DAY + flight), "{ahead:?}");
        let paused = get_fresh(&server, "A2").await.unwrap_err();
        assert_eq!(paused.retry_delay, Some(HOUR), "{ahead:?}");
        assert_eq!(fixture.vendor.asked().len(), before, "nothing was sent");

        clock.advance(HOUR);
        get_fresh(&server, "A2").await.unwrap();
        clock.advance(DAY.saturating_sub(HOUR) + flight);
        let live = server.get(question(Provider::Haoka, "A1")).await.unwrap();
        assert_eq!(live.source(), Source::Live);
        let again = server.get(question(Provider::Haoka, "A1")).await.unwrap();
        assert_eq!(again.source(), Source::Cache, "the answer of the future gave way");
        assert_eq!(again.order.unwrap().status(), OrderStatus::Shipped);
    }
}

/// A server over Redis, whose own clock is right.
async fn over_redis(redis: &RedisServer, vendor: &Scripted, clock: &ManualClock) -> Server {
    let config = format!(
        "store.url = \"{}\"\n[accounts.d]\nprovider = \"dingshang\"\napp_id = \"ds\"\n\
         app_secret = \"s\"\nmachine_no = \"16327129\"\nbase_url = \"http://{}\"\n",
        redis.url(),
        vendor.address
    );
    Server::start_at(&config, Arc::new(clock.clone())).await
}

fn dingshang(status: &str) -> String {
    format!("{{\"code\":0,\"data\":{{\"order_id\":54,\"status\":\"{status}\"}}}}")
}

#[tokio::test]
async fn an_answer_dated_ahead_by_a_replica_delays_no_watcher_and_no_caller() {
    let (redis, vendor) = (RedisServer::start(), Scripted::start().await);
    let now = SystemClock.now();
    let server = over_redis(&redis, &vendor, &ManualClock::new(now + YEARS)).await;
    vendor.answers(200, dingshang("NOTPAY"));
    server.order(Provider::Dingshang, "54").await.unwrap();
    stop(server).await;

    let clock = ManualClock::new(now);
    let server = over_redis(&redis, &vendor, &clock).await;
    vendor.answers(503, "");
    let stale = server.get(question(Provider::Dingshang, "54")).await.unwrap();
    assert_eq!(stale.source(), Source::Stale);
    let refresh: SystemTime = stale.refresh_time.unwrap().try_into().unwrap();
    assert!(refresh <= now + HOUR, "to ask again is not years away: {refresh:?}");
    let provider = Provider::Dingshang.into();
    let order = OrderRef { provider, id: "54".to_owned(), ..OrderRef::default() };
    let request = WatchOrderRequest { order: Some(order), ..Default::default() };
    let mut watch = server.client.clone().watch_order(request).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().source(), Source::Stale);

    vendor.answers(200, dingshang("SUCCESS"));
    let hears = async {
        let told = watch.message();
        tokio::pin!(told);
        loop {
            // The wait before the next call is shorter, and so is the breaker's.
            clock.advance(Duration::from_mins(1));
            tokio::select! {
                news = &mut told => return news.unwrap().unwrap(),
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
    };
    let news = tokio::time::timeout(Duration::from_secs(30), hears).await.expect("news");
    assert_eq!(news.order.unwrap().status(), OrderStatus::Paid);
    let again = server.get(question(Provider::Dingshang, "54")).await.unwrap();
    assert_eq!(again.order.as_ref().unwrap().status(), OrderStatus::Paid);
    assert_ne!(again.source(), Source::Stale);
}

/// Stores one entry of every kind, written by a clock that is ahead.
async fn fill(store: &dyn Store) {
    store.reserve(&call("a", &[minute("w", 1)])).await.unwrap();
    store.pause(&"account".into(), Duration::from_mins(1), true).await.unwrap();
}

/// Reads from and reserves in a store with such times.
async fn use_it(store: &dyn Store) {
    for n in 0..3 {
        let _ = store.reserve(&call(&n.to_string(), &[minute("w", 1)])).await;
        let _ = store.reserve(&call(&n.to_string(), &[])).await;
        let _ = store.put(&"order".into(), &observed(n, "")).await;
        let _ = store.get(&"order".into(), Some(&"w".into())).await;
    }
}

#[track_caller]
fn assert_logged_once(log: &Log, clock: &str, hours: u64) {
    let text = log.text();
    let lines: Vec<_> = text.lines().filter(|line| line.contains("impossible times")).collect();
    assert_eq!(lines.len(), 1, "{text}");
    assert!(lines[0].contains("WARN") && lines[0].contains(clock), "{text}");
    let (_, seconds) = lines[0].split_once("seconds=").unwrap();
    let seconds: u64 = seconds.split_whitespace().next().unwrap().parse().unwrap();
    let told = Duration::from_secs(seconds);
    let ahead = Duration::from_hours(hours);
    assert!(told <= ahead && told + DAY >= ahead, "{text}");
}

#[tokio::test]
async fn the_log_reports_once_whose_clock_was_ahead_and_by_how_much() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.redb");
    let open = |path: &Path, clock: &ManualClock| {
        File::open(path, CACHE_BYTES, Arc::new(clock.clone())).unwrap()
    };
    let redis = RedisServer::start();
    for hours in [3, 30, 10 * 365 * 24] {
        let (right, ahead) = (manual_clock(), manual_clock());
        ahead.advance(Duration::from_hours(hours));
        let store = open(&path, &ahead);
        fill(&store).await;
        drop(store);
        let log = Log::start();
        let store = open(&path, &right);
        use_it(&store).await;
        assert_logged_once(&log, "this machine's", hours);
        drop((store, log));
        std::fs::remove_file(&path).unwrap();

        let at = |clock: &ManualClock| -> Redis {
            redis.store_at(Arc::new(right.clone())).timed_by(Arc::new(clock.clone()))
        };
        fill(&at(&ahead)).await;
        let log = Log::start();
        use_it(&at(&right)).await;
        assert_logged_once(&log, "the Redis server's", hours);
        drop(log);
        redis.clear();
        // Only the orders depend on a replica's clock.
        let state = observed(i64::try_from(hours * 3600).unwrap(), "");
        at(&right).put(&"order".into(), &state).await.unwrap();
        let log = Log::start();
        use_it(&at(&right)).await;
        assert_logged_once(&log, "a replica's", hours);
        redis.clear();
    }
    // Ordinary times are not logged, to the second.
    for back in [Duration::ZERO, Duration::from_secs(1)] {
        let (right, ahead) = (manual_clock(), manual_clock());
        ahead.advance(back);
        let store = open(&path, &ahead);
        fill(&store).await;
        drop(store);
        let log = Log::start();
        use_it(&open(&path, &right)).await;
        assert!(!log.text().contains("impossible times"), "{}", log.text());
        std::fs::remove_file(&path).unwrap();
    }
}
