//! News between replicas: what one has stored, the others answer from their memory soon. News is only a
//! hint, so lost news, missing rights and garbage do no harm.

use std::time::Duration;

use order_query::pb::{Order, OrderStatus};
use order_query::store::{Redis, Store as _};

use crate::store::redis::faults::{NEVER, assert_all_work, until_it_works};
use crate::store::redis::shared::order;
use crate::support::log::Log;
use crate::support::redis_server::{RedisServer, rights};

const CHANNEL: &str = "order-query:news";

/// The latest time that a state can have.
const LATEST: &str = "999999999999999999999999999999";

fn paid(seconds: i64) -> Order {
    order(seconds, 0, OrderStatus::Paid, false)
}

/// The state that a replica holds in its own memory.
fn held(store: &Redis, order: &str) -> Option<Order> {
    store.peek(&order.into(), None)?.state
}

async fn put(store: &Redis, order: &str, state: &Order) {
    store.put(&order.into(), state).await.unwrap();
}

async fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let wait = async {
        while !happened() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(NEVER, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Two replicas that hear each other.
async fn pair(server: &RedisServer) -> [Redis; 2] {
    let pair = [server.store(), server.store()];
    for store in &pair {
        store.ping().await.unwrap();
    }
    server.until_heard_by(2).await;
    pair
}

/// How many fields of stored states the server has looked at: four for each state that is read.
fn looked_at(server: &RedisServer) -> u64 {
    let stats: String = server.say(&["INFO", "commandstats"]);
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_hstrlen:calls="));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn what_one_replica_stores_another_one_answers_from_memory() {
    let server = RedisServer::start();
    let [a, b] = pair(&server).await;
    // The key of an order may be any text.
    for name in ["1", "haoka:order:2 ü\n"] {
        put(&b, name, &paid(10)).await;
        put(&a, name, &paid(20)).await;
        until("news", || held(&b, name) == Some(paid(20))).await;
        let last = order(30, 0, OrderStatus::Refunded, true);
        put(&b, name, &last).await;
        until("news", || held(&a, name) == Some(last.clone())).await;
    }
    // What a replica does not hold, it does not read.
    put(&a, "not held", &paid(10)).await;
    put(&a, "not held", &paid(20)).await;
    put(&b, "3", &paid(10)).await;
    put(&a, "3", &paid(20)).await;
    until("news", || held(&b, "3") == Some(paid(20))).await;
    assert_eq!(held(&b, "not held"), None);
    // It ends with its store.
    drop(b);
    server.until_heard_by(1).await;
}

#[tokio::test]
async fn a_replicas_own_news_makes_it_read_nothing() {
    let server = RedisServer::start();
    let store = server.store();
    store.ping().await.unwrap();
    server.until_heard_by(1).await;
    let before = looked_at(&server);
    put(&store, "1", &paid(10)).await;
    // This looks at the state that it replaces.
    put(&store, "1", &paid(20)).await;
    let last = order(10, 0, OrderStatus::Refunded, true);
    put(&store, "ended", &last).await;
    put(&store, "2", &paid(10)).await;
    // Later news, which is heard after those. An ended order changes no more.
    for order in ["ended", "2"] {
        let _: u32 = server.say(&["PUBLISH", CHANNEL, &format!("{LATEST} {order}")]);
    }
    until("read", || looked_at(&server) >= before + 8).await;
    assert_eq!(looked_at(&server) - before, 8);
}

#[tokio::test]
async fn a_lost_subscription_is_made_again_and_what_was_missed_is_read() {
    let server = RedisServer::start();
    let [a, b] = pair(&server).await;
    put(&b, "1", &paid(10)).await;
    let killed: u32 = server.say(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    assert_eq!(killed, 2);
    put(&a, "1", &paid(20)).await;
    until("missed news", || held(&b, "1") == Some(paid(20))).await;
    server.until_heard_by(2).await;
    put(&a, "1", &paid(30)).await;
    until("news", || held(&b, "1") == Some(paid(30))).await;
}

/// The calls may have moved to another server, though the old one still answers.
#[tokio::test]
async fn a_new_connection_of_the_calls_makes_a_new_subscription() {
    let server = RedisServer::start();
    let store = server.store();
    store.ping().await.unwrap();
    server.until_heard_by(1).await;
    let subscriber = || -> String {
        let list: String = server.say(&["CLIENT", "LIST", "TYPE", "pubsub"]);
        list.split_whitespace().next().unwrap_or_default().to_owned()
    };
    let before = subscriber();
    let _: u32 = server.say(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    until_it_works(&store).await;
    until("another subscription", || !["", &before].contains(&&*subscriber())).await;
}

#[tokio::test]
async fn without_the_rights_everything_else_works_and_the_log_says_it_once() {
    for missing in ["+subscribe", "+publish", "&order-query:news"] {
        let server = RedisServer::start();
        let fewer: Vec<_> = rights().into_iter().filter(|right| *right != missing).collect();
        server.set_rights(&fewer);
        let log = Log::start();
        let store = server.store();
        store.ping().await.unwrap();
        let said = || log.text().lines().filter(|line| line.contains("news")).count();
        until(missing, || said() == 1).await;
        assert_all_work(&store, "1").await;
        store.ping().await.unwrap();
        let text = log.text();
        let line = text.lines().find(|line| line.contains("news does not pass")).unwrap();
        assert!(
            line.contains("WARN") && line.contains("NOPERM") && line.contains("grant +publish")
        );
        assert_eq!(said(), 1, "{text}");
        assert!(!text.contains("the shared store refuses commands"), "{text}");
    }
}

#[tokio::test]
async fn garbage_on_the_channel_changes_nothing() {
    let server = RedisServer::start();
    let [a, b] = pair(&server).await;
    put(&b, "1", &paid(10)).await;
    let before = b.held();
    let client = redis::Client::open(format!("redis://127.0.0.1:{}", server.port)).unwrap();
    let mut hostile = client.get_connection().unwrap();
    let mut messages = redis::pipe();
    let mut publish = |message: &[u8]| {
        messages.cmd("PUBLISH").arg(CHANNEL).arg(message).ignore();
    };
    for message in ["", " ", "1", LATEST, "later 1", &format!("{LATEST} "), &format!("-{LATEST} 1")]
    {
        publish(message.as_bytes());
    }
    publish(&vec![0xff; 1 << 20]);
    publish(&[&b"\xff "[..], LATEST.as_bytes()].concat());
    for n in 0..2_000 {
        publish(format!("{LATEST} 1").as_bytes());
        publish(format!("{LATEST} unknown {n}").as_bytes());
    }
    let flood = tokio::task::spawn_blocking(move || messages.exec(&mut hostile).unwrap());
    flood.await.unwrap();
    until_it_works(&b).await;
    // A stored value that is garbage too: it is no state.
    let _: u32 = server.say(&["DEL", "order-query:order:1"]);
    let _: u32 = server.say(&["HSET", "order-query:order:1", "state", "garbage"]);
    let _: u32 = server.say(&["PUBLISH", CHANNEL, &format!("{LATEST} 1")]);
    put(&b, "2", &paid(10)).await;
    put(&a, "2", &paid(20)).await;
    until("news", || held(&b, "2") == Some(paid(20))).await;
    assert_eq!(held(&b, "1"), Some(paid(10)));
    assert_eq!(held(&b, "unknown 1"), None);
    assert!(b.held().cache < 3 * before.cache, "{:?}", b.held().cache);
}
