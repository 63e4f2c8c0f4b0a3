//! What is reported about a cluster that refuses, and about an address of the other kind.

use std::sync::Arc;
use std::time::Duration;

use order_query::clock::SystemClock;
use order_query::error::Error;
use order_query::store::{Redis, Store as _};
use tokio::time::Instant;

use super::open;
use crate::store::redis::faults::{NEVER, assert_all_work, once_open};
use crate::store::redis::shared::call;
use crate::support::CACHE_BYTES;
use crate::support::log::Log;
use crate::support::redis_cluster::{Layout, RedisCluster};
use crate::support::redis_server::{RedisServer, rights};

fn store_at(url: &str) -> Redis {
    Redis::open(url, CACHE_BYTES, Arc::new(SystemClock)).unwrap()
}

/// Pings until the error is this one, and has this advice.
async fn until_told(store: &Redis, told: &str, advice: &str) {
    let until = Instant::now() + NEVER;
    loop {
        let error: Error = store.ping().await.expect_err(told);
        if error.detail.as_ref().is_some_and(|detail| detail.contains(told)) {
            assert!(error.advice.is_some_and(|it| it.contains(advice)), "{error:?}");
            return;
        }
        assert!(Instant::now() < until, "never {told:?}: {error:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_a_cluster_refuses_is_reported_with_advice() {
    let cluster = RedisCluster::start_as(Layout { copies: 0, ..Layout::default() }).await;
    let right = cluster.url();
    let wrong = right.replace("least", "hunter2");
    let single = RedisServer::start();
    let as_cluster = single.url().replace("redis://", "redis-cluster://").replace("/0", "");
    let as_single = format!("redis://order-query:least@{}/0", cluster.address(0));
    for (url, told, advice) in [
        (wrong.as_str(), "WRONGPASS", "check the user and the password"),
        (&as_single, "", "write redis-cluster://"),
        (&as_cluster, "the server is no cluster", "write redis://"),
    ] {
        let log = Log::start();
        until_told(&store_at(url), told, advice).await;
        let text = log.text();
        assert!(text.lines().filter(|line| line.contains(advice)).count() == 1, "once: {text}");
        assert!(!text.contains("hunter2") && !text.contains("least"), "{text}");
    }

    // Each right that a cluster needs.
    let more = ["+cluster|slots", "+asking"];
    let all = [&rights()[..], &more].concat();
    cluster.set_rights(&all);
    let store = open(&cluster);
    assert_all_work(&store, "1").await;
    for missing in ["+zadd", "+evalsha", "+cluster|slots"] {
        let fewer: Vec<_> = all.iter().copied().filter(|it| *it != missing).collect();
        cluster.set_rights(&fewer);
        let log = Log::start();
        until_told(&open(&cluster), "NOPERM", "configuration.md").await;
        assert!(log.text().contains("NOPERM"), "{}", log.text());
        cluster.set_rights(&all);
    }
    // One node alone refuses.
    let fewer: Vec<_> = all.iter().copied().filter(|it| *it != "+zadd").collect();
    cluster.set_rights_of(1, &fewer);
    until_told(&store, "NOPERM", "configuration.md").await;
    cluster.set_rights(&all);
    store.ping().await.unwrap();
    once_open(&store, &call("1", "minute", 9)).await.unwrap();
    assert_all_work(&store, "2").await;
}
