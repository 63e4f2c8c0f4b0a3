//! The shared store when its server fails: emptied, down, hung, back again, full of
//! garbage, or unheard. Required: no call too many, and no request that hangs.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use order_query::clock::{Clock as _, SystemClock};
use order_query::config::Secret;
use order_query::error::Error;
use order_query::pb::{ErrorReason, OrderStatus};
use order_query::providers::{Token, TokenStore as _};
use order_query::store::{Call, Limit, Outcome, Redis, Reservation, Store as _};

use crate::store::redis::shared::{SECOND, call, order};
use crate::support::CACHE_BYTES;
use crate::support::redis_proxy::Line;
use crate::support::redis_server::RedisServer;

/// Far beyond every timeout: only a hanging store takes so long.
pub const NEVER: Duration = Duration::from_secs(20);

/// The result of every operation, by name. They use the window, order and account `of`.
async fn everything(store: &Redis, of: &str) -> Vec<(&'static str, Result<(), Error>)> {
    let call = call(of, of, 9);
    let token = Token { value: Secret::from("secret"), renew_at: SystemClock.now() + 60 * SECOND };
    let state = order(1, 0, OrderStatus::Paid, false);
    let all = async {
        vec![
            ("reserve", store.reserve(&call).await.map(drop)),
            ("finish", store.finish(&call, Outcome::Found(&of.into(), &state)).await.map(drop)),
            ("cancel", store.cancel(&call).await),
            ("pause", store.pause(&of.into(), SECOND, true).await),
            ("spent", store.spent(&of.into()).await.map(drop)),
            ("put", store.put(&of.into(), &state).await),
            ("get", store.get(&of.into(), Some(&format!("{of} day").into())).await.map(drop)),
            ("save", store.save(of, &token).await),
            ("load", store.load(of).await.map(drop)),
            ("remove_if", store.remove_if(of, &token).await),
            ("lease", store.lease(of, "owner", SECOND).await.map(drop)),
            ("release", store.release(of, "owner").await),
        ]
    };
    tokio::time::timeout(NEVER, all).await.expect("every operation is bounded")
}

pub async fn assert_all_work(store: &Redis, of: &str) {
    for (name, outcome) in everything(store, of).await {
        assert_eq!(outcome, Ok(()), "{name}");
    }
}

async fn assert_all_fail(store: &Redis, of: &str) {
    for (name, outcome) in everything(store, of).await {
        assert_unavailable(&outcome.expect_err(name));
    }
}

pub fn assert_unavailable(error: &Error) {
    assert_eq!(error.reason, ErrorReason::StoreUnavailable);
    assert_eq!(error.retry_after, Some(SECOND));
    assert!(error.detail.as_ref().is_some_and(|detail| detail.starts_with("redis")), "{error:?}");
}

/// Retries until the store recovers by itself.
pub async fn until_it_works(store: &Redis) {
    let works = async {
        while store.get(&"-".into(), None).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(NEVER, works).await.expect("it works again");
}

/// Reserves a call as soon as the fence is open.
pub async fn once_open(store: &Redis, call: &Call) -> Result<Reservation, Error> {
    let open = async {
        loop {
            match store.reserve(call).await {
                Err(error)
                    if error.detail.as_ref().is_some_and(|it| it.contains("may have lost")) => {}
                reservation => return reservation,
            }
        }
    };
    tokio::time::timeout(NEVER, open).await.expect("the fence opens")
}

fn spent(store: &Redis, window: &str) -> usize {
    store.peek(&"".into(), Some(&window.into())).unwrap_or_default().spent.len()
}

#[tokio::test]
async fn scripts_are_reloaded_when_the_server_forgets_them() {
    let server = RedisServer::start();
    let store = server.store();
    assert_all_work(&store, "1").await;
    let () = server.say(&["SCRIPT", "FLUSH"]);
    assert_eq!(store.reserve(&call("2", "minute", 1)).await, Ok(Reservation::Reserved));
    let () = server.say(&["SCRIPT", "FLUSH"]);
    assert!(matches!(
        server.store().reserve(&call("3", "minute", 1)).await,
        Ok(Reservation::Full(Limit::PerMinute, _))
    ));
    let () = server.say(&["SCRIPT", "FLUSH"]);
    assert_all_work(&store, "4").await;
}

#[tokio::test]
async fn a_replica_still_counts_its_own_calls_after_a_flush() {
    let server = RedisServer::start();
    let (a, b) = (server.store(), server.store());
    let last = order(5, 0, OrderStatus::Refunded, true);
    a.put(&"1".into(), &last).await.unwrap();
    assert_eq!(a.reserve(&call("1", "minute", 2)).await, Ok(Reservation::Reserved));
    assert_eq!(a.reserve(&call("2", "minute", 2)).await, Ok(Reservation::Reserved));
    b.ping().await.unwrap();
    let () = server.say(&["FLUSHALL"]);
    assert!(matches!(
        a.reserve(&call("3", "minute", 2)).await,
        Ok(Reservation::Full(Limit::PerMinute, _))
    ));
    let known = a.get(&"1".into(), Some(&"minute".into())).await.unwrap().unwrap();
    assert_eq!((known.state, known.spent.len()), (Some(last.clone()), 2));
    // Another one is told of them, and of nothing that it had sent itself.
    let refused = once_open(&b, &call("4", "minute", 2)).await;
    assert!(matches!(refused, Ok(Reservation::Full(Limit::PerMinute, _))), "{refused:?}");
    assert_eq!(spent(&b, "minute"), 0);
    assert_eq!(b.get(&"1".into(), None).await.unwrap().unwrap().state, Some(last));
}

#[tokio::test]
async fn without_a_server_everything_but_peek_fails_until_it_returns() {
    let mut server = RedisServer::start();
    let store = server.store();
    assert_all_work(&store, "1").await;
    let last = order(5, 0, OrderStatus::Refunded, true);
    store.put(&"final".into(), &last).await.unwrap();
    store.reserve(&call("1", "minute", 1)).await.unwrap();

    server.kill();
    assert_all_fail(&store, "2").await;
    assert_all_fail(&store, "2").await;
    // It cannot have been counted.
    assert_eq!(spent(&store, "2"), 0);
    assert_eq!(store.peek(&"final".into(), None).unwrap().state, Some(last));
    // Answers that arrived meanwhile are known here.
    assert_eq!(store.peek(&"2".into(), None).unwrap().state.unwrap().status(), OrderStatus::Paid);

    server.restart();
    until_it_works(&store).await;
    assert_all_work(&store, "3").await;
    let own = store.reserve(&call("2", "minute", 1)).await;
    assert!(
        matches!(own, Ok(Reservation::Full(Limit::PerMinute, _))),
        "the server came back without its data"
    );
}

#[tokio::test]
async fn a_hanging_server_counts_as_unavailable() {
    let server = RedisServer::start();
    let store = server.store();
    assert_all_work(&store, "1").await;
    server.stop();
    assert_all_fail(&store, "2").await;
    let crowd = (0..500).map(|_| everything(&store, "2"));
    for outcomes in tokio::time::timeout(NEVER, join_all(crowd)).await.expect("nobody queues") {
        assert!(outcomes.iter().all(|(_, outcome)| outcome.is_err()));
    }
    server.resume();
    until_it_works(&store).await;
    assert_all_work(&store, "3").await;
}

#[tokio::test]
async fn a_store_opens_before_its_server_starts() {
    let mut server = RedisServer::start();
    server.kill();
    let store = server.store();
    assert_all_fail(&store, "1").await;
    server.restart();
    until_it_works(&store).await;
    assert_all_work(&store, "1").await;
}

#[tokio::test]
async fn a_connection_closed_by_the_server_is_reestablished_silently() {
    let server = RedisServer::start();
    let store = server.store();
    for round in ["1", "2", "3"] {
        assert_all_work(&store, round).await;
        let ended: u32 = server.say(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        assert_eq!(ended, 1);
    }
    assert_all_work(&store, "4").await;
}

#[tokio::test]
async fn a_demoted_primary_is_replaced_by_the_new_primary() {
    let (first, second) = (RedisServer::start(), RedisServer::start());
    let line = Line::to(first.port).await;
    let url = RedisServer::url_at(line.port);
    let store = Redis::open(&url, CACHE_BYTES, Arc::new(SystemClock)).unwrap();
    assert_eq!(store.reserve(&call("1", "minute", 9)).await, Ok(Reservation::Reserved));
    let () = first.say(&["REPLICAOF", "127.0.0.1", "1"]);
    line.lead_to(second.port);
    let error = store.reserve(&call("2", "minute", 9)).await.unwrap_err();
    assert_unavailable(&error);
    assert_eq!(spent(&store, "minute"), 1, "refused is not sent");
    until_it_works(&store).await;
    assert_eq!(store.reserve(&call("2", "minute", 9)).await, Ok(Reservation::Reserved));
}

#[tokio::test]
async fn a_reservation_with_a_lost_reply_counts_as_reserved() {
    let server = RedisServer::start();
    let line = Line::to(server.port).await;
    let url = RedisServer::url_at(line.port);
    let store = Redis::open(&url, CACHE_BYTES, Arc::new(SystemClock)).unwrap();
    // The server has cached the scripts by now, so each call is sent once.
    assert_all_work(&store, "another").await;
    let (lost, next) = (call("1", "minute", 2), call("2", "minute", 1));
    line.lose_answers(true);
    assert_unavailable(&store.reserve(&lost).await.unwrap_err());
    // The server has executed it.
    let another = server.store();
    assert_eq!(
        another.get(&"-".into(), Some(&"minute".into())).await.unwrap().unwrap().spent.len(),
        1
    );
    let refused = once_open(&another, &next).await;
    assert!(matches!(refused, Ok(Reservation::Full(Limit::PerMinute, _))), "{refused:?}");
    // And it counts in this replica in any case.
    assert_eq!(spent(&store, "minute"), 1);
    let () = server.say(&["FLUSHALL"]);
    assert!(matches!(store.reserve(&next).await, Ok(Reservation::Full(Limit::PerMinute, _))));

    line.lose_answers(false);
    until_it_works(&store).await;
    assert_eq!(once_open(&store, &lost).await, Ok(Reservation::Reserved), "the same call again");
    assert_eq!(
        another.get(&"-".into(), Some(&"minute".into())).await.unwrap().unwrap().spent.len(),
        1
    );
    assert_eq!(spent(&store, "minute"), 1);
    store.cancel(&lost).await.unwrap();
    assert_eq!(store.reserve(&next).await, Ok(Reservation::Reserved), "nothing was sent");
}

#[tokio::test]
async fn unreadable_spent_calls_block_reservations() {
    let server = RedisServer::start();
    let store = server.store();
    let garbage: [&[&str]; 7] = [
        &["SET", "order-query:slots:w", "x"],
        &["HSET", "order-query:slots:w", "x", "y"],
        &["ZADD", "order-query:slots:w", "inf", "x"],
        &["ZADD", "order-query:slots:w", "1e300", "x"],
        &["SET", "order-query:closed:the-account", "x"],
        &["HSET", "order-query:closed:the-account", "x", "y"],
        &["HSET", "order-query:closed:the-account", "until", "soon", "every", "1"],
    ];
    for words in garbage {
        let _: redis::Value = server.say(words);
        let mut call = call("1", "first", 9);
        call.windows.extend(self::call("1", "w", 9).windows);
        let error = store.reserve(&call).await.expect_err(&words.join(" "));
        assert_unavailable(&error);
        assert_eq!(spent(&store, "first") + spent(&store, "w"), 0, "{words:?}");
        let there = store.get(&"-".into(), Some(&"first".into())).await;
        assert_eq!(there, Ok(None), "none of the call's windows is taken: {words:?}");
        if words[1].contains("slots") {
            assert_unavailable(&store.get(&"-".into(), Some(&"w".into())).await.unwrap_err());
        }
        let _: u8 = server.say(&["DEL", words[1]]);
        assert_eq!(store.reserve(&call).await, Ok(Reservation::Reserved), "{words:?}");
        store.cancel(&call).await.unwrap();
    }
}

#[tokio::test]
async fn other_garbage_is_ignored_and_overwritten() {
    let server = RedisServer::start();
    for (key, garbage) in [
        ("order", &["SET", "x"][..]),
        ("order", &["RPUSH", "x"]),
        ("order", &["HSET", "observed", "x", "terminal", "1", "state", "x", "sum", "x"]),
        ("order", &["HSET", "state", "x"]),
        ("token", &["SET", "x"]),
        ("token", &["HSET", "value", "x"]),
        ("token", &["HSET", "value", "x", "until", "soon"]),
        ("token", &["HSET", "value", "\u{fffd}", "until", "-inf"]),
        ("lease", &["SET", "x"]),
        ("lease", &["HSET", "owner", "nobody", "until", "inf"]),
    ] {
        let full_key = format!("order-query:{key}:1");
        let mut words = vec![garbage[0], &full_key];
        words.extend(&garbage[1..]);
        let _: redis::Value = server.say(&words);
        let store = server.store();
        assert_eq!(store.get(&"1".into(), None).await, Ok(None), "{words:?}");
        assert_eq!(store.load("1").await, Ok(None), "{words:?}");
        assert_all_work(&store, "1").await;
        drop(store);
        server.clear();
    }
}

#[tokio::test]
async fn oversized_values_are_never_read() {
    const FILL: &str = "redis.call('HSET', KEYS[1], ARGV[1], \
                        string.rep(string.rep('x', 100000), ARGV[2]))";
    let server = RedisServer::start();
    for (key, field, size, rest) in [
        ("order", "state", "1000", &["observed", "x", "terminal", "1", "sum", "x"][..]),
        ("order", "sum", "20", &["observed", "x", "terminal", "1", "state", "x"]),
        ("token", "value", "10", &["until", "99999999999999"]),
        ("lease", "owner", "10", &["until", "99999999999999", "life", "1"]),
        ("closed", "probe", "10", &["until", "1", "every", "1"]),
    ] {
        let key = format!("order-query:{key}:1");
        let _: redis::Value = server.say(&[&["HSET", &key], rest].concat());
        let _: redis::Value = server.say(&["EVAL", FILL, "1", &key, field, size]);
        let _: redis::Value = server.say(&["CONFIG", "RESETSTAT"]);
        let store = server.store();
        if key.contains("closed") {
            assert_unavailable(
                &store
                    .reserve(&order_query::store::Call { account: "1".into(), ..call("1", "w", 9) })
                    .await
                    .unwrap_err(),
            );
        } else {
            assert_eq!(store.get(&"1".into(), None).await, Ok(None), "{key}");
            assert_eq!(store.load("1").await, Ok(None), "{key}");
            assert_eq!(store.lease("1", "me", Duration::from_secs(1)).await, Ok(true), "{key}");
            store.release("1", "another").await.unwrap();
        }
        let stats: String = server.say(&["INFO", "commandstats"]);
        // The new lease is read when another owner tries to release it. With limits the fence is read too.
        if !key.contains("closed") {
            assert_eq!(stats.matches("cmdstat_hmget:calls=1,").count(), 1, "{key}: {stats}");
        }
        drop(store);
        server.clear();
    }
}

#[tokio::test]
async fn garbage_that_looks_terminal_is_overwritten_too() {
    let server = RedisServer::start();
    let state = order(7, 0, OrderStatus::Paid, true);
    server.store().put(&"1".into(), &state).await.unwrap();
    let _: u8 = server.say(&["HSET", "order-query:order:1", "state", "x"]);
    let store = server.store();
    assert_eq!(store.get(&"1".into(), None).await, Ok(None));
    let earlier = order(6, 0, OrderStatus::Closed, false);
    store.put(&"1".into(), &earlier).await.unwrap();
    assert_eq!(server.store().get(&"1".into(), None).await.unwrap().unwrap().state, Some(earlier));
}
