//! What every store does with paused accounts, tokens and leases.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use order_query::providers::Token;
use order_query::store::{Call, Limit, Outcome, Reservation, Store};

use super::{Fixture, IN_FLIGHT, MINUTE, answer, assert_full, assert_paused, call, minute};

const WAIT: Duration = Duration::from_secs(30);

/// Reserves a call without limits.
async fn reserve(store: &Arc<dyn Store>, id: &str) -> Reservation {
    store.reserve(&call(id, &[])).await.unwrap()
}

pub async fn a_pause_expires<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    store.pause(&"account".into(), WAIT, false).await.unwrap();
    assert_paused::<F>(&reserve(&store, "a").await, WAIT);
    let other = Call { account: "another".into(), ..call("a", &[]) };
    assert_eq!(store.reserve(&other).await.unwrap(), Reservation::Reserved);
    fixture.advance_almost(WAIT).await;
    assert_paused::<F>(&reserve(&store, "a").await, F::rest());
    fixture.advance_the_rest().await;
    for id in ["a", "b", "c"] {
        assert_eq!(reserve(&store, id).await, Reservation::Reserved);
    }
}

pub async fn a_paused_account_admits_one_probe_per_interval<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    let probe = |id: &str| call(id, &[minute("w", 10)]);
    store.pause(&"account".into(), WAIT, true).await.unwrap();
    for n in 0..3 {
        fixture.advance_almost(WAIT).await;
        assert_paused::<F>(&reserve(&store, "early").await, F::rest());
        fixture.advance_the_rest().await;
        assert_eq!(
            store.reserve(&probe(&format!("probe {n}"))).await.unwrap(),
            Reservation::Reserved
        );
        assert_paused::<F>(&store.reserve(&probe("late")).await.unwrap(), WAIT);
    }
    // A refused call takes no slot.
    let spent = store.get(&"".into(), Some(&"w".into())).await.unwrap().unwrap().spent;
    assert_eq!(spent.len(), usize::from(WAIT < IN_FLIGHT + MINUTE) * 3);
    store.finish(&answer("account"), Outcome::Answered).await.unwrap();
    for id in ["a", "b"] {
        assert_eq!(reserve(&store, id).await, Reservation::Reserved);
    }
}

pub async fn one_of_several_concurrent_probes_is_admitted<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    store.pause(&"account".into(), WAIT, true).await.unwrap();
    fixture.advance(WAIT).await;
    let takes = (0..50).map(|n| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { reserve(&store, &format!("call {n}")).await })
    });
    let takes = join_all(takes).await;
    assert_eq!(takes.iter().filter(|take| matches!(take, Ok(Reservation::Reserved))).count(), 1);
    assert_eq!(takes.iter().filter(|take| matches!(take, Ok(Reservation::Paused(_)))).count(), 49);
}

pub async fn a_call_refused_by_a_full_window_is_no_probe<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    let window = [minute("w", 1)];
    assert_eq!(store.reserve(&call("a", &window)).await.unwrap(), Reservation::Reserved);
    store.pause(&"account".into(), WAIT, true).await.unwrap();
    fixture.advance(WAIT).await;
    let refused = store.reserve(&call("b", &window)).await.unwrap();
    assert_full::<F>(&refused, Limit::PerMinute, IN_FLIGHT + MINUTE - WAIT);
    assert_eq!(reserve(&store, "c").await, Reservation::Reserved);
}

pub async fn a_repeated_pause_counts_from_then<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    store.pause(&"account".into(), WAIT, true).await.unwrap();
    fixture.advance(WAIT / 2).await;
    store.pause(&"account".into(), WAIT, false).await.unwrap();
    assert_paused::<F>(&reserve(&store, "a").await, WAIT);
    store.pause(&"account".into(), WAIT / 2, false).await.unwrap();
    assert_paused::<F>(&reserve(&store, "a").await, WAIT / 2);
    fixture.advance(WAIT / 2).await;
    for id in ["a", "b"] {
        assert_eq!(reserve(&store, id).await, Reservation::Reserved);
    }
}

pub async fn only_a_probe_resumes_an_account<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    store.finish(&answer("account"), Outcome::Answered).await.unwrap();
    assert_eq!(reserve(&store, "a").await, Reservation::Reserved);
    store.pause(&"another".into(), WAIT * 3, true).await.unwrap();
    for probe in [false, true] {
        store.pause(&"account".into(), WAIT, probe).await.unwrap();
        // The answer to an earlier call.
        store.finish(&answer("account"), Outcome::Answered).await.unwrap();
        assert_paused::<F>(&reserve(&store, "a").await, WAIT);
        fixture.advance(WAIT).await;
        assert_eq!(reserve(&store, "probe").await, Reservation::Reserved);
        store.finish(&answer("account"), Outcome::Answered).await.unwrap();
        assert_eq!(reserve(&store, "a").await, Reservation::Reserved);
        assert_eq!(reserve(&store, "b").await, Reservation::Reserved);
    }
    let other = Call { account: "another".into(), ..call("a", &[]) };
    assert_paused::<F>(&store.reserve(&other).await.unwrap(), WAIT);
}

/// A token with that value.
pub fn token(value: &str) -> Token {
    let renew_at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_790_000_000_123);
    Token { value: value.into(), renew_at }
}

pub async fn load_returns_the_token_saved_last<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    assert_eq!(store.load("us").await.unwrap(), None);
    for value in ["first", "second"] {
        store.save("us", &token(value)).await.unwrap();
        assert_eq!(store.load("us").await.unwrap(), Some(token(value)));
    }
    let later = Token { renew_at: token("").renew_at + MINUTE, ..token("second") };
    store.save("us", &later).await.unwrap();
    assert_eq!(store.load("us").await.unwrap(), Some(later));
    assert_eq!(store.load("them").await.unwrap(), None);
}

pub async fn a_token_is_removed_only_if_unchanged<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    store.remove_if("us", &token("old")).await.unwrap();
    store.save("us", &token("new")).await.unwrap();
    store.save("them", &token("new")).await.unwrap();
    store.remove_if("us", &token("old")).await.unwrap();
    assert_eq!(store.load("us").await.unwrap(), Some(token("new")));
    for _ in 0..2 {
        store.remove_if("us", &token("new")).await.unwrap();
        assert_eq!(store.load("us").await.unwrap(), None);
    }
    assert_eq!(store.load("them").await.unwrap(), Some(token("new")));
}

pub async fn a_lease_has_one_owner<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    for _ in 0..2 {
        assert!(store.lease("work", "we", MINUTE).await.unwrap());
        assert!(!store.lease("work", "they", MINUTE).await.unwrap());
    }
    assert!(store.lease("other work", "they", MINUTE).await.unwrap());
}

pub async fn a_lease_expires<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    assert!(store.lease("work", "we", WAIT).await.unwrap());
    fixture.advance_almost(WAIT).await;
    assert!(!store.lease("work", "they", WAIT).await.unwrap());
    // Again by the same owner: the lease is renewed.
    assert!(store.lease("work", "we", WAIT).await.unwrap());
    fixture.advance_almost(WAIT).await;
    assert!(!store.lease("work", "they", WAIT).await.unwrap());
    fixture.advance_the_rest().await;
    assert!(store.lease("work", "they", WAIT).await.unwrap());
    assert!(!store.lease("work", "we", WAIT).await.unwrap());
}

pub async fn only_the_owner_releases_a_lease<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    store.release("work", "we").await.unwrap();
    assert!(store.lease("work", "we", MINUTE).await.unwrap());
    store.release("work", "they").await.unwrap();
    assert!(!store.lease("work", "they", MINUTE).await.unwrap());
    store.release("work", "we").await.unwrap();
    assert!(store.lease("work", "they", MINUTE).await.unwrap());
}

pub async fn one_of_several_concurrent_owners_gets_the_lease<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    let owners = (0..50).map(|n| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.lease("work", &n.to_string(), MINUTE).await.unwrap() })
    });
    let owners = join_all(owners).await;
    assert_eq!(owners.iter().filter(|owner| matches!(owner, Ok(true))).count(), 1);
}

pub async fn a_pause_lasts_at_most_an_hour<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    for probe in [false, true] {
        store.pause(&"account".into(), Duration::from_hours(5), probe).await.unwrap();
        assert_paused::<F>(&reserve(&store, "a").await, Duration::from_hours(1));
    }
}
