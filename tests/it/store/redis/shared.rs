//! The shared store: several replicas on one Redis server. What every store must do is
//! in `tests/it/store.rs`; what happens when the server fails, in `faults.rs`; what is
//! reported about it, in `words.rs`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use order_query::clock::{Clock as _, ManualClock};
use order_query::config::Secret;
use order_query::pb::{Order, OrderStatus};
use order_query::providers::{Token, TokenStore as _};
use order_query::store::{Call, Limit, Outcome, Redis, Reservation, Store as _, Window};
use prost_types::Timestamp;

use crate::support::manual_clock;
use crate::support::redis_server::RedisServer;

pub const SECOND: Duration = Duration::from_secs(1);
pub const MILLISECOND: Duration = Duration::from_millis(1);

/// A call in a window of a minute, which may take 20 seconds to arrive.
pub fn call(id: &str, window: &str, max_calls: u32) -> Call {
    let (limit, period) = (Limit::PerMinute, 60 * SECOND);
    Call {
        id: id.to_owned(),
        account: "the-account".into(),
        windows: vec![Window { key: window.into(), limit, max_calls, period }],
        in_flight: 20 * SECOND,
        lease: None,
    }
}

/// An order as observed at that time.
pub fn order(seconds: i64, nanos: i32, status: OrderStatus, terminal: bool) -> Order {
    let observe_time = Some(Timestamp { seconds, nanos });
    Order { id: "1".into(), observe_time, status: status.into(), terminal, ..Order::default() }
}

/// Three replicas on one server, whose time the test advances.
struct Replicas {
    server: RedisServer,
    clock: ManualClock,
    stores: [Redis; 3],
}

impl Replicas {
    fn start() -> Self {
        let (server, clock) = (RedisServer::start(), manual_clock());
        let time = || Arc::new(clock.clone());
        let stores = [(); 3].map(|()| server.store_at(time()).timed_by(time()));
        Self { server, clock, stores }
    }

    /// Of all keys.
    fn time_to_live(&self, key: &str) -> i64 {
        self.server.say(&["PTTL", &format!("order-query:{key}")])
    }
}

#[tokio::test]
async fn replicas_share_a_window_whatever_their_clocks() {
    let server = RedisServer::start();
    let stores = [0, 3_600, 86_400].map(|ahead| {
        let clock = manual_clock();
        clock.advance(ahead * SECOND);
        server.store_at(Arc::new(clock))
    });
    let calls: Vec<_> = (0..200).map(|n| call(&format!("call-{n}"), "minute", 50)).collect();
    let asked = calls.iter().enumerate().map(|(n, call)| stores[n % 3].reserve(call));
    let mut taken = 0;
    for take in join_all(asked).await {
        match take.unwrap() {
            Reservation::Reserved => taken += 1,
            // Waits are rounded up at both ends.
            Reservation::Full(Limit::PerMinute, wait) => {
                assert!(wait <= 80 * SECOND + MILLISECOND, "{wait:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(taken, 50);
}

#[tokio::test]
async fn a_slot_is_freed_to_the_millisecond_for_every_replica() {
    let Replicas { clock, stores: [a, b, c], .. } = &Replicas::start();
    let (first, second) = (call("1", "minute", 1), call("2", "minute", 1));
    assert_eq!(a.reserve(&first).await, Ok(Reservation::Reserved));
    assert_eq!(b.reserve(&second).await, Ok(Reservation::Full(Limit::PerMinute, 80 * SECOND)));
    clock.advance(5 * SECOND);
    // Any replica may finish it, which can only shorten it.
    a.finish(&first, Outcome::Counted).await.unwrap();
    clock.advance(SECOND);
    c.finish(&first, Outcome::Counted).await.unwrap();
    assert_eq!(c.reserve(&second).await, Ok(Reservation::Full(Limit::PerMinute, 59 * SECOND)));
    clock.advance(Duration::from_millis(58_999));
    assert_eq!(b.reserve(&second).await, Ok(Reservation::Full(Limit::PerMinute, MILLISECOND)));
    clock.advance(MILLISECOND);
    assert_eq!(b.reserve(&second).await, Ok(Reservation::Reserved));
    assert!(matches!(a.reserve(&first).await, Ok(Reservation::Full(Limit::PerMinute, _))));
    b.cancel(&second).await.unwrap();
    assert_eq!(a.reserve(&first).await, Ok(Reservation::Reserved));
}

#[tokio::test]
async fn a_call_reserves_all_windows_or_none() {
    let Replicas { stores: [a, b, _], .. } = &Replicas::start();
    let both = |id: &str| {
        let mut call = call(id, "minute", 3);
        let (limit, period) = (Limit::PerOrderPerDay, 86_400 * SECOND);
        call.windows.push(Window { key: "day".into(), limit, max_calls: 1, period });
        call
    };
    assert_eq!(a.reserve(&both("1")).await, Ok(Reservation::Reserved));
    for id in ["2", "3", "4"] {
        let full = Reservation::Full(Limit::PerOrderPerDay, 86_420 * SECOND);
        assert_eq!(b.reserve(&both(id)).await, Ok(full.clone()));
        assert_eq!(a.reserve(&both(id)).await, Ok(full));
    }
    let spent = b.get(&"-".into(), Some(&"minute".into())).await.unwrap().unwrap().spent;
    assert_eq!(spent.len(), 1);
    // The same call again is the same call.
    assert_eq!(b.reserve(&both("1")).await, Ok(Reservation::Reserved));
    assert_eq!(b.get(&"-".into(), Some(&"day".into())).await.unwrap().unwrap().spent.len(), 1);
}

#[tokio::test]
async fn keys_expire_and_never_early() {
    let replicas = &Replicas::start();
    let Replicas { stores: [a, b, _], .. } = replicas;
    a.reserve(&call("1", "minute", 9)).await.unwrap();
    // A later call that is freed earlier does not shorten it.
    let quick = Call { in_flight: Duration::ZERO, ..call("2", "minute", 9) };
    b.reserve(&quick).await.unwrap();
    a.lease("renewal", "a", 5 * SECOND).await.unwrap();
    a.pause(&"the-account".into(), 7 * SECOND, false).await.unwrap();
    let keys = [("slots:minute", 80), ("lease:renewal", 5), ("closed:the-account", 7)];
    for (key, seconds) in keys {
        let left = replicas.time_to_live(key);
        let never_early = seconds * 1000..=(seconds + 60) * 1000;
        assert!(never_early.contains(&left), "{key}: {left}");
    }
    // With a probe it lasts until the account is resumed.
    a.pause(&"the-account".into(), 7 * SECOND, true).await.unwrap();
    assert_eq!(replicas.time_to_live("closed:the-account"), -1);
}

#[tokio::test]
async fn a_paused_account_is_paused_for_all_replicas_and_one_probes() {
    let Replicas { clock, stores: [a, b, c], .. } = &Replicas::start();
    a.pause(&"the-account".into(), 60 * SECOND, true).await.unwrap();
    let calls = ["1", "2", "3"].map(|id| call(id, "minute", 9));
    assert_eq!(b.reserve(&calls[0]).await, Ok(Reservation::Paused(60 * SECOND)));
    clock.advance(60 * SECOND);
    // The probe is recognized by its id without windows too.
    let probe = Call { windows: Vec::new(), ..calls[0].clone() };
    assert_eq!(b.reserve(&probe).await, Ok(Reservation::Reserved));
    assert_eq!(c.reserve(&calls[1]).await, Ok(Reservation::Paused(60 * SECOND)));
    assert_eq!(b.reserve(&probe).await, Ok(Reservation::Reserved), "the same probe again");
    clock.advance(60 * SECOND);
    assert_eq!(c.reserve(&calls[1]).await, Ok(Reservation::Reserved));
    assert_eq!(c.reserve(&calls[1]).await, Ok(Reservation::Reserved), "the same probe again");
    assert_eq!(a.reserve(&calls[2]).await, Ok(Reservation::Paused(60 * SECOND)));
    a.finish(&call("answer", "another window", 1), Outcome::Answered).await.unwrap();
    assert_eq!(b.reserve(&calls[2]).await, Ok(Reservation::Reserved));
}

#[tokio::test]
async fn spent_calls_are_reported_by_the_replicas_own_clock() {
    let server = RedisServer::start();
    let (time, ahead) = (manual_clock(), manual_clock());
    ahead.advance(3600 * SECOND);
    let ahead_now = ahead.now();
    let store = |clock| server.store_at(Arc::new(clock)).timed_by(Arc::new(time.clone()));
    let (a, b) = (store(time.clone()), store(ahead));
    a.reserve(&call("1", "minute", 9)).await.unwrap();
    let known = b.get(&"an order".into(), Some(&"minute".into())).await.unwrap().unwrap();
    assert_eq!(known.spent, [ahead_now + 80 * SECOND]);
    assert_eq!(b.get(&"an order".into(), None).await, Ok(None));
}

#[tokio::test]
async fn the_latest_state_wins_for_all_replicas_and_a_terminal_one_stays() {
    let replicas = &Replicas::start();
    let Replicas { stores: [a, b, c], .. } = replicas;
    // These differ by less than a 64-bit float can represent.
    let late = 1_790_000_000;
    let paid = order(late, 999_999_999, OrderStatus::Paid, false);
    let before = order(late, 999_999_998, OrderStatus::AwaitingPayment, false);
    a.put(&"1".into(), &paid).await.unwrap();
    b.put(&"1".into(), &before).await.unwrap();
    for store in [a, b, c] {
        let known = store.get(&"1".into(), None).await.unwrap().unwrap();
        assert_eq!(known.state.as_ref(), Some(&paid));
        assert_eq!(store.peek(&"1".into(), None), Some(known));
    }
    let life = replicas.time_to_live("order:1");
    assert!((1..=30 * 86_400_000).contains(&life), "{life}");

    let last = order(late, 999_999_999, OrderStatus::Refunded, true);
    b.put(&"1".into(), &last).await.unwrap();
    assert_eq!(replicas.time_to_live("order:1"), -1, "for ever");
    let later = order(late + 1, 0, OrderStatus::Paid, false);
    c.put(&"1".into(), &later).await.unwrap();
    assert_eq!(c.peek(&"1".into(), None).unwrap().state.as_ref(), Some(&last), "it was told so");
    for store in [a, b, c] {
        let known = store.get(&"1".into(), None).await.unwrap().unwrap();
        assert_eq!(known.state.as_ref(), Some(&last));
    }
}

#[tokio::test]
async fn times_before_1970_and_missing_times_are_ordered() {
    let Replicas { stores: [a, b, c], .. } = &Replicas::start();
    let none = Order { observe_time: None, ..order(0, 0, OrderStatus::Closed, false) };
    let ascending = [
        none,
        order(i64::MIN + 95, 0, OrderStatus::Closed, false),
        order(-62_135_596_800, 0, OrderStatus::Paid, false),
        order(-1, 5, OrderStatus::Refunding, false),
        order(0, 0, OrderStatus::Canceled, false),
        order(9, 999_999_999, OrderStatus::Paid, false),
        order(10, 0, OrderStatus::Closed, false),
    ];
    for state in &ascending {
        a.put(&"1".into(), state).await.unwrap();
        for earlier in &ascending {
            b.put(&"1".into(), earlier).await.unwrap();
            if earlier == state {
                break;
            }
        }
        // This replica has cached nothing.
        assert_eq!(c.get(&"1".into(), None).await.unwrap().unwrap().state.as_ref(), Some(state));
    }
}

fn token(value: &str, renew_at: SystemTime) -> Token {
    Token { value: Secret::from(value), renew_at }
}

#[tokio::test]
async fn a_token_is_shared_until_it_should_be_renewed() {
    let Replicas { clock, stores: [a, b, c], .. } = &Replicas::start();
    let first = token("first", clock.now() + 100 * SECOND);
    a.save("wx", &first).await.unwrap();
    assert_eq!(b.load("wx").await, Ok(Some(first.clone())));
    let second = token("second", clock.now() + 200 * SECOND);
    b.save("wx", &second).await.unwrap();
    // The first token's refusal arrives late.
    c.remove_if("wx", &first).await.unwrap();
    assert_eq!(a.load("wx").await, Ok(Some(second.clone())));
    assert_eq!(a.load("another").await, Ok(None));
    clock.advance(Duration::from_millis(199_999));
    assert_eq!(a.load("wx").await, Ok(Some(second.clone())));
    clock.advance(MILLISECOND);
    assert_eq!(a.load("wx").await, Ok(None));
    let third = token("third", clock.now() + SECOND);
    a.save("wx", &third).await.unwrap();
    c.remove_if("wx", &third).await.unwrap();
    assert_eq!(a.load("wx").await, Ok(None));
}

#[tokio::test]
async fn a_lease_has_one_owner_and_expires_without_it() {
    let Replicas { clock, stores: [a, b, c], .. } = &Replicas::start();
    let asks = [(a, "a"), (b, "b"), (c, "c")].map(|(s, owner)| s.lease("it", owner, 5 * SECOND));
    let granted = join_all(asks).await.into_iter().filter(|granted| *granted == Ok(true)).count();
    assert_eq!(granted, 1);

    assert_eq!(a.lease("other", "a", 5 * SECOND).await, Ok(true));
    clock.advance(4 * SECOND);
    assert_eq!(a.lease("other", "a", 5 * SECOND).await, Ok(true), "again for the same owner");
    clock.advance(Duration::from_millis(4_999));
    assert_eq!(b.lease("other", "b", 5 * SECOND).await, Ok(false));
    // Its owner dies here without releasing it.
    clock.advance(MILLISECOND);
    assert_eq!(b.lease("other", "b", 5 * SECOND).await, Ok(true));
    a.release("other", "a").await.unwrap();
    assert_eq!(a.lease("other", "a", 5 * SECOND).await, Ok(false), "it is b's by now");
    b.release("other", "b").await.unwrap();
    assert_eq!(a.lease("other", "a", 5 * SECOND).await, Ok(true));
}

#[tokio::test]
async fn the_redis_key_of_a_token_does_not_contain_it() {
    let Replicas { server, clock, stores: [a, ..], .. } = &Replicas::start();
    a.save("wx", &token("the-secret", clock.now() + SECOND)).await.unwrap();
    let keys: Vec<String> = server.say(&["KEYS", "*"]);
    assert_eq!(keys, ["order-query:token:wx"]);
}
