//! What every store does with the calls that the vendors count.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use order_query::store::{Call, Known, Limit, Outcome, Reservation, Store, Window};

use super::{Fixture, IN_FLIGHT, MINUTE, assert_full, call, minute, observed, own};

/// Reserves a slot in one window for `id`.
async fn take(store: &Arc<dyn Store>, id: &str, window: &Window) -> Reservation {
    store.reserve(&call(id, std::slice::from_ref(window))).await.unwrap()
}

/// When the slots of a window are freed.
async fn spent(store: &Arc<dyn Store>, window: &str) -> Vec<SystemTime> {
    store.spent(&window.into()).await.unwrap()
}

pub async fn a_window_admits_exactly_its_limit<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    for id in ["a", "b", "c"] {
        assert_eq!(take(&store, id, &minute("w", 3)).await, Reservation::Reserved);
    }
    assert_full::<F>(
        &take(&store, "d", &minute("w", 3)).await,
        Limit::PerMinute,
        IN_FLIGHT + MINUTE,
    );
    assert_eq!(take(&store, "d", &minute("another", 3)).await, Reservation::Reserved);
}

pub async fn a_call_without_limits_is_always_admitted<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    for _ in 0..3 {
        assert_eq!(store.reserve(&call("a", &[])).await.unwrap(), Reservation::Reserved);
        store.finish(&call("a", &[]), Outcome::Counted).await.unwrap();
        store.cancel(&call("a", &[])).await.unwrap();
    }
}

pub async fn a_call_refused_by_one_window_takes_no_slot_in_the_others<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    let windows = [minute("wide", 2), own("narrow", 1), minute("wider", 3)];
    assert_eq!(store.reserve(&call("a", &windows)).await.unwrap(), Reservation::Reserved);
    for id in ["b", "c", "d"] {
        let refused = store.reserve(&call(id, &windows)).await.unwrap();
        assert_full::<F>(&refused, Limit::PerOrderPerDay, IN_FLIGHT + MINUTE);
    }
    // Had any of those taken a slot, this would be refused.
    assert_eq!(take(&store, "e", &windows[0]).await, Reservation::Reserved);
    for id in ["e", "f"] {
        assert_eq!(take(&store, id, &windows[2]).await, Reservation::Reserved);
    }
    assert_full::<F>(&take(&store, "f", &windows[0]).await, Limit::PerMinute, IN_FLIGHT + MINUTE);
    assert_full::<F>(&take(&store, "g", &windows[2]).await, Limit::PerMinute, IN_FLIGHT + MINUTE);
}

pub async fn an_unanswered_calls_slot_is_freed_after_its_time_in_flight_and_the_period<
    F: Fixture,
>() {
    let fixture = F::start().await;
    let store = fixture.store();
    let window = minute("w", 1);
    assert_eq!(take(&store, "a", &window).await, Reservation::Reserved);
    fixture.advance_almost(IN_FLIGHT + MINUTE).await;
    assert_full::<F>(&take(&store, "b", &window).await, Limit::PerMinute, F::rest());
    fixture.advance_the_rest().await;
    assert_eq!(take(&store, "b", &window).await, Reservation::Reserved);
}

pub async fn an_answered_calls_slot_is_freed_a_period_after_the_answer<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    let windows = [minute("w", 1), Window { period: MINUTE * 2, ..minute("long", 1) }];
    let settled = call("a", &windows);
    assert_eq!(store.reserve(&settled).await.unwrap(), Reservation::Reserved);
    fixture.advance(Duration::from_secs(2)).await;
    store.finish(&settled, Outcome::Counted).await.unwrap();
    assert_full::<F>(&take(&store, "b", &windows[1]).await, Limit::PerMinute, MINUTE * 2);
    fixture.advance_almost(MINUTE).await;
    assert_full::<F>(&take(&store, "b", &windows[0]).await, Limit::PerMinute, F::rest());
    fixture.advance_the_rest().await;
    assert_eq!(take(&store, "b", &windows[0]).await, Reservation::Reserved);
}

pub async fn an_answer_never_extends_a_slot<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    let window = minute("w", 1);
    let answered = call("a", std::slice::from_ref(&window));
    store.reserve(&answered).await.unwrap();
    // First in time, then again, then long after the call has timed out.
    store.finish(&answered, Outcome::Counted).await.unwrap();
    for _ in 0..3 {
        fixture.advance(MINUTE / 4).await;
        store.finish(&answered, Outcome::Counted).await.unwrap();
    }
    fixture.advance_almost(MINUTE / 4).await;
    store.finish(&answered, Outcome::Counted).await.unwrap();
    assert_full::<F>(&take(&store, "b", &window).await, Limit::PerMinute, F::rest());
    fixture.advance_the_rest().await;
    store.finish(&answered, Outcome::Counted).await.unwrap();
    assert_eq!(take(&store, "b", &window).await, Reservation::Reserved);
}

pub async fn slots_are_freed_one_by_one<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    let (window, step) = (minute("w", 3), Duration::from_secs(10));
    for id in ["a", "b", "c"] {
        assert_eq!(take(&store, id, &window).await, Reservation::Reserved);
        fixture.advance(step).await;
    }
    let mut wait = IN_FLIGHT + MINUTE - 3 * step;
    for id in ["d", "e", "f"] {
        assert_full::<F>(&take(&store, id, &window).await, Limit::PerMinute, wait);
        fixture.advance(wait).await;
        assert_eq!(take(&store, id, &window).await, Reservation::Reserved);
        wait = step;
    }
}

pub async fn a_canceled_call_frees_its_slots<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    let windows = [minute("w", 1), minute("v", 1)];
    store.reserve(&call("a", &windows)).await.unwrap();
    store.cancel(&call("a", &windows)).await.unwrap();
    assert!(spent(&store, "w").await.is_empty());
    assert_eq!(store.reserve(&call("b", &windows)).await.unwrap(), Reservation::Reserved);
    // A second cancel has no effect: the slot belongs to another call now.
    store.cancel(&call("a", &windows)).await.unwrap();
    assert_full::<F>(&take(&store, "c", &windows[1]).await, Limit::PerMinute, IN_FLIGHT + MINUTE);
}

pub async fn finish_and_cancel_without_a_slot_change_nothing<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    let window = minute("w", 1);
    let stranger = call("stranger", &[window.clone(), minute("unknown", 1)]);
    let harmless = async || {
        store.finish(&stranger, Outcome::Counted).await.unwrap();
        store.cancel(&stranger).await.unwrap();
    };
    harmless().await;
    assert!(spent(&store, "w").await.is_empty());
    assert_eq!(take(&store, "a", &window).await, Reservation::Reserved);
    harmless().await;
    assert_full::<F>(&take(&store, "b", &window).await, Limit::PerMinute, IN_FLIGHT + MINUTE);
    assert_eq!(take(&store, "b", &minute("unknown", 1)).await, Reservation::Reserved);
}

pub async fn a_repeated_reservation_takes_no_second_slot<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    let windows = [minute("w", 2), minute("v", 1)];
    for _ in 0..3 {
        assert_eq!(store.reserve(&call("a", &windows)).await.unwrap(), Reservation::Reserved);
    }
    assert_eq!(spent(&store, "w").await.len(), 1);
    assert_eq!(take(&store, "b", &windows[0]).await, Reservation::Reserved);
    assert_full::<F>(&take(&store, "c", &windows[0]).await, Limit::PerMinute, IN_FLIGHT + MINUTE);
    assert_full::<F>(&take(&store, "c", &windows[1]).await, Limit::PerMinute, IN_FLIGHT + MINUTE);
}

pub async fn a_lowered_limit_applies_at_once<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    for id in ["a", "b", "c"] {
        take(&store, id, &minute("w", 3)).await;
        fixture.advance(Duration::from_secs(10)).await;
    }
    // Two slots must be freed: "a" after 35 s, "b" 10 s later.
    let wait = Duration::from_secs(45);
    assert_full::<F>(&take(&store, "d", &minute("w", 2)).await, Limit::PerMinute, wait);
    fixture.advance(wait).await;
    assert_eq!(take(&store, "d", &minute("w", 2)).await, Reservation::Reserved);
}

pub async fn get_returns_spent_calls_with_the_order<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    let (window, step) = (minute("order day", 3), Duration::from_secs(10));
    for id in ["z", "a", "m"] {
        take(&store, id, &window).await;
        fixture.advance(step).await;
    }
    take(&store, "refused", &window).await;
    store.put(&"order".into(), &observed(0, "")).await.unwrap();
    let known = store.get(&"order".into(), Some(&"order day".into())).await.unwrap().unwrap();
    assert_eq!(known.state, Some(observed(0, "")));
    assert_eq!(known.spent.len(), 3);
    for pair in known.spent.windows(2) {
        let between = pair[1].duration_since(pair[0]).expect("earliest first");
        assert!(between >= step && between <= step + F::SLACK, "{between:?}");
    }
    assert!(store.get(&"order".into(), None).await.unwrap().unwrap().spent.is_empty());
    assert_eq!(spent(&store, "order day").await, known.spent);
    assert!(
        store
            .peek(&"unknown".into(), Some(&"order day".into()))
            .is_none_or(|glance| glance.spent == known.spent)
    );
    // The first is freed now.
    fixture.advance(IN_FLIGHT + MINUTE - 3 * step).await;
    assert_eq!(spent(&store, "order day").await, known.spent[1..]);
    fixture.advance(MINUTE).await;
    assert!(spent(&store, "order day").await.is_empty());
    assert_eq!(store.get(&"none".into(), Some(&"none day".into())).await.unwrap(), None::<Known>);
}

pub async fn concurrent_calls_are_admitted_up_to_the_limit<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    let takes = (0..200).map(|n| {
        let store = Arc::clone(&store);
        let call: Call = call(&format!("call {n}"), &[minute("all", 1000), own("w", 50)]);
        tokio::spawn(async move { store.reserve(&call).await.unwrap() })
    });
    let takes = join_all(takes).await;
    assert_eq!(takes.iter().filter(|take| matches!(take, Ok(Reservation::Reserved))).count(), 50);
    assert_eq!(
        takes
            .iter()
            .filter(|take| matches!(take, Ok(Reservation::Full(Limit::PerOrderPerDay, _))))
            .count(),
        150
    );
    assert_eq!(spent(&store, "all").await.len(), 50);
    assert_eq!(spent(&store, "w").await.len(), 50);
}

/// Accounts with different timeouts and replicas with different settings share windows.
pub async fn a_short_call_does_not_shorten_a_long_calls_slot<F: Fixture>() {
    let fixture = F::start().await;
    let (store, windows) = (fixture.store(), [minute("w", 1)]);
    let long = Call { in_flight: Duration::from_mins(5), ..call("long", &windows) };
    assert_eq!(store.reserve(&long).await.unwrap(), Reservation::Reserved);
    let short = Call { in_flight: Duration::ZERO, ..call("short", &windows) };
    for _ in 0..2 {
        let full = store.reserve(&short).await.unwrap();
        assert_full::<F>(&full, Limit::PerMinute, Duration::from_mins(6));
    }
}
