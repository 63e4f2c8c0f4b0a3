//! What the shared store reports: about its address, in the operator's log, and without its secrets.

use std::sync::Arc;
use std::time::Duration;

use order_query::clock::SystemClock;
use order_query::store::{Redis, Store as _};

use crate::store::redis::faults::{NEVER, assert_all_work, assert_unavailable, until_it_works};
use crate::support::CACHE_BYTES;
use crate::support::log::Log;
use crate::support::redis_server::RedisServer;

#[test]
fn a_wrong_address_is_reported_without_its_password() {
    for url in [
        "",
        "redis://",
        "redis:///0",
        "redis://0.0.0.0:1/0",
        "http://u:hunter2@host/",
        "redis+unix:///run/hunter2",
        "unix:/run/hunter2",
        "redis://u:hunter2@host:port/0",
        "redis://u:hun/ter2@host:6379/0",
        "redis://u:hunter2@host/not-a-number",
        "redis://u:hunter2@host/0?protocol=hunter2",
        "rediss://u:hunter2@host/0#insecure",
        "redis://u:%ff@host/0",
    ] {
        let refused = Redis::open(url, CACHE_BYTES, Arc::new(SystemClock)).err().expect(url);
        assert!(refused.starts_with("must "), "{refused}");
        assert!(!refused.contains("hunter2") && !refused.contains("ter2@"), "{refused}");
    }
}

#[tokio::test]
async fn rejected_credentials_and_missing_tls_are_reported_without_secrets() {
    let server = RedisServer::start();
    let _: redis::Value = server.say(&["ACL", "SETUSER", "app", "on", ">right", "~*", "+@all"]);
    for (scheme, password, expected) in [
        ("redis", "hunter2", "cannot be reached: WRONGPASS"),
        // Both sides wait for more data, for a while.
        ("rediss", "right", "cannot be reached in time"),
    ] {
        let url = format!("{scheme}://app:{password}@127.0.0.1:{}/0", server.port);
        let log = Log::start();
        let store = Redis::open(&url, CACHE_BYTES, Arc::new(SystemClock)).unwrap();
        let told = async {
            loop {
                let error = store.spent(&"x".into()).await.unwrap_err();
                assert_unavailable(&error);
                if error.detail.unwrap().contains(expected) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(NEVER, told).await.expect(expected);
        until(|| log.text().contains("WARN") && log.text().contains("not connected")).await;
        assert!(!log.text().contains(password), "{}", log.text());
    }
    for protocol in ["", "?protocol=resp3"] {
        let url = format!("redis://app:right@127.0.0.1:{}/0{protocol}", server.port);
        assert_all_work(&Redis::open(&url, CACHE_BYTES, Arc::new(SystemClock)).unwrap(), "1").await;
    }
}

#[tokio::test]
async fn an_eviction_policy_that_may_drop_data_is_a_warning() {
    let may_drop = "may evict spent calls";
    for (words, level, part) in [
        (&["CONFIG", "SET", "maxmemory-policy", "noeviction"][..], "DEBUG", "evicts nothing"),
        (&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"], "WARN", may_drop),
        (&["CONFIG", "SET", "maxmemory-policy", "volatile-ttl"], "WARN", may_drop),
        (&["ACL", "SETUSER", "order-query", "-info"], "INFO", "does not report"),
    ] {
        let server = RedisServer::start();
        let _: redis::Value = server.say(&["ACL", "SETUSER", "order-query", "+info"]);
        let _: redis::Value = server.say(words);
        let log = Log::start();
        let store = server.store();
        for _ in 0..3 {
            until_it_works(&store).await;
            until(|| log.text().contains("maxmemory-policy")).await;
            let _: u32 = server.say(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        }
        until_it_works(&store).await;
        let text = log.text();
        let said: Vec<_> = text.lines().filter(|line| line.contains("maxmemory")).collect();
        assert_eq!(said.len(), 1, "once: {text}");
        assert!(said[0].contains(level) && said[0].contains(part), "{text}");
    }
}

#[tokio::test]
async fn each_later_change_of_the_eviction_policy_is_logged() {
    let server = RedisServer::start();
    let set = |policy: &str| -> redis::Value {
        server.say(&["CONFIG", "SET", "maxmemory-policy", policy])
    };
    let _: redis::Value = server.say(&["ACL", "SETUSER", "order-query", "+info"]);
    set("noeviction");
    let log = Log::start();
    let store = server.store();
    until_it_works(&store).await;
    let said = |part: &str| log.text().lines().filter(|line| line.contains(part)).count();
    until(|| said("evicts nothing") == 1).await;
    for (policy, level, part, count) in [
        ("allkeys-lru", "WARN", "may evict spent calls", 1),
        ("allkeys-lru", "WARN", "may evict spent calls", 1),
        ("noeviction", "INFO", "evicts nothing again", 1),
        ("volatile-lfu", "WARN", "may evict spent calls", 2),
    ] {
        set(policy);
        pass(Duration::from_mins(1)).await;
        until(|| said(part) == count).await;
        let last = log.text().lines().rfind(|line| line.contains(part)).unwrap().to_owned();
        assert!(last.contains(level), "{last}");
    }
    // A server that does not answer is not a changed policy.
    let _: u32 = server.say(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    pass(Duration::from_mins(1)).await;
    until_it_works(&store).await;
    pass(Duration::from_mins(1)).await;
    assert_eq!(said("maxmemory-policy"), 4, "{}", log.text());
}

/// Advances the time, and runs the tasks that wait for it.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// Waits until the condition holds.
async fn until(mut happened: impl FnMut() -> bool) {
    let wait = async {
        while !happened() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(NEVER, wait).await.expect("it happens");
}
