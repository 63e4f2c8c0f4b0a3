//! The fence: no limited call while Redis may have lost calls. The whole service under such losses is in
//! `tests/it/system/losses.rs`.

mod unknown;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use order_query::clock::{Clock as _, ManualClock};
use order_query::config::Secret;
use order_query::error::Error;
use order_query::pb::{ErrorReason, OrderStatus};
use order_query::providers::{Token, TokenStore as _};
use order_query::store::{Call, Limit, Redis, Reservation, Store as _, Window};
use tokio::runtime::Runtime;

use super::faults::{NEVER, assert_unavailable, once_open, until_it_works};
use super::shared::{SECOND, call, order};
use crate::support::manual_clock;
use crate::support::redis_proxy::Line;
use crate::support::redis_server::RedisServer;

const DAY: Duration = Duration::from_hours(24);

/// How long a membership lasts, and a member may go on reserving at a server that others have left.
const LIFE: Duration = Duration::from_secs(3);
const PARTED: Duration = Duration::from_secs(15);

/// How long a call in a window may be in flight: see [`call`].
const FLIGHT: Duration = Duration::from_secs(20);

/// A replica that can crash.
struct Replica {
    store: Arc<Redis>,
    runtime: Runtime,
}

impl Replica {
    fn start(server: &RedisServer, clock: &ManualClock) -> Self {
        let runtime = Runtime::new().unwrap();
        let time = || Arc::new(clock.clone());
        let store = {
            let _inside = runtime.enter();
            Arc::new(server.store_at(time()).timed_by(time()))
        };
        Self { store, runtime }
    }

    async fn reserve(&self, call: &Call) -> Result<Reservation, Error> {
        let (store, call) = (Arc::clone(&self.store), call.clone());
        self.runtime.spawn(async move { once_open(&store, &call).await }).await.unwrap()
    }

    /// It says nothing more to anyone.
    fn crash(self) {
        self.runtime.shutdown_background();
    }
}

fn store(server: &RedisServer, clock: &ManualClock) -> Redis {
    let time = || Arc::new(clock.clone());
    server.store_at(time()).timed_by(time())
}

/// A store behind a line.
fn store_behind(line: &Line, clock: &ManualClock) -> Redis {
    let time = || Arc::new(clock.clone());
    Redis::open(&RedisServer::url_at(line.port), 1 << 20, time()).unwrap().timed_by(time())
}

/// The words of each member: see `beat.lua`.
fn members(server: &RedisServer) -> Vec<Vec<String>> {
    let text: String = server.say(&["HGET", "order-query:fence", "members"]);
    let words: Vec<_> = text.split(' ').map(str::to_owned).collect();
    words.chunks(8).map(<[String]>::to_vec).collect()
}

async fn until(mut so: impl FnMut() -> bool) {
    let happens = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(NEVER, happens).await.expect("it happens");
}

/// Waits until a member has renewed its membership at the time that it is now.
async fn until_beat(server: &RedisServer, clock: &ManualClock) {
    let now = clock.now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis().to_string();
    until(|| server.say::<String>(&["HGET", "order-query:fence", "beat"]) == now).await;
}

/// A line that leads nowhere: it is connected, and nothing arrives.
fn cut(line: &Line) -> TcpListener {
    let nowhere = TcpListener::bind("127.0.0.1:0").unwrap();
    line.lead_to(nowhere.local_addr().unwrap().port());
    line.lose_answers(true);
    nowhere
}

/// A call in a window of a day.
fn daily(id: &str, max_calls: u32) -> Call {
    let window = Window { key: "day".into(), limit: Limit::PerOrderPerDay, max_calls, period: DAY };
    Call { windows: vec![window], ..call(id, "", 0) }
}

/// The call is reserved as soon as lost calls no longer close its windows: the replica learns it from a beat.
async fn until_reserved(store: &Redis, call: &Call) {
    let reserved = async {
        while store.reserve(call).await != Ok(Reservation::Reserved) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(NEVER, reserved).await.expect("nothing closes its windows any more");
}

/// The calls wait for as long as those of a lost replica may count. Returns how long.
#[track_caller]
fn assert_closed(reservation: &Result<Reservation, Error>) -> Duration {
    let error = reservation.as_ref().unwrap_err();
    assert_eq!(error.reason, ErrorReason::StoreUnavailable);
    assert!(error.detail.as_ref().unwrap().contains("is gone"), "{error:?}");
    error.retry_after.unwrap()
}

#[track_caller]
fn assert_full(reservation: &Result<Reservation, Error>) {
    assert!(matches!(reservation, Ok(Reservation::Full(..))), "{reservation:?}");
}

#[tokio::test]
async fn the_first_replica_of_an_empty_server_waits_for_nobody() {
    let server = RedisServer::start();
    let (a, b) = (server.store(), server.store());
    assert_eq!(a.reserve(&call("1", "minute", 1)).await, Ok(Reservation::Reserved));
    // The second one is known to the first within a beat.
    let refused = b.reserve(&call("2", "minute", 1)).await;
    assert!(matches!(refused, Ok(Reservation::Full(..))), "{refused:?}");
}

#[tokio::test]
async fn every_live_replica_publishes_its_calls_after_a_flush() {
    let server = RedisServer::start();
    let stores = [server.store(), server.store(), server.store()];
    for (store, id) in stores.iter().zip(["1", "2", "3"]) {
        assert_eq!(once_open(store, &call(id, "minute", 4)).await, Ok(Reservation::Reserved));
    }
    let () = server.say(&["FLUSHALL"]);
    let mut reserved = 0;
    for (n, store) in stores.iter().cycle().take(9).enumerate() {
        let reservation =
            once_open(store, &call(&format!("after {n}"), "minute", 4)).await.unwrap();
        reserved += usize::from(reservation == Reservation::Reserved);
    }
    assert_eq!(reserved, 1);
}

#[tokio::test]
async fn a_promoted_copy_counts_as_a_loss_though_it_has_the_fence() {
    let server = RedisServer::start();
    let (a, b) = (server.store(), server.store());
    assert_eq!(once_open(&a, &call("1", "minute", 2)).await, Ok(Reservation::Reserved));
    assert_eq!(once_open(&b, &call("2", "minute", 2)).await, Ok(Reservation::Reserved));
    // Its copy lacks the last call.
    let _: u8 = server.say(&["ZREM", "order-query:slots:minute", "2~20000"]);
    let () = server.say(&["REPLICAOF", "127.0.0.1", "1"]);
    let () = server.say(&["REPLICAOF", "NO", "ONE"]);
    assert_full(&once_open(&a, &call("3", "minute", 2)).await);
}

#[tokio::test]
async fn pauses_tokens_and_terminal_orders_are_published_too() {
    let server = RedisServer::start();
    let (a, b) = (server.store(), server.store());
    let last = order(5, 0, OrderStatus::Refunded, true);
    let renew_at = order_query::clock::SystemClock.now() + 600 * SECOND;
    let token = Token { value: Secret::from("secret"), renew_at };
    a.put(&"1".into(), &last).await.unwrap();
    a.save("identity", &token).await.unwrap();
    a.pause(&"the-account".into(), 50 * SECOND, false).await.unwrap();
    a.ping().await.unwrap();
    b.ping().await.unwrap();
    let () = server.say(&["FLUSHALL"]);
    let refused = once_open(&b, &call("1", "minute", 9)).await;
    assert!(matches!(refused, Ok(Reservation::Paused(wait)) if wait > 40 * SECOND), "{refused:?}");
    assert_eq!(b.get(&"1".into(), None).await.unwrap().unwrap().state, Some(last));
    assert_eq!(b.load("identity").await.unwrap().unwrap().value, token.value);
}

#[tokio::test]
async fn calls_of_a_lost_replica_close_each_window_for_as_long_as_they_can_count() {
    let (server, clock) = (RedisServer::start(), manual_clock());
    let a = store(&server, &clock);
    let lost = Replica::start(&server, &clock);
    assert_eq!(once_open(&a, &call("1", "minute", 9)).await, Ok(Reservation::Reserved));
    assert_eq!(lost.reserve(&call("2", "minute", 9)).await, Ok(Reservation::Reserved));
    lost.crash();
    let () = server.say(&["FLUSHALL"]);
    // It may be alive.
    let waiting = a.reserve(&call("3", "minute", 9)).await.unwrap_err();
    assert!(waiting.detail.unwrap().contains("may have lost"));
    clock.advance(LIFE);
    let minute = assert_closed(&once_open(&a, &call("3", "minute", 9)).await);
    assert_eq!(minute, PARTED + FLIGHT + 60 * SECOND - LIFE);
    clock.advance(minute - Duration::from_millis(1));
    assert_closed(&once_open(&a, &call("3", "minute", 9)).await);
    clock.advance(Duration::from_millis(1));
    until_reserved(&a, &call("3", "minute", 9)).await;
}

#[tokio::test]
async fn an_orders_day_counts_as_many_calls_as_a_lost_replica_made_for_any_order() {
    let (server, clock) = (RedisServer::start(), manual_clock());
    let a = store(&server, &clock);
    let lost = Replica::start(&server, &clock);
    assert_eq!(once_open(&a, &call("1", "minute", 9)).await, Ok(Reservation::Reserved));
    for id in ["2", "3"] {
        assert_eq!(lost.reserve(&daily(id, 9)).await, Ok(Reservation::Reserved));
    }
    lost.crash();
    let () = server.say(&["FLUSHALL"]);
    let _ = a.reserve(&daily("4", 3)).await;
    clock.advance(LIFE);
    // It knows nothing of the order, and may not spend what the other one may have spent.
    let wait = assert_closed(&once_open(&a, &daily("4", 2)).await);
    assert_eq!(wait, PARTED + FLIGHT + DAY - LIFE);
    assert_eq!(once_open(&a, &daily("4", 3)).await, Ok(Reservation::Reserved));
    let full = once_open(&a, &daily("5", 3)).await;
    assert!(matches!(full, Ok(Reservation::Full(Limit::PerOrderPerDay, _))), "{full:?}");
    // A replica that comes later respects it too.
    let b = store(&server, &clock);
    let full = once_open(&b, &daily("5", 3)).await;
    assert!(matches!(full, Ok(Reservation::Full(Limit::PerOrderPerDay, _))), "{full:?}");
    clock.advance(wait);
    assert_eq!(once_open(&a, &daily("5", 3)).await, Ok(Reservation::Reserved));
}

#[tokio::test]
async fn a_replica_that_left_before_a_flush_is_remembered() {
    let (server, clock) = (RedisServer::start(), manual_clock());
    let (a, left) = (store(&server, &clock), store(&server, &clock));
    assert_eq!(once_open(&a, &call("1", "minute", 9)).await, Ok(Reservation::Reserved));
    assert_eq!(once_open(&left, &daily("2", 9)).await, Ok(Reservation::Reserved));
    drop(left);
    until(|| members(&server).iter().any(|member| member[1] == "0")).await;
    clock.advance(60 * 60 * SECOND);
    until_beat(&server, &clock).await;
    let () = server.say(&["FLUSHALL"]);
    // Its last minute is over, its day is not.
    assert_eq!(once_open(&a, &call("3", "minute", 9)).await, Ok(Reservation::Reserved));
    let wait = assert_closed(&once_open(&a, &daily("4", 1)).await);
    assert!(wait <= DAY + FLIGHT - 60 * 60 * SECOND && wait > 22 * 60 * 60 * SECOND, "{wait:?}");
}

#[tokio::test]
async fn a_replica_that_returns_publishes_and_opens_the_windows() {
    let (server, clock) = (RedisServer::start(), manual_clock());
    let line = Line::to(server.port).await;
    let a = store(&server, &clock);
    let b = store_behind(&line, &clock);
    assert_eq!(once_open(&a, &call("1", "minute", 3)).await, Ok(Reservation::Reserved));
    assert_eq!(once_open(&b, &call("2", "minute", 3)).await, Ok(Reservation::Reserved));
    // Nothing reaches it any more.
    let _nowhere = cut(&line);
    assert_unavailable(&b.get(&"-".into(), None).await.unwrap_err());
    let () = server.say(&["FLUSHALL"]);
    let _ = a.reserve(&call("3", "minute", 3)).await;
    clock.advance(LIFE);
    assert_closed(&once_open(&a, &call("3", "minute", 3)).await);
    let epoch = || server.say::<String>(&["HGET", "order-query:fence", "epoch"]);
    let closed = epoch();
    line.lose_answers(false);
    line.lead_to(server.port);
    until_it_works(&b).await;
    // Its calls count as lost until it has published, whoever takes this epoch for open.
    until(|| epoch() != closed).await;
    until_reserved(&a, &call("3", "minute", 3)).await;
    assert_full(&once_open(&a, &call("4", "minute", 3)).await);
}

#[tokio::test]
async fn an_epoch_that_began_without_a_replica_ends_when_it_returns() {
    let (server, clock) = (RedisServer::start(), manual_clock());
    let line = Line::to(server.port).await;
    let a = store_behind(&line, &clock);
    assert_eq!(once_open(&a, &call("1", "minute", 2)).await, Ok(Reservation::Reserved));
    let _nowhere = cut(&line);
    assert_unavailable(&a.get(&"-".into(), None).await.unwrap_err());
    // A server that has nothing, and that nobody has used.
    server.clear();
    let b = store(&server, &clock);
    assert_eq!(once_open(&b, &call("2", "minute", 2)).await, Ok(Reservation::Reserved));
    line.lose_answers(false);
    line.lead_to(server.port);
    until_it_works(&a).await;
    let counted = async {
        while b.get(&"-".into(), Some(&"minute".into())).await.unwrap().unwrap().spent.len() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(NEVER, counted).await.expect("it publishes");
    assert_full(&once_open(&b, &call("3", "minute", 2)).await);
}

#[tokio::test]
async fn a_replica_makes_no_call_before_every_live_one_knows_of_it() {
    let (server, clock) = (RedisServer::start(), manual_clock());
    let unaware = Replica::start(&server, &clock);
    assert_eq!(unaware.reserve(&call("1", "minute", 9)).await, Ok(Reservation::Reserved));
    unaware.crash();
    let new = store(&server, &clock);
    let waiting = new.reserve(&call("2", "minute", 9)).await.unwrap_err();
    assert!(waiting.detail.unwrap().contains("may have lost"));
    clock.advance(LIFE);
    assert_eq!(once_open(&new, &call("2", "minute", 9)).await, Ok(Reservation::Reserved));
}

#[tokio::test]
async fn a_new_replica_keeps_nobody_back() {
    let (server, clock) = (RedisServer::start(), manual_clock());
    let line = Line::to(server.port).await;
    let a = store(&server, &clock);
    assert_eq!(a.reserve(&call("1", "minute", 9)).await, Ok(Reservation::Reserved));
    // It joins, and hears nothing.
    let b = store_behind(&line, &clock);
    b.ping().await.unwrap();
    line.lose_answers(true);
    until(|| members(&server).len() == 2).await;
    for id in ["2", "3", "4"] {
        assert_eq!(a.reserve(&call(id, "minute", 9)).await, Ok(Reservation::Reserved));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn a_closed_store_keeps_no_other_one_waiting() {
    let (server, clock) = (RedisServer::start(), manual_clock());
    let (a, b) = (store(&server, &clock), store(&server, &clock));
    assert_eq!(a.reserve(&call("1", "minute", 9)).await, Ok(Reservation::Reserved));
    a.close().await;
    assert_eq!(members(&server)[0][1], "0", "its membership has ended");
    b.opened().await;
    assert_eq!(b.reserve(&call("2", "minute", 9)).await, Ok(Reservation::Reserved));
    let refused = a.reserve(&call("3", "minute", 9)).await;
    assert_unavailable(&refused.unwrap_err());
}

#[tokio::test]
async fn calls_of_a_lost_replica_still_count_after_a_second_loss() {
    let (server, clock) = (RedisServer::start(), manual_clock());
    let a = store(&server, &clock);
    let lost = Replica::start(&server, &clock);
    assert_eq!(once_open(&a, &call("1", "minute", 9)).await, Ok(Reservation::Reserved));
    assert_eq!(lost.reserve(&call("2", "minute", 9)).await, Ok(Reservation::Reserved));
    lost.crash();
    let () = server.say(&["FLUSHALL"]);
    let _ = a.reserve(&call("3", "minute", 9)).await;
    clock.advance(LIFE);
    assert_closed(&once_open(&a, &call("3", "minute", 9)).await);
    // Now the last call of the lost one is older than what the server has.
    clock.advance(PARTED + 5 * SECOND);
    until_beat(&server, &clock).await;
    let () = server.say(&["REPLICAOF", "127.0.0.1", "1"]);
    let () = server.say(&["REPLICAOF", "NO", "ONE"]);
    let wait = assert_closed(&once_open(&a, &call("3", "minute", 9)).await);
    assert_eq!(wait, FLIGHT + 60 * SECOND - LIFE - 5 * SECOND);
}
