//! Three replicas, each the real binary in its own process, on one real Redis: they share limits,
//! answers and WeChat's token, and survive the loss of Redis.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use order_query::clock::SystemClock;
use order_query::pb::order_service_client::OrderServiceClient;
use order_query::pb::{
    GetOrderRequest, GetOrderResponse, OrderRef, OrderStatus, Provider, Source, WatchOrderRequest,
};
use order_query::sandbox::{Kind, Sandbox};

use crate::support::child::Serving;
use crate::support::redis_server::RedisServer;
use crate::support::{Failed, Scripted, connect, question, sandbox_at};

/// The vendors, Redis, and the replicas.
struct Fixture {
    sandbox: Sandbox,
    redis: RedisServer,
    replicas: Vec<Serving>,
}

impl Fixture {
    async fn new(change: impl Fn(&str) -> String) -> Self {
        let sandbox = sandbox_at(Arc::new(SystemClock)).await;
        let redis = RedisServer::start();
        let config = format!("store.url = \"{}\"\n{}", redis.url(), change(&sandbox.accounts()));
        let replicas = (0..3).map(|_| Serving::start(&config)).collect();
        Self { sandbox, redis, replicas }
    }

    /// One request to one replica.
    async fn ask(
        &self,
        replica: usize,
        provider: Provider,
        id: &str,
        insists: bool,
    ) -> Result<GetOrderResponse, Failed> {
        let channel = connect(self.replicas[replica].address).await;
        let max_age = insists.then(prost_types::Duration::default);
        let request = GetOrderRequest { max_age, ..question(provider, id) };
        let answer = OrderServiceClient::new(channel).get_order(request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| Failed::from(&status))
    }

    /// How many calls each order had, and how many fetched a token.
    fn asked(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for arrival in self.sandbox.arrivals() {
            let what = match arrival.kind {
                Kind::Token => "token".to_owned(),
                _ => arrival.order_id.unwrap_or_default(),
            };
            *counts.entry(what).or_default() += 1;
        }
        counts
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_share_limits_answers_and_the_token() {
    let fixture = Fixture::new(str::to_owned).await;
    // Concurrent equal requests at all replicas.
    let calls = (0..60).map(|n| fixture.ask(n % 3, Provider::Haoka, "shipped", false));
    assert!(join_all(calls).await.iter().all(Result::is_ok));
    assert_eq!(fixture.asked()["shipped"], 1);

    // One token for the orders of all.
    let ids = ["status-1", "status-2", "status-3", "status-5", "status-6", "status-7"];
    let calls =
        ids.iter().enumerate().map(|(n, id)| fixture.ask(n % 3, Provider::Wechat, id, false));
    assert!(join_all(calls).await.iter().all(Result::is_ok));
    assert_eq!(fixture.asked()["token"], 1);

    // A terminal order is known everywhere, and never fetched again.
    for n in 0..30 {
        let answer = fixture.ask(n % 3, Provider::Haoka, "settled", true).await.unwrap();
        assert_eq!(answer.source() == Source::Live, n == 0);
    }
    assert_eq!(fixture.asked()["settled"], 1);

    // Ten calls a day for one order, across replicas.
    let mut answered = 0;
    for n in 0..15 {
        answered += usize::from(fixture.ask(n % 3, Provider::Haoka, "pending", true).await.is_ok());
    }
    assert_eq!((answered, fixture.asked()["pending"]), (10, 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_share_the_limit_per_minute() {
    let fixture =
        Fixture::new(|accounts| accounts.replace("user_id", "calls_per_minute = 20\nuser_id"))
            .await;
    let ids: Vec<String> = (0..60).map(|n| format!("order-{n}")).collect();
    let calls =
        ids.iter().enumerate().map(|(n, id)| fixture.ask(n % 3, Provider::Haoka, id, false));
    let refused = join_all(calls).await.into_iter().filter_map(Result::err);
    let refused = refused.filter(|failed| failed.reason == "PROVIDER_QUOTA_EXHAUSTED").count();
    assert_eq!((refused, fixture.asked().values().sum::<usize>()), (40, 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_cached_orders_are_served_and_no_uncounted_call_is_sent() {
    let mut fixture = Fixture::new(str::to_owned).await;
    for (provider, id) in
        [(Provider::Haoka, "settled"), (Provider::Haoka, "shipped"), (Provider::Wechat, "status-2")]
    {
        fixture.ask(0, provider, id, false).await.unwrap();
    }
    let before = fixture.asked();
    fixture.redis.kill();
    let settled = fixture.ask(0, Provider::Haoka, "settled", true).await.unwrap();
    assert_eq!(settled.source(), Source::Cache);
    let shipped = fixture.ask(0, Provider::Haoka, "shipped", false).await.unwrap();
    assert_eq!(shipped.source(), Source::Cache);
    // A limited account fails closed; one without limits continues, with its cached token.
    let failed = fixture.ask(0, Provider::Haoka, "pending", false).await.unwrap_err();
    assert_eq!(failed.reason, "STORE_UNAVAILABLE");
    assert!(failed.retry_delay.is_some());
    let answer = fixture.ask(0, Provider::Wechat, "status-3", false).await.unwrap();
    assert_eq!(answer.source(), Source::Live);
    assert_eq!(fixture.asked().get("pending"), before.get("pending"));
    assert_eq!(fixture.asked()["token"], 1);

    // Redis is back, and empty: everything recovers by itself.
    fixture.redis.restart();
    loop {
        match fixture.ask(0, Provider::Haoka, "pending", false).await {
            Ok(_) => break,
            Err(failed) => assert_eq!(failed.reason, "STORE_UNAVAILABLE"),
        }
    }
}

/// The configuration of an account at that vendor.
fn config(redis: &RedisServer, vendor: &Scripted) -> String {
    format!(
        "store.url = \"{}\"\n[accounts.h]\nprovider = \"haoka\"\n\
         user_id = \"agent\"\nsecret = \"agent-secret\"\nbase_url = \"http://{}\"\n",
        redis.url(),
        vendor.address
    )
}

/// The vendor's answer with that status.
fn answer(status: &str) -> String {
    format!("{{\"code\":0,\"data\":{{\"orderStatus\":\"{status}\"}}}}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_replica_learns_another_one_answers_from_memory() {
    let (vendor, redis) = (Scripted::start().await, RedisServer::start());
    let config = config(&redis, &vendor);
    let replicas = [Serving::start(&config), Serving::start(&config)];
    redis.until_heard_by(2).await;
    let [mut here, mut there] = [
        OrderServiceClient::new(connect(replicas[0].address).await),
        OrderServiceClient::new(connect(replicas[1].address).await),
    ];
    let mut ask = async |replica: usize, max_age| {
        let replica = if replica == 0 { &mut here } else { &mut there };
        let request = GetOrderRequest { max_age, ..question(Provider::Haoka, "A1") };
        let answer = replica.get_order(request).await.unwrap().into_inner();
        (answer.source(), answer.order.unwrap().status())
    };
    vendor.answers(200, answer("待处理"));
    assert_eq!(ask(0, None).await, (Source::Live, OrderStatus::Accepted));
    assert_eq!(ask(1, None).await, (Source::Cache, OrderStatus::Accepted));
    vendor.answers(200, answer("已发货"));
    let live = Some(prost_types::Duration::default());
    assert_eq!(ask(0, live).await, (Source::Live, OrderStatus::Shipped));
    let soon = async {
        // The first answer is still fresh enough for this caller.
        while ask(1, None).await != (Source::Cache, OrderStatus::Shipped) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), soon).await.expect("the newer answer");
    assert_eq!(vendor.asked().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_receives_updates_from_another_replica_without_a_call() {
    let (vendor, redis) = (Scripted::start().await, RedisServer::start());
    let config = config(&redis, &vendor);
    let replicas = [Serving::start(&config), Serving::start(&config)];
    let [mut here, mut there] = [
        OrderServiceClient::new(connect(replicas[0].address).await),
        OrderServiceClient::new(connect(replicas[1].address).await),
    ];
    let provider = Provider::Haoka.into();
    let order = OrderRef { provider, id: "A1".to_owned(), ..OrderRef::default() };

    vendor.answers(200, answer("待处理"));
    let request = WatchOrderRequest { order: Some(order), ..Default::default() };
    let mut watch = here.watch_order(request).await.unwrap().into_inner();
    let mut told = async || watch.message().await.unwrap().unwrap().order.unwrap().status();
    assert_eq!(told().await, OrderStatus::Accepted);

    vendor.answers(200, answer("已发货"));
    let max_age = Some(prost_types::Duration::default());
    there.get_order(GetOrderRequest { max_age, ..question(Provider::Haoka, "A1") }).await.unwrap();
    assert_eq!(told().await, OrderStatus::Shipped);
    assert_eq!(vendor.asked().len(), 2);
}
