//! Whatever a Redis server answers: in its protocol, and where the protocol is kept, in the values
//! that others may have written.
#![no_main]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use order_query::clock::ManualClock;
use order_query::pb::Order;
use order_query::providers::TokenStore as _;
use order_query::store::{
    Call, Lease, Limit, Outcome, Redis, Reservation, Store as _, Window, fuzzing,
};
use order_query_fuzz::block_on;
use prost::Message as _;
use prost_types::Timestamp;

static RUNS: AtomicU64 = AtomicU64::new(0);

fuzz_target!(
 init: { LazyLock::force(&STORE); },
 |input: &[u8]| {
    // No order of one run is that of another.
    let order = RUNS.fetch_add(1, Ordering::Relaxed).to_string();
    block_on(any_answer(&format!("{order} of an answer"), input));
    if let [found, value @ ..] = input
        && let Some((left, bytes)) = value.split_first_chunk()
    {
        block_on(any_value(&order, *found, i64::from_be_bytes(*left), bytes));
    }
 }
);

/// Made outside the runtime: in it, it would begin to connect.
static STORE: LazyLock<Redis> = LazyLock::new(|| {
    let clock = ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000));
    Redis::open("redis://127.0.0.1", 1 << 20, Arc::new(clock)).expect("a URL")
});

/// How many milliseconds a token can be good for: a day, and what clocks may be off by.
const LONGEST_TOKEN: i64 = 24 * 60 * 60 * 1000 + 1000;

/// A state that is not the last, observed after everything.
fn late() -> Order {
    let observe_time = Some(Timestamp { seconds: 253_402_300_799, nanos: 999_999_999 });
    Order { id: "late".to_owned(), observe_time, ..Order::default() }
}

fn call() -> Call {
    let (limit, period) = (Limit::PerOrderPerDay, Duration::from_mins(1));
    let window = Window { key: "w".into(), limit, max_calls: 9, period };
    let in_flight = Duration::from_secs(5);
    let (order, seen) = ("order".into(), None);
    let lease = Lease { key: "l".to_owned(), owner: "o".to_owned(), life: in_flight, order, seen };
    Call {
        id: "c".to_owned(),
        account: "a".into(),
        windows: vec![window],
        in_flight,
        lease: Some(lease),
    }
}

/// Bytes in the place of an answer: every question ends.
async fn any_answer(order: &str, answer: &[u8]) {
    let store = &*STORE;
    fuzzing::answer(answer);
    let _ = store.get(&order.into(), Some(&"w".into())).await;
    let _ = store.put(&order.into(), &late()).await;
    let _ = store.load("us").await;
    let _ = store.lease("what", "me", Duration::from_secs(1)).await;
    let _ = store.reserve(&call()).await;
    let _ = store.finish(&call(), Outcome::Found(&order.into(), &late())).await;
    let _ = store.spent(&"w".into()).await;
    let _ = store.pause(&"a".into(), Duration::from_secs(1), true).await;
}

/// Bytes in the place of a value: what is read is what stands there, or nothing.
async fn any_value(order: &str, found: u8, left: i64, bytes: &[u8]) {
    let store = &*STORE;
    let value = |more: &[&str]| answer(found, bytes, more);

    fuzzing::answer(&value(&[&format!("*1\r\n:{left}"), ":0"]));
    let recalled = store.get(&order.into(), Some(&"w".into())).await.expect("an answer");
    let there = Order::decode(bytes).ok().filter(|_| found == 1);
    assert_eq!(recalled.and_then(|known| known.state), there, "a state out of nothing");
    if let Some(last) = there.filter(|order| order.terminal) {
        // Whatever comes after it, a terminal state stays.
        fuzzing::answer(b"*3\r\n:0\r\n$-1\r\n:0\r\n");
        store.put(&order.into(), &late()).await.expect("kept");
        fuzzing::answer(&answer(1, &late().encode_to_vec(), &["*0", ":0"]));
        let recalled = store.get(&order.into(), None).await.expect("recalled");
        assert_eq!(recalled.and_then(|known| known.state), Some(last), "another end");
    }

    fuzzing::answer(&value(&[&format!(":{left}")]));
    // Of one that would be good for days nobody knows how long it is.
    let token = store.load("us").await.expect("an answer");
    let text = std::str::from_utf8(bytes).ok().filter(|_| found == 1 && left <= LONGEST_TOKEN);
    assert_eq!(token.as_ref().map(|token| token.value.expose()), text, "a token out of nothing");

    fuzzing::answer(format!("*2\r\n:{found}\r\n:{left}\r\n").as_bytes());
    let take = store.reserve(&call()).await;
    assert_ne!(take, Ok(Reservation::Reserved), "a slot out of nothing");
}

/// A list of what was found, its bytes and more, in Redis' protocol.
fn answer(found: u8, bytes: &[u8], more: &[&str]) -> Vec<u8> {
    let start = format!("*{}\r\n:{found}\r\n${}\r\n", more.len() + 2, bytes.len());
    [start.as_bytes(), bytes, b"\r\n", more.join("\r\n").as_bytes(), b"\r\n"].concat()
}
