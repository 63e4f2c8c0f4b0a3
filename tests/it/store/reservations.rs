//! What every store does with a call from its reservation to its end: its lease, and the effects of
//! its answer.

use std::sync::Arc;
use std::time::Duration;

use order_query::store::{Call, Lease, Limit, Outcome, Reservation, Store};

use super::{
    Fixture, IN_FLIGHT, MINUTE, assert_full, assert_paused, call, ended, minute, observed, own,
    recalled,
};

/// A call under the lease of that order.
fn leased(id: &str, order: &str) -> Call {
    let lease = Lease {
        key: format!("{order} lease"),
        owner: id.to_owned(),
        life: MINUTE,
        order: order.into(),
        // No state can be newer than this.
        seen: observed(1_000_000, "").observe_time,
    };
    Call { lease: Some(lease), ..call(id, &[minute("w", 9)]) }
}

async fn reserve(store: &Arc<dyn Store>, call: &Call) -> Reservation {
    store.reserve(call).await.unwrap()
}

pub async fn one_owner_at_a_time_holds_the_lease_of_an_order<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    for _ in 0..2 {
        assert_eq!(reserve(&store, &leased("we", "a")).await, Reservation::Reserved);
        assert_eq!(reserve(&store, &leased("they", "a")).await, Reservation::Leased);
    }
    assert_eq!(reserve(&store, &leased("they", "b")).await, Reservation::Reserved);
    // The refused call took no slot.
    assert_eq!(store.spent(&"w".into()).await.unwrap().len(), 2);
    fixture.advance_almost(MINUTE).await;
    assert_eq!(reserve(&store, &leased("they", "a")).await, Reservation::Leased);
    // A repeated reservation renews the lease.
    assert_eq!(reserve(&store, &leased("we", "a")).await, Reservation::Reserved);
    fixture.advance(MINUTE / 2).await;
    assert_eq!(reserve(&store, &leased("they", "a")).await, Reservation::Leased);
    store.release("a lease", "we").await.unwrap();
    assert_eq!(reserve(&store, &leased("they", "a")).await, Reservation::Reserved);
}

pub async fn a_call_is_refused_when_an_answer_arrived_meanwhile<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    let seen = |id: &str, seen: Option<i64>| {
        let call = leased(id, "a");
        let seen = seen.and_then(|seconds| observed(seconds, "").observe_time);
        Call { lease: call.lease.map(|lease| Lease { seen, ..lease }), ..call }
    };
    assert_eq!(reserve(&store, &seen("first", None)).await, Reservation::Reserved);
    let found = observed(5, "the answer");
    store.finish(&seen("first", None), Outcome::Found(&"a".into(), &found)).await.unwrap();
    for before in [None, Some(4)] {
        assert_eq!(reserve(&store, &seen("late", before)).await, Reservation::Leased);
    }
    // No slot was taken, and no lease.
    assert_eq!(store.spent(&"w".into()).await.unwrap().len(), 1);
    for known in [Some(5), Some(6)] {
        assert_eq!(reserve(&store, &seen("knows it", known)).await, Reservation::Reserved);
    }
}

pub async fn a_refused_call_holds_no_lease<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    let full = Call { windows: vec![minute("full", 1)], ..leased("we", "a") };
    assert_eq!(reserve(&store, &call("first", &full.windows)).await, Reservation::Reserved);
    let refused = reserve(&store, &full).await;
    assert_full::<F>(&refused, Limit::PerMinute, IN_FLIGHT + MINUTE);
    assert_eq!(reserve(&store, &leased("they", "a")).await, Reservation::Reserved);
    store.pause(&"account".into(), MINUTE, false).await.unwrap();
    assert_paused::<F>(&reserve(&store, &leased("we", "b")).await, MINUTE);
    let other = Call { account: "another".into(), ..leased("they", "b") };
    assert_eq!(reserve(&store, &other).await, Reservation::Reserved);
}

pub async fn a_found_state_is_stored_and_releases_the_lease<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    for (id, state) in [("1", observed(1, "open")), ("2", ended(2, "end"))] {
        let finished = leased(id, "a");
        assert_eq!(reserve(&store, &finished).await, Reservation::Reserved);
        // Only its own: a call that found nothing does not release the lease.
        store.finish(&finished, Outcome::Counted).await.unwrap();
        store.finish(&finished, Outcome::Answered).await.unwrap();
        assert_eq!(reserve(&store, &leased("other", "a")).await, Reservation::Leased);
        store.finish(&finished, Outcome::Found(&"a".into(), &state)).await.unwrap();
        assert_eq!(recalled(&store, "a").await, Some(state));
    }
    let late = leased("late", "a");
    assert_eq!(reserve(&store, &late).await, Reservation::Reserved);
    let earlier = observed(3, "after the end");
    store.finish(&late, Outcome::Found(&"a".into(), &earlier)).await.unwrap();
    assert_eq!(recalled(&store, "a").await, Some(ended(2, "end")), "put's own rules apply");
    // A lease that has a new owner is kept.
    assert_eq!(reserve(&store, &leased("other", "a")).await, Reservation::Reserved);
    store.finish(&late, Outcome::Found(&"a".into(), &earlier)).await.unwrap();
    assert_eq!(reserve(&store, &leased("third", "a")).await, Reservation::Leased);
}

pub async fn finish_returns_the_calls_spent_of_the_orders_own_limit<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    let state = observed(1, "");
    for n in 1..=3 {
        let finished = call(&n.to_string(), &[minute("w", 9), own("a day", 9)]);
        assert_eq!(reserve(&store, &finished).await, Reservation::Reserved);
        let spent = store.finish(&finished, Outcome::Found(&"a".into(), &state)).await.unwrap();
        assert_eq!(spent.len(), n);
        let known = store.get(&"a".into(), Some(&"a day".into())).await.unwrap().unwrap();
        assert_eq!(known.spent.len(), n);
        for (told, read) in spent.iter().zip(&known.spent) {
            let apart = told.duration_since(*read).unwrap_or_else(|error| error.duration());
            assert!(apart <= F::SLACK, "{apart:?}");
        }
    }
    let without = call("4", &[minute("w", 9)]);
    assert_eq!(reserve(&store, &without).await, Reservation::Reserved);
    let spent = store.finish(&without, Outcome::Found(&"a".into(), &state)).await.unwrap();
    assert!(spent.is_empty());
    // Once finished, a slot is freed a period later.
    fixture.advance(MINUTE + Duration::from_secs(1)).await;
    assert!(store.spent(&"a day".into()).await.unwrap().is_empty());
}

pub async fn only_an_answer_about_the_order_resumes_an_account<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    store.pause(&"account".into(), MINUTE, true).await.unwrap();
    let (probe, state) = (call("probe", &[]), observed(1, ""));
    for (outcome, resumes) in [
        (Outcome::Counted, false),
        (Outcome::Answered, true),
        (Outcome::Found(&"a".into(), &state), true),
    ] {
        store.pause(&"account".into(), MINUTE, true).await.unwrap();
        fixture.advance(MINUTE).await;
        assert_eq!(reserve(&store, &probe).await, Reservation::Reserved);
        store.finish(&probe, outcome).await.unwrap();
        let next = reserve(&store, &call("next", &[])).await;
        if resumes {
            assert_eq!(next, Reservation::Reserved, "{outcome:?}");
        } else {
            assert_paused::<F>(&next, MINUTE);
        }
    }
}
