//! What the parts of an answer cost, without a network: a vendor's module, the store, a hit.
//! `make bench-parts` runs it. It is an example, because a benchmark would build the fuzz targets too,
//! and those link with libFuzzer only.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use divan::Bencher;
use order_query::accounts::{Account, Accounts, Caller};
use order_query::clock::{Clock, ManualClock};
use order_query::orders::{Orders, Wanted};
use order_query::pb::{Order, OrderRef, Provider};
use order_query::store::{
    Call, Encoded, Limit, Memory, OrderKey, Outcome, Reservation, Store as _, Window,
};
use order_query_fuzz::{Vendor, block_on};

/// The vendor whose order the other parts work with.
const PROVIDER: Provider = Provider::Wechat;

/// The orders that a store holds.
const ORDERS: usize = 10_000;

fn main() {
    divan::main();
}

/// The request is built and signed, and the answer is translated.
#[divan::bench(args = [Provider::Wechat, Provider::Dingshang, Provider::Haoka])]
fn ask_a_vendor(bencher: Bencher<'_, '_>, provider: Provider) {
    let vendor = Vendor::of(provider);
    bencher.bench_local(|| vendor.usual());
}

/// The state is encoded for the store.
#[divan::bench]
fn encode_an_order(bencher: Bencher<'_, '_>) {
    let order = order();
    bencher.bench_local(|| Encoded::new(black_box(&order)));
}

/// The store's memory is read.
#[divan::bench]
fn peek(bencher: Bencher<'_, '_>) {
    let (store, keys) = filled();
    let mut keys = keys.iter().cycle();
    bencher.bench_local(|| store.snapshot(keys.next().expect("there are keys"), None));
}

/// A call is reserved in a minute's and in a day's window, and finished.
#[divan::bench]
fn reserve_and_finish(bencher: Bencher<'_, '_>) {
    let (clock, order) = (now(), order());
    let store = Memory::new(usize::MAX, Arc::new(clock.clone()));
    let key = OrderKey::from("order");
    let mut count = 0;
    bencher.bench_local(|| {
        // Slots become free again, as they do under a limit.
        clock.advance(Duration::from_secs(1));
        count += 1;
        let call = call(count);
        let reserved = block_on(store.reserve(&call)).expect("memory is always there");
        assert_eq!(reserved, Reservation::Reserved);
        block_on(store.finish(&call, Outcome::Found(&key, &order))).expect("memory is always there")
    });
}

/// A question is checked, its key is built, and memory answers it.
#[divan::bench]
fn hit(bencher: Bencher<'_, '_>) {
    let (orders, order) = answered();
    let caller = Caller::default();
    let hit = || orders.hit(&caller, &order, Wanted::default());
    assert!(hit().is_some(), "the order is cached");
    bencher.bench_local(hit);
}

/// The same, and the answer is written.
#[divan::bench]
fn hit_and_encode(bencher: Bencher<'_, '_>) {
    let (orders, order) = answered();
    let caller = Caller::default();
    bencher.bench_local(|| {
        let hit = orders.hit(&caller, &order, Wanted::default()).expect("the order is cached");
        let mut buffer = Vec::with_capacity(hit.size());
        hit.encode(&mut buffer);
        buffer
    });
}

fn order() -> Order {
    Vendor::of(PROVIDER).usual()
}

fn now() -> ManualClock {
    ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 365))
}

fn filled() -> (Memory, Vec<OrderKey>) {
    let store = Memory::new(usize::MAX, Arc::new(now()));
    let keys: Vec<OrderKey> = (0..ORDERS).map(|count| format!("order {count}").into()).collect();
    let order = order();
    for key in &keys {
        block_on(store.put(key, &order)).expect("memory is always there");
    }
    (store, keys)
}

fn call(count: u64) -> Call {
    let window = |key: &str, limit, seconds| Window {
        key: key.into(),
        limit,
        max_calls: 200_000,
        period: Duration::from_secs(seconds),
    };
    Call {
        id: count.to_string(),
        account: "account".into(),
        windows: vec![
            window("account minute", Limit::PerMinute, 60),
            window("order day", Limit::PerOrderPerDay, 86_400),
        ],
        in_flight: Duration::from_secs(30),
        lease: None,
    }
}

/// The service after it has asked a vendor for an order.
fn answered() -> (Orders, OrderRef) {
    let vendor = Vendor::of(PROVIDER);
    // The fixtures' module has its own time; the answer is as old as that.
    let clock: Arc<dyn Clock> = Arc::new(vendor.clock.clone());
    let id = vendor.query.id.clone();
    // From here on this thread's calls are answered so.
    let _ = vendor.usual();
    let account = Account::new("shop", PROVIDER, true, vendor.module);
    let store = Arc::new(Memory::new(usize::MAX, Arc::clone(&clock)));
    let orders = Orders::new(Accounts::new(vec![account]), store, clock);
    let order = OrderRef { provider: PROVIDER.into(), id, ..OrderRef::default() };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    let answer = block_on(orders.get(&Caller::default(), &order, Wanted::default(), deadline));
    answer.expect("the usual answer is an order");
    (orders, order)
}
