//! What stores hold in memory: as many bytes as configured.
#![allow(clippy::print_stdout, reason = "how a process reports")]

use std::env;
use std::process::Command;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};
use order_query::clock::SystemClock;
use order_query::pb::{GetOrderRequest, Order, OrderItem, Provider};
use order_query::store::{Held, Memory, Store as _};

use super::{Fixture, call, ended, minute, observed, recalled};
use crate::support::child::{Serving, exact};
use crate::support::played::{Asked, Played, answer};
use crate::support::redis_server::RedisServer;
use crate::support::scrape::{page, value};
use crate::support::{CACHE_BYTES, bare_client, peak_memory};

/// An order of this many bytes.
fn large(seconds: i64, bytes: usize) -> Order {
    observed(seconds, &"x".repeat(bytes))
}

pub async fn cached_orders_are_bounded_by_their_bytes<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    assert_eq!(store.held(), Held::default());
    for number in 0..200 {
        store.put(&number.to_string().into(), &large(number, CACHE_BYTES / 100)).await.unwrap();
    }
    let held = store.held().cache;
    assert!((CACHE_BYTES / 2..=CACHE_BYTES).contains(&held), "{held}");
    assert_eq!(store.peek(&"0".into(), None), None);
    let last = Some(large(199, CACHE_BYTES / 100));
    assert_eq!(store.peek(&"199".into(), None).and_then(|known| known.state), last);
    store.put(&"199".into(), &large(200, 2 * CACHE_BYTES)).await.unwrap();
    assert_eq!(store.peek(&"199".into(), None), None, "it is larger than all of it");
    assert!(store.held().cache < held);
}

pub async fn spent_calls_in_memory_are_counted<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    for id in ["1", "2"] {
        store.reserve(&call(id, &[minute("w", 9)])).await.unwrap();
    }
    let two = store.held().spent_calls;
    store.cancel(&call("1", &[minute("w", 9)])).await.unwrap();
    assert!(two > 0 && store.held().spent_calls * 2 == two, "{two}");
}

#[tokio::test]
async fn terminal_orders_are_outside_the_memory_stores_cache_bound() {
    let store: Arc<dyn order_query::store::Store> =
        Arc::new(Memory::new(1000, Arc::new(SystemClock)));
    for number in 0..100 {
        store.put(&number.to_string().into(), &ended(1, &"x".repeat(100))).await.unwrap();
    }
    assert!(store.held().terminal > 100 * 100 && store.held().cache == 0);
    assert!(recalled(&store, "0").await.is_some());
}

/// Tells a child process to cache many orders.
const PART: &str = "ORDER_QUERY_TEST_HOLDS";

/// How many bytes it may cache.
const MANY: usize = 64 << 20;

/// Not a test by itself: the process that the test below starts.
#[tokio::test]
async fn the_child_process_caches_many_orders() {
    if env::var_os(PART).is_none() {
        return;
    }
    let store = Memory::new(MANY, Arc::new(SystemClock));
    let item = |product: &str| OrderItem {
        sku_name: product.to_owned(),
        quantity: Some(1),
        ..OrderItem::default()
    };
    let order = Order {
        items: vec![item("water"), item("tea"), item("juice")],
        ..observed(1, "an ordinary order")
    };
    for number in 0..220_000 {
        store.put(&format!("dingshang:app:16327129:{number}").into(), &order).await.unwrap();
    }
    println!("{MARK}{} {}", store.held().cache, peak_memory(std::process::id()));
}

const MARK: &str = "\u{1}";

#[test]
fn the_cache_bound_matches_real_memory() {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args([
        "--exact",
        &exact(module_path!(), "the_child_process_caches_many_orders"),
        "--nocapture",
    ]);
    let told = command.env(PART, "1").output().unwrap();
    let text = String::from_utf8(told.stdout).unwrap();
    let (_, numbers) = text.split_once(MARK).expect(&text);
    let numbers: Vec<u64> =
        numbers.lines().next().unwrap().split(' ').map(|number| number.parse().unwrap()).collect();
    let [held, peak] = numbers[..] else { panic!("{text}") };
    assert!(held > 50 << 20 && held <= 64 << 20, "{} MiB are held", held >> 20);
    assert!(peak <= 96 << 20, "{} MiB", peak >> 20);
}

/// A vendor whose every order has 1,000 lines, in 230 KB.
async fn vendor() -> Played {
    let item = format!(
        r#"{{"id":70,"product_id":121,"product_name":"{}","quantity":1,"price":"2.50","status":"IS_SUCCESS"}}"#,
        "x".repeat(130)
    );
    let items = vec![item; 1000].join(",");
    assert!(items.len() > 220_000 && items.len() < 250_000);
    Played::start(move |asked: Asked| {
        let id = asked.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
        let body = format!(
            r#"{{"code":0,"data":{{"order_id":{id},"date":"2024-04-26","amount":"2.50","status":"SUCCESS","records":[{items}]}}}}"#
        );
        async move { answer(200, body) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_orders_are_bounded_in_every_store() {
    const ORDERS: usize = 120;
    const CACHE: f64 = 2_097_152.0;
    let (vendor, redis, folder) =
        (vendor().await, RedisServer::start(), tempfile::tempdir().unwrap());
    let file = format!("file:{}/orders.redb", folder.path().display());
    for url in ["memory:".to_owned(), file, redis.url()] {
        let server = Serving::start(&format!(
            "[store]\nurl = \"{url}\"\ncache_bytes = 2_097_152\n[accounts.vending]\n\
             provider = \"dingshang\"\nbase_url = \"{}\"\napp_id = \"d\"\napp_secret = \"s\"\n\
             machine_no = \"16327129\"\n",
            vendor.url()
        ));
        let client = bare_client(server.address);
        let answered = stream::iter(1..=ORDERS).map(|id| {
            let mut client = client.clone();
            async move {
                let id = id.to_string();
                let provider = Provider::Dingshang.into();
                client.get_order(GetOrderRequest { provider, id, ..Default::default() }).await
            }
        });
        let answered = answered.buffer_unordered(4).filter(|answer| {
            let whole = answer.as_ref().is_ok_and(|answer| {
                answer.get_ref().order.as_ref().is_some_and(|order| order.items.len() == 1000)
            });
            async move { whole }
        });
        assert_eq!(answered.count().await, ORDERS, "{url}");
        let page = page(&server).await;
        let held = value(&page, "order_query_store_memory_bytes{kind=\"cache\"}").expect(&page);
        assert!(held > CACHE / 2.0 && held <= CACHE, "{url}: {held}");
        let peak = peak_memory(server.child.id());
        assert!(peak <= 64 << 20, "{url}: {} MiB", peak >> 20);
    }
}
