//! The shared store behind Redis Sentinel: it finds the primary, and follows a failover by itself.

use std::time::Duration;

use order_query::store::{Limit, Redis, Reservation, Store as _};
use tokio::time::Instant;

use crate::store::redis::faults::{assert_all_work, assert_unavailable};
use crate::store::redis::shared::call;
use crate::support::log::Log;
use crate::support::redis_sentinel::{MASTER, Watched, open};
use crate::support::redis_server::rights;

/// Within this everything must work again; it usually takes a second.
const RECOVERY: Duration = Duration::from_secs(30);

/// Asks like a caller until it works; no single question may hang.
async fn until_it_works(store: &Redis) {
    let deadline = Instant::now() + RECOVERY;
    loop {
        let asked = Instant::now();
        let answer = store.spent(&"-".into()).await;
        assert!(asked.elapsed() < Duration::from_secs(5), "a caller waited");
        let Err(error) = answer else { return };
        assert_unavailable(&error);
        assert!(Instant::now() < deadline, "{error:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until a question fails with this detail.
async fn until_told(store: &Redis, told: &str) {
    let deadline = Instant::now() + RECOVERY;
    loop {
        let error = store.spent(&"-".into()).await.expect_err(told);
        assert_unavailable(&error);
        if error.detail.as_ref().is_some_and(|detail| detail.contains(told)) {
            return;
        }
        assert!(Instant::now() < deadline, "never {told:?}: {error:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Follows a failover that is under way, until the store uses the new primary.
async fn follow(watched: &Watched, store: &Redis, sentinel: usize) {
    watched.until_promoted(sentinel).await;
    let deadline = Instant::now() + RECOVERY;
    // The old primary may still answer for a while.
    while !works_at_the_copy(watched, store).await {
        assert!(Instant::now() < deadline, "the store does not follow");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_all_work(store, "after").await;
}

/// Whether a call that is reserved now is in the copy.
async fn works_at_the_copy(watched: &Watched, store: &Redis) -> bool {
    let () = watched.copy.say(&["CONFIG", "RESETSTAT"]);
    let works = store.reserve(&call("probe", "probe", 9)).await.is_ok();
    let stats: String = watched.copy.say(&["INFO", "commandstats"]);
    let stats = stats.lines().find(|line| line.starts_with("cmdstat_evalsha"));
    works && stats.is_some()
}

#[tokio::test]
async fn the_store_works_through_sentinels() {
    let watched = Watched::start();
    let store = watched.store();
    until_it_works(&store).await;
    assert_all_work(&store, "1").await;
    store.reserve(&call("1", "minute", 1)).await.unwrap();
    // Another replica, whose URL lists a sentinel that does not run first.
    let url = watched.url("?db=0").replacen('@', "@127.0.0.1:1,", 1);
    let other = open(&url);
    until_it_works(&other).await;
    let full = other.reserve(&call("2", "minute", 1)).await;
    assert!(matches!(full, Ok(Reservation::Full(Limit::PerMinute, _))), "{full:?}");
}

#[tokio::test]
async fn a_killed_primary_is_replaced_by_its_copy() {
    let mut watched = Watched::start();
    let store = watched.store();
    until_it_works(&store).await;
    store.ping().await.unwrap();
    watched.primary.until_heard_by(1).await;
    store.reserve(&call("1", "minute", 1)).await.unwrap();
    watched.until_copied();
    watched.primary.kill();
    follow(&watched, &store, 0).await;
    // The copy has what was counted before.
    let other = watched.store();
    until_it_works(&other).await;
    let full = other.reserve(&call("2", "minute", 1)).await;
    assert!(matches!(full, Ok(Reservation::Full(Limit::PerMinute, _))), "{full:?}");
    // The news moves to the copy too.
    other.ping().await.unwrap();
    watched.copy.until_heard_by(2).await;
}

#[tokio::test]
async fn a_hanging_primary_is_replaced_by_its_copy() {
    let watched = Watched::start();
    let store = watched.store();
    until_it_works(&store).await;
    store.ping().await.unwrap();
    watched.primary.until_heard_by(1).await;
    watched.primary.stop();
    assert_unavailable(&store.spent(&"-".into()).await.unwrap_err());
    follow(&watched, &store, 0).await;
    // Its subscription hangs too, and is replaced.
    watched.copy.until_heard_by(1).await;
    // It is a primary in its own eyes when it wakes up, and soon a copy.
    watched.primary.resume();
    assert_all_work(&store, "awake").await;
}

#[tokio::test]
async fn a_commanded_failover_is_followed() {
    let watched = Watched::start();
    let store = watched.store();
    until_it_works(&store).await;
    let () =
        watched.sentinels[1].say(&["SENTINEL", "FAILOVER", crate::support::redis_sentinel::MASTER]);
    follow(&watched, &store, 1).await;
}

/// It is cut off from its sentinels, and not from its callers: it looks sound to both.
#[tokio::test]
async fn a_primary_that_the_sentinels_have_replaced_is_left() {
    let watched = Watched::start();
    let log = Log::start();
    let store = watched.store();
    until_it_works(&store).await;
    // The sentinels see the copy as their master from now on; nothing happens to the primary.
    let port = watched.copy.port.to_string();
    let () = watched.copy.say(&["REPLICAOF", "NO", "ONE"]);
    for sentinel in &watched.sentinels {
        let () = sentinel.say(&["SENTINEL", "REMOVE", MASTER]);
        let () = sentinel.say(&["SENTINEL", "MONITOR", MASTER, "127.0.0.1", &port, "2"]);
    }
    follow(&watched, &store, 0).await;
    assert!(log.text().contains("the sentinels name another primary"), "{}", log.text());
}

#[tokio::test]
async fn one_dead_and_one_hanging_sentinel_do_not_delay() {
    let mut watched = Watched::start();
    watched.sentinels[0].kill();
    watched.sentinels[1].stop();
    let store = watched.store();
    until_it_works(&store).await;
    assert_all_work(&store, "1").await;
}

#[tokio::test]
async fn a_sentinel_that_names_a_copy_is_passed_over() {
    let mut watched = Watched::start();
    let port = watched.copy.port.to_string();
    let () = watched.sentinels[0].say(&["SENTINEL", "REMOVE", MASTER]);
    let () = watched.sentinels[0].say(&["SENTINEL", "MONITOR", MASTER, "127.0.0.1", &port, "2"]);
    // The other one that is left names the primary: neither has more than half of the votes.
    watched.sentinels[2].kill();
    for of in ["1", "2", "3", "4"] {
        let store = watched.store();
        until_it_works(&store).await;
        assert_all_work(&store, of).await;
    }
}

#[tokio::test]
async fn a_server_that_is_no_primary_is_not_used() {
    let watched = Watched::start();
    let log = Log::start();
    // Both copies follow a server that does not exist.
    for server in [&watched.primary, &watched.copy] {
        let () = server.say(&["REPLICAOF", "127.0.0.1", "1"]);
    }
    let store = watched.store();
    until_told(&store, "the server that the sentinels name is not a primary").await;
    assert!(log.text().contains("a failover is not finished"), "{}", log.text());
    // One that does not tell its role cannot be trusted either.
    watched.primary.set_rights(&rights());
    watched.copy.set_rights(&rights());
    until_told(&store, "the primary: NOPERM").await;
}

#[tokio::test]
async fn what_the_sentinels_cannot_tell_is_reported_with_advice() {
    let watched = Watched::start();
    let right = watched.url("");
    let wrong = right.replace("/orders", "/others");
    for (url, told, advice) in [
        (wrong.as_str(), "no sentinel knows the master", "check the name of the master"),
        (&format!("{right}?sentinel_password=hunter2"), "a sentinel refuses: ERR", "sentinel_user"),
        (
            "redis-sentinel://127.0.0.1:1/m",
            "no sentinel answers: connection refused",
            "that the sentinels run",
        ),
    ] {
        let log = Log::start();
        let store = open(url);
        until_told(&store, told).await;
        let text = log.text();
        let lines: Vec<_> = text.lines().filter(|line| line.contains(told)).collect();
        assert!(lines.len() == 1 && lines[0].contains(advice), "once: {text}");
        for secret in ["hunter2", "least", "redis-sentinel://"] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[tokio::test]
async fn sentinels_have_credentials_of_their_own() {
    let watched = Watched::start_secured();
    for (query, told) in [
        ("", "a sentinel refuses: NOAUTH"),
        ("?sentinel_password=hunter2", "a sentinel refuses: WRONGPASS"),
        ("?sentinel_user=order-query&sentinel_password=hunter2", "a sentinel refuses: WRONGPASS"),
    ] {
        let log = Log::start();
        until_told(&open(&watched.url(query)), told).await;
        let text = log.text();
        assert!(text.contains("check the sentinels' addresses, sentinel_user"), "{text}");
        assert!(!text.contains("hunter2") && !text.contains("least"), "{text}");
    }
    for query in ["?sentinel_password=operators", &Watched::credentials()] {
        let store = open(&watched.url(query));
        until_it_works(&store).await;
        assert_all_work(&store, query).await;
    }
}
