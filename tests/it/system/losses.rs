//! Three replicas, each the real binary, while Redis loses what it knows: never more calls than the limit
//! reach the vendor, and service returns by itself.

mod cluster;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use order_query::clock::SystemClock;
use order_query::pb::Provider;
use order_query::pb::order_service_client::OrderServiceClient;
use order_query::sandbox::Sandbox;
use tokio::time::Instant;

use crate::support::child::Serving;
use crate::support::redis_proxy::Line;
use crate::support::redis_sentinel::Watched;
use crate::support::redis_server::RedisServer;
use crate::support::{Failed, connect, question, sandbox_at};

const LIMIT: usize = 20;

/// How long a loss may keep calls back.
const BACK: Duration = Duration::from_secs(30);

/// A vendor that admits [`LIMIT`] calls a minute, and three replicas.
struct Fixture {
    sandbox: Sandbox,
    replicas: Vec<Serving>,
}

impl Fixture {
    async fn new(store: &str) -> Self {
        let sandbox = sandbox_at(Arc::new(SystemClock)).await;
        let limited = format!("calls_per_minute = {LIMIT}\nuser_id");
        let accounts = sandbox.accounts().replace("user_id", &limited);
        let config = format!("store.url = \"{store}\"\n{accounts}");
        let replicas = (0..3).map(|_| Serving::start(&config)).collect();
        let fixture = Self { sandbox, replicas };
        // Each one is a member.
        fixture.calls("first", 3).await;
        fixture
    }

    async fn ask(&self, replica: usize, id: &str) -> Result<(), Failed> {
        let channel = connect(self.replicas[replica].address).await;
        let mut client = OrderServiceClient::new(channel);
        let answer = client.get_order(question(Provider::Haoka, id)).await;
        answer.map(drop).map_err(|status| Failed::from(&status))
    }

    /// Asks for so many orders, over all replicas, until each is answered or refused by the limit.
    async fn calls(&self, name: &str, count: usize) {
        let until = Instant::now() + BACK;
        let asked = (0..count).map(|n| async move {
            while let Err(failed) = self.ask(n % self.replicas.len(), &format!("{name}-{n}")).await
            {
                if matches!(&*failed.reason, "PROVIDER_QUOTA_EXHAUSTED" | "ORDER_NOT_FOUND") {
                    return;
                }
                assert_eq!(failed.reason, "STORE_UNAVAILABLE");
                assert!(Instant::now() < until, "service is back: {failed:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        join_all(asked).await;
    }

    fn arrivals(&self) -> usize {
        self.sandbox.arrivals().len()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_at_half_and_at_full_admits_no_call_too_many() {
    let redis = RedisServer::start();
    let fixture = Fixture::new(&redis.url()).await;
    fixture.calls("half", 7).await;
    let () = redis.say(&["FLUSHALL"]);
    assert_eq!(fixture.arrivals(), LIMIT / 2);
    fixture.calls("rest", 40).await;
    assert_eq!(fixture.arrivals(), LIMIT);
    let () = redis.say(&["FLUSHALL"]);
    fixture.calls("more", 40).await;
    assert_eq!(fixture.arrivals(), LIMIT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_under_load_admits_no_call_too_many() {
    let redis = RedisServer::start();
    let fixture = Fixture::new(&redis.url()).await;
    let flush = async {
        tokio::time::sleep(Duration::from_millis(15)).await;
        let () = redis.say(&["FLUSHALL"]);
    };
    tokio::join!(fixture.calls("load", 100), flush);
    assert_eq!(fixture.arrivals(), LIMIT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_comes_back_empty_admits_no_call_too_many() {
    let mut redis = RedisServer::start();
    let fixture = Fixture::new(&redis.url()).await;
    fixture.calls("half", 7).await;
    redis.kill();
    redis.restart();
    fixture.calls("rest", 40).await;
    assert_eq!(fixture.arrivals(), LIMIT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_to_a_copy_that_lagged_admits_no_call_too_many() {
    let (mut primary, copy) = (RedisServer::start(), RedisServer::start());
    let port = primary.port.to_string();
    let () = copy.say(&["REPLICAOF", "127.0.0.1", &port]);
    let line = Line::to(primary.port).await;
    let fixture = Fixture::new(&RedisServer::url_at(line.port)).await;
    until_synced(&copy).await;
    copy.stop();
    fixture.calls("lost", 12).await;
    assert_eq!(fixture.arrivals(), 15);
    primary.kill();
    copy.resume();
    line.lead_to(copy.port);
    let () = copy.say(&["REPLICAOF", "NO", "ONE"]);
    fixture.calls("rest", 40).await;
    assert_eq!(fixture.arrivals(), LIMIT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_failover_with_a_lost_tail_admits_no_call_too_many() {
    let mut watched = Watched::start();
    let fixture = Fixture::new(&watched.url("")).await;
    until_synced(&watched.copy).await;
    watched.copy.stop();
    // What was sent to it already, it reads when it goes on.
    let _: u8 = watched.primary.say(&["CLIENT", "KILL", "TYPE", "replica"]);
    fixture.calls("lost", 12).await;
    assert_eq!(fixture.arrivals(), 15);
    watched.primary.kill();
    watched.copy.resume();
    watched.until_promoted(0).await;
    fixture.calls("rest", 40).await;
    assert_eq!(fixture.arrivals(), LIMIT);
}

/// Waits until the copy has what its primary has.
async fn until_synced(copy: &RedisServer) {
    loop {
        let info: String = copy.say(&["INFO", "replication"]);
        if info.contains("master_link_status:up") && info.contains("master_sync_in_progress:0") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_and_a_crash_at_once_close_the_account() {
    let redis = RedisServer::start();
    let mut fixture = Fixture::new(&redis.url()).await;
    fixture.calls("half", 7).await;
    let crashed = fixture.replicas.pop().unwrap();
    crashed.child.signal("KILL");
    let () = redis.say(&["FLUSHALL"]);
    // Its membership ends, and its calls still count.
    let failed = loop {
        let failed = fixture.ask(0, "more").await.unwrap_err();
        assert_eq!(failed.reason, "STORE_UNAVAILABLE");
        if failed.retry_delay > Some(Duration::from_mins(1)) {
            break failed;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(failed.retry_delay < Some(Duration::from_mins(3)), "{failed:?}");
    assert_eq!(fixture.arrivals(), LIMIT / 2);
}
