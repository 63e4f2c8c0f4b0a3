//! One node of the cluster is lost, replaced, emptied or hangs, or a slot moves: nothing that was reserved is
//! forgotten, no operation hangs, and everything works again by itself.

use std::time::Duration;

use futures_util::future::join_all;
use order_query::error::Error;
use order_query::pb::ErrorReason;
use order_query::store::{Call, Limit, Redis, Reservation, Store as _};
use tokio::time::Instant;

use super::open;
use crate::store::redis::faults::assert_all_work;
use crate::store::redis::shared::call;
use crate::support::log::Log;
use crate::support::redis_cluster::{Failover, Layout, RedisCluster};

/// Within this everything must work again.
const RECOVERY: Duration = Duration::from_secs(30);

/// No operation takes longer.
const LONGEST: Duration = Duration::from_secs(5);

/// No script takes longer, with time for a machine that is busy.
const LONGEST_SCRIPT: Duration = Duration::from_secs(1);

const FENCE: &str = "order-query:{fence}";

/// Asks; the answer may be that the store is unavailable, and must come in time.
async fn bounded<T>(
    longest: Duration,
    operation: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let asked = Instant::now();
    let answer = operation.await;
    assert!(asked.elapsed() < longest, "a caller waited for {:?}", asked.elapsed());
    if let Err(error) = &answer {
        assert_eq!(error.reason, ErrorReason::StoreUnavailable, "{error:?}");
    }
    answer
}

/// Reserves a call as soon as the store can decide.
async fn decided(store: &Redis, call: &Call) -> Reservation {
    let until = Instant::now() + RECOVERY;
    loop {
        match bounded(LONGEST, store.reserve(call)).await {
            Ok(reservation) => return reservation,
            Err(error) => assert!(Instant::now() < until, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// How many of many windows, which are at all nodes, can be read now.
async fn readable(store: &Redis) -> usize {
    let names: Vec<_> = (0..12).map(|n| format!("at-{n}").into()).collect();
    let reads = names.iter().map(|name| bounded(LONGEST_SCRIPT, store.spent(name)));
    join_all(reads).await.iter().filter(|read| read.is_ok()).count()
}

/// Asks all nodes until each answers, and then for everything. Returns how long that took.
async fn until_all_work(store: &Redis, of: &str) -> Duration {
    let begun = Instant::now();
    while readable(store).await < 12 {
        assert!(begun.elapsed() < RECOVERY, "all nodes answer");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    decided(store, &call("probe", of, 9)).await;
    let took = begun.elapsed();
    assert_all_work(store, of).await;
    took
}

/// Three calls fill this window.
async fn fill(store: &Redis, window: &str) {
    for id in ["1", "2", "3"] {
        assert_eq!(decided(store, &call(id, window, 3)).await, Reservation::Reserved);
    }
}

/// The window is full for each of these replicas.
async fn assert_full(stores: &[&Redis], window: &str) {
    for (n, store) in stores.iter().enumerate() {
        let reservation = decided(store, &call(&format!("more {n}"), window, 3)).await;
        assert!(
            matches!(reservation, Reservation::Full(Limit::PerMinute, _)),
            "replica {n}: {reservation:?}"
        );
    }
}

fn key(window: &str) -> String {
    format!("order-query:{{*}}:slots:{window}")
}

#[tokio::test]
async fn a_killed_primary_is_replaced_and_nothing_is_forgotten() {
    let mut cluster = RedisCluster::start().await;
    let log = Log::start();
    let (store, other) = (open(&cluster), open(&cluster));
    fill(&store, "copied").await;
    assert_full(&[&other], "copied").await;
    let primary = cluster.owner_of(&key("copied"));
    cluster.wait_copied().await;
    cluster.kill(primary);
    let took = until_all_work(&store, "1").await;
    println!("a killed primary: works again after {took:?}");
    assert_full(&[&other, &store], "copied").await;
    cluster.restart(primary);
    cluster.wait_whole().await;

    // What the primary has not copied is published again.
    let primary = cluster.owner_of(&key("copied"));
    cluster.wait_copied().await;
    let copies = cluster.stall_copies(primary);
    fill(&store, "copied").await;
    let lost = "lost";
    fill(&store, lost).await;
    cluster.kill(primary);
    for copy in copies {
        cluster.thaw(copy);
    }
    let took = until_all_work(&store, "2").await;
    println!("a killed primary whose copy lagged: works again after {took:?}");
    assert_full(&[&other, &store], "copied").await;
    assert_full(&[&other, &store], lost).await;
    // The address is right.
    assert!(!log.text().contains("write redis"), "{}", log.text());
}

#[tokio::test]
async fn an_agreed_failover_is_followed() {
    let cluster = RedisCluster::start().await;
    let (store, other) = (open(&cluster), open(&cluster));
    fill(&store, "minute").await;
    for pattern in [key("minute"), FENCE.to_owned()] {
        let primary = cluster.owner_of(&pattern);
        let copy = cluster.copies_of(primary)[0];
        cluster.failover(copy, Failover::Agreed).await;
        let took = until_all_work(&store, "1").await;
        println!("an agreed failover of {pattern}: works again after {took:?}");
        assert_full(&[&other, &store], "minute").await;
    }
}

#[tokio::test]
async fn a_flush_of_one_primary_forgets_nothing() {
    let cluster = RedisCluster::start().await;
    let stores = [open(&cluster), open(&cluster)];
    let reserve = async |n: usize, id: &str| {
        decided(&stores[n], &call(id, "minute", 4)).await == Reservation::Reserved
    };
    for (n, id) in ["1", "2", "3"].into_iter().enumerate() {
        assert!(reserve(n % 2, id).await);
    }
    let mut reserved = 3;
    for (round, pattern) in [key("minute"), FENCE.to_owned()].iter().enumerate() {
        let () = cluster.say(cluster.owner_of(pattern), &["FLUSHALL"]);
        for n in 0..6 {
            reserved += usize::from(reserve(n % 2, &format!("after {round} {n}")).await);
        }
        assert_eq!(reserved, 4, "{pattern}");
    }
    let took = until_all_work(&stores[0], "1").await;
    println!("after flushes: works again after {took:?}");
}

#[tokio::test]
async fn a_slot_that_moves_keeps_its_calls() {
    let cluster = RedisCluster::start_as(Layout { copies: 0, ..Layout::default() }).await;
    let log = Log::start();
    let (store, other) = (open(&cluster), open(&cluster));
    fill(&store, "minute").await;
    let from = cluster.owner_of(&key("minute"));
    let keys: Vec<String> = cluster.say(from, &["KEYS", &key("minute")]);
    let slot = cluster.slot_of(&keys[0]);
    let to = cluster.other_than(slot);
    cluster.move_slot(slot, to).await;
    let begun = Instant::now();
    assert_full(&[&other, &store], "minute").await;
    println!("a moved slot: works again after {:?}", begun.elapsed());

    // Back, and half of it stays.
    cluster.open_slot(slot, from);
    cluster.move_keys(slot, from, &[&keys[0]]);
    for n in 0..10 {
        let call = call(&format!("half {n}"), "minute", 9);
        let error = bounded(LONGEST, store.reserve(&call)).await.unwrap_err();
        assert!(error.advice.is_some_and(|it| it.contains("are moving")), "{error:?}");
    }
    // One key alone is found.
    assert_eq!(store.spent(&"minute".into()).await.unwrap().len(), 3);
    let elsewhere = decided(&store, &call("4", "elsewhere", 9)).await;
    assert_eq!(elsewhere, Reservation::Reserved);
    for key in cluster.keys_in(slot) {
        cluster.move_keys(slot, from, &[&key]);
    }
    cluster.close_slot(slot, from).await;
    assert_full(&[&other, &store], "minute").await;

    // Given up half-way: the calls and the stamp of their tag stay at a node that nobody asks for them.
    cluster.open_slot(slot, to);
    let stamp = cluster.keys_in(slot).into_iter().find(|key| key.ends_with(":fence")).unwrap();
    cluster.move_keys(slot, to, &[&stamp, &keys[0]]);
    cluster.abandon_slot(slot, to);
    let begun = Instant::now();
    assert_full(&[&other, &store], "minute").await;
    println!("a slot given up half-way: works again after {:?}", begun.elapsed());
    until_all_work(&store, "1").await;
    assert!(!log.text().contains("write redis"), "{}", log.text());
}

#[tokio::test]
async fn a_hanging_primary_keeps_nobody_waiting() {
    for copies in [1, 0] {
        let layout = Layout { copies, full_coverage: false, ..Layout::default() };
        let mut cluster = RedisCluster::start_as(layout).await;
        let (store, other) = (open(&cluster), open(&cluster));
        fill(&store, "minute").await;
        assert_full(&[&other], "minute").await;
        let primary = cluster.owner_of(&key("minute"));
        cluster.wait_copied().await;
        cluster.freeze(primary);
        let frozen = Instant::now();
        let (mut answered, mut asked) = (0, 0);
        while frozen.elapsed() < Duration::from_secs(4) {
            answered += readable(&store).await;
            asked += 12;
            drop(bounded(LONGEST, other.reserve(&call("meanwhile", "minute", 3))).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!("a hanging primary, {copies} copies: {answered} of {asked} reads answered");
        // Two of three primaries go on.
        assert!(answered * 2 > asked, "{answered} of {asked}");
        if copies > 0 {
            println!("replaced: works after {:?}", until_all_work(&store, "1").await);
        }
        cluster.thaw(primary);
        println!("resumed: works again after {:?}", until_all_work(&store, "2").await);
        assert_full(&[&other, &store], "minute").await;
        cluster.wait_whole().await;
        until_all_work(&other, "3").await;
    }
}
