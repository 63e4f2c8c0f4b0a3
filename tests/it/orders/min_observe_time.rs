//! Never back in time: answers observed at the caller's `min_observe_time` or later, by two replicas over
//! one Redis, and how often the vendor is asked for them.

use std::sync::Arc;
use std::time::Duration;

use order_query::clock::{Clock as _, ManualClock};
use order_query::pb::order_result::Result as Outcome;
use order_query::pb::{
    BatchGetOrdersRequest, GetOrderRequest, Order, OrderRef, Provider, Source, WatchOrderRequest,
    WatchOrderResponse,
};
use prost_types::Timestamp;
use tonic::Streaming;

use crate::support::redis_server::{RedisServer, rights};
use crate::support::{Failed, Reply, Scripted, Server, manual_clock, question};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// The replicas.
const HERE: usize = 0;
const THERE: usize = 1;

/// A question that the vendor is asked for now.
const NOW: Option<Duration> = Some(Duration::ZERO);

/// A vendor that numbers its answers, and two replicas, each with a clock of its own.
struct Fixture {
    provider: Provider,
    vendor: Scripted,
    clocks: [ManualClock; 2],
    servers: [Server; 2],
    _redis: RedisServer,
}

impl Fixture {
    /// Dingshang has no limits.
    async fn unlimited() -> Self {
        Self::new(Provider::Dingshang, Duration::ZERO).await
    }

    /// Haoka, with one call a day for an order.
    async fn limited() -> Self {
        Self::new(Provider::Haoka, Duration::ZERO).await
    }

    /// The clock of the replica `HERE` is that far ahead.
    async fn new(provider: Provider, ahead: Duration) -> Self {
        let (redis, vendor) = (RedisServer::start(), Scripted::start().await);
        // No news passes between the replicas: this must hold where it is lost, too.
        let silent: Vec<_> = rights().into_iter().filter(|right| *right != "+publish").collect();
        redis.set_rights(&silent);
        let account = match provider {
            Provider::Haoka => {
                "[accounts.h]\nprovider = \"haoka\"\nuser_id = \"a\"\nsecret = \"b\"\n\
                 calls_per_order_per_day = 1\n"
            }
            _ => {
                "[accounts.d]\nprovider = \"dingshang\"\napp_id = \"ds\"\napp_secret = \"s\"\n\
                 machine_no = \"16327129\"\n"
            }
        };
        let (redis_url, address) = (redis.url(), vendor.address);
        let config =
            format!("store.url = \"{redis_url}\"\n{account}base_url = \"http://{address}\"\n");
        let clocks = [manual_clock(), manual_clock()];
        clocks[HERE].advance(ahead);
        let start = |replica: usize| Server::start_at(&config, Arc::new(clocks[replica].clone()));
        let servers = [start(HERE).await, start(THERE).await];
        let replies = (1..500).map(|number| {
            let data = match provider {
                Provider::Haoka => format!("\"orderNo\":\"{number}\",\"orderStatus\":\"已发货\""),
                _ => format!("\"order_id\":54,\"status\":\"NOTPAY\",\"trade_id\":\"{number}\""),
            };
            Reply::new(200, format!("{{\"code\":0,\"data\":{{{data}}}}}"))
        });
        vendor.replies_at("", replies);
        Self { provider, vendor, clocks, servers, _redis: redis }
    }

    fn pass(&self, time: Duration) {
        for clock in &self.clocks {
            clock.advance(time);
        }
    }

    fn now(&self, replica: usize) -> Timestamp {
        self.clocks[replica].now().into()
    }

    async fn ask(
        &self,
        replica: usize,
        max_age: Option<Duration>,
        min_observe_time: Option<Timestamp>,
    ) -> Result<Seen, Failed> {
        let max_age = max_age.map(|age| age.try_into().unwrap());
        let request =
            GetOrderRequest { max_age, min_observe_time, ..question(self.provider, "54") };
        let answer = self.servers[replica].get(request).await?;
        Ok(Seen::new(answer.source(), &answer.order.unwrap()))
    }

    fn order(&self, id: &str) -> OrderRef {
        OrderRef { provider: self.provider.into(), id: id.to_owned(), ..OrderRef::default() }
    }

    async fn watch(
        &self,
        replica: usize,
        min_observe_time: Option<Timestamp>,
    ) -> Streaming<WatchOrderResponse> {
        let request = WatchOrderRequest { order: Some(self.order("54")), min_observe_time };
        let answer = self.servers[replica].client.clone().watch_order(request).await;
        answer.unwrap().into_inner()
    }

    fn asked(&self) -> usize {
        self.vendor.asked().len()
    }
}

/// What a caller sees of an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Seen {
    source: Source,
    /// Which of the vendor's answers it is.
    number: u32,
    observed: Timestamp,
}

impl Seen {
    fn new(source: Source, order: &Order) -> Self {
        let number = format!("{}{}", order.provider_order_id, order.merchant_order_id);
        let observed = order.observe_time.unwrap();
        Self { source, number: number.parse().unwrap(), observed }
    }
}

/// The next state that a watcher receives.
async fn next(watch: &mut Streaming<WatchOrderResponse>) -> Seen {
    let news = tokio::time::timeout(10 * SECOND, watch.message()).await.expect("news");
    let news = news.unwrap().unwrap();
    Seen::new(news.source(), news.order.as_ref().unwrap())
}

fn parts(time: &Timestamp) -> (i64, i32) {
    (time.seconds, time.nanos)
}

#[tokio::test]
async fn the_store_is_read_before_the_vendor_is_asked() {
    let fixture = Fixture::unlimited().await;
    let first = fixture.ask(HERE, None, None).await.unwrap();
    // Now both know the first answer.
    assert_eq!(fixture.ask(THERE, None, None).await.unwrap().number, 1);
    fixture.pass(2 * SECOND);
    let later = fixture.ask(HERE, NOW, None).await.unwrap();
    assert_eq!(fixture.ask(THERE, None, None).await.unwrap().number, 1, "it need not be later");
    let same = fixture.ask(THERE, None, Some(first.observed)).await.unwrap();
    assert_eq!((same.source, same.number), (Source::Cache, 1));
    let read = fixture.ask(THERE, None, Some(later.observed)).await.unwrap();
    assert_eq!(read, Seen { source: Source::Cache, ..later });
    assert_eq!(fixture.asked(), 2);
}

#[tokio::test]
async fn where_all_is_older_the_vendor_is_asked_once() {
    let fixture = Fixture::unlimited().await;
    fixture.ask(HERE, None, None).await.unwrap();
    fixture.pass(SECOND);
    let earliest = Some(fixture.now(THERE));
    let live = fixture.ask(THERE, None, earliest).await.unwrap();
    assert_eq!((live.source, live.number), (Source::Live, 2));
    for replica in [THERE, HERE] {
        let kept = fixture.ask(replica, None, earliest).await.unwrap();
        assert_eq!(kept, Seen { source: Source::Cache, ..live });
    }
    assert_eq!(fixture.asked(), 2);
    // Both fields hold: an answer that is late enough may be too old.
    fixture.pass(2 * SECOND);
    assert_eq!(fixture.ask(HERE, Some(SECOND), earliest).await.unwrap().number, 3);
}

#[tokio::test]
async fn without_a_call_left_it_fails_rather_than_go_back() {
    let fixture = Fixture::limited().await;
    let first = fixture.ask(HERE, None, None).await.unwrap();
    fixture.pass(HOUR);
    let later = Some(fixture.now(HERE));
    for replica in [HERE, THERE] {
        let failed = fixture.ask(replica, None, later).await.unwrap_err();
        assert_eq!(failed.reason, "PROVIDER_QUOTA_EXHAUSTED");
        assert!(failed.retry_delay.is_some());
        for earliest in [None, Some(first.observed)] {
            let stale = fixture.ask(replica, None, earliest).await.unwrap();
            assert_eq!(stale, Seen { source: Source::Stale, ..first }, "{earliest:?}");
        }
    }
    assert_eq!(fixture.asked(), 1);
}

#[tokio::test]
async fn where_the_vendor_fails_it_fails_rather_than_go_back() {
    let fixture = Fixture::unlimited().await;
    let first = fixture.ask(HERE, None, None).await.unwrap();
    fixture.pass(MINUTE);
    fixture.vendor.answers(503, "");
    let failed = fixture.ask(HERE, None, Some(fixture.now(HERE))).await.unwrap_err();
    assert_eq!(failed.reason, "PROVIDER_UNAVAILABLE");
    for earliest in [None, Some(first.observed)] {
        let stale = fixture.ask(HERE, None, earliest).await.unwrap();
        assert_eq!(stale, Seen { source: Source::Stale, ..first }, "{earliest:?}");
    }
}

#[tokio::test]
async fn a_terminal_order_satisfies_any_time() {
    let fixture = Fixture::limited().await;
    let settled = r#"{"code":0,"data":{"orderNo":"1","orderStatus":"已结算"}}"#;
    fixture.vendor.answers(200, settled);
    fixture.ask(HERE, None, None).await.unwrap();
    fixture.pass(24 * HOUR);
    for replica in [HERE, THERE] {
        let later = Some(fixture.now(replica));
        let kept = fixture.ask(replica, None, later).await.unwrap();
        assert_eq!((kept.source, kept.number), (Source::Cache, 1));
        let mut watch = fixture.watch(replica, later).await;
        assert_eq!(next(&mut watch).await.number, 1);
        assert!(watch.message().await.unwrap().is_none());
    }
    assert_eq!(fixture.asked(), 1);
}

#[tokio::test]
async fn an_unknown_order_is_asked_for_again_where_the_caller_has_seen_it_since() {
    let fixture = Fixture::limited().await;
    fixture.vendor.answers(200, r#"{"code":-1,"message":"订单不存在"}"#);
    let asked_at = fixture.now(HERE);
    let reason = fixture.ask(HERE, None, None).await.unwrap_err().reason;
    assert_eq!(reason, "ORDER_NOT_FOUND");
    fixture.pass(SECOND);
    for earliest in [None, Some(asked_at)] {
        let failed = fixture.ask(HERE, None, earliest).await.unwrap_err();
        assert_eq!(failed.reason, "ORDER_NOT_FOUND", "{earliest:?}");
    }
    assert_eq!(fixture.asked(), 1);
    // The day's one call is spent: who needs a later word gets none.
    let failed = fixture.ask(HERE, None, Some(fixture.now(HERE))).await.unwrap_err();
    assert_eq!(failed.reason, "PROVIDER_QUOTA_EXHAUSTED");
}

#[tokio::test]
async fn each_order_of_a_batch_is_late_enough() {
    let fixture = Fixture::limited().await;
    fixture.ask(HERE, None, None).await.unwrap();
    fixture.pass(SECOND);
    let other = question(fixture.provider, "55");
    fixture.servers[HERE].get(other).await.unwrap();
    let batch = async |min_observe_time| {
        let orders = vec![fixture.order("54"), fixture.order("55")];
        let request = BatchGetOrdersRequest { orders, min_observe_time, ..Default::default() };
        let answer = fixture.servers[HERE].client.clone().batch_get_orders(request).await;
        let results = answer.unwrap().into_inner().results;
        results
            .into_iter()
            .map(|result| match result.result.unwrap() {
                Outcome::Found(found) => found.source().as_str_name().to_owned(),
                Outcome::Error(error) => error.reason().as_str_name().to_owned(),
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(batch(None).await, ["SOURCE_CACHE", "SOURCE_CACHE"]);
    let now = Some(fixture.now(HERE));
    assert_eq!(batch(now).await, ["ERROR_REASON_PROVIDER_QUOTA_EXHAUSTED", "SOURCE_CACHE"]);
    assert_eq!(fixture.asked(), 2);
}

/// Asks the replicas in turn, as a caller that keeps the latest time that it has seen. Returns the numbers
/// of the answers.
async fn in_turn(fixture: &Fixture, turns: usize) -> Vec<u32> {
    let (mut numbers, mut latest) = (Vec::new(), None);
    for turn in 0..turns {
        let asked = fixture.asked();
        let seen = fixture.ask(turn % 2, None, latest).await.unwrap();
        assert!(fixture.asked() <= asked + 1, "the vendor is asked once");
        numbers.push(seen.number);
        latest = [latest, Some(seen.observed)].into_iter().flatten().max_by_key(parts);
        // Others ask too: each at one replica, and at different times.
        fixture.pass(SECOND);
        if turn % 3 == 0 {
            fixture.ask(turn / 3 % 2, NOW, None).await.unwrap();
        }
    }
    numbers
}

#[tokio::test]
async fn replicas_in_turn_never_go_back_in_time() {
    let numbers = in_turn(&Fixture::unlimited().await, 60).await;
    assert!(numbers.is_sorted(), "{numbers:?}");
    assert!(numbers.last() > Some(&10), "there was news: {numbers:?}");
}

#[tokio::test]
async fn clocks_that_differ_neither_fail_nor_repeat_a_call() {
    for ahead in [SECOND, MINUTE, 2 * MINUTE] {
        let fixture = Fixture::new(Provider::Dingshang, ahead).await;
        in_turn(&fixture, 60).await;
        // The time of a clock that is ahead is later than all that the other one knows.
        let there = fixture.ask(THERE, None, Some(fixture.now(HERE))).await.unwrap();
        assert_eq!(there.source, Source::Live);
        assert!(parts(&there.observed) < parts(&fixture.now(HERE)));
    }
}

#[tokio::test]
async fn a_watcher_gets_the_stores_state_before_the_vendor_is_asked() {
    let fixture = Fixture::unlimited().await;
    fixture.ask(HERE, None, None).await.unwrap();
    fixture.ask(THERE, None, None).await.unwrap();
    fixture.pass(2 * SECOND);
    let later = fixture.ask(HERE, NOW, None).await.unwrap();
    let mut watch = fixture.watch(THERE, Some(later.observed)).await;
    assert_eq!(next(&mut watch).await, Seen { source: Source::Cache, ..later });
    assert_eq!(fixture.asked(), 2);
}
