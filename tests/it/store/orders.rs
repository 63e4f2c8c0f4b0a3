//! What every store does with orders.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use order_query::pb::{Money, Order, OrderStatus, Provider, Recipient};
use order_query::store::Store;

use super::{Fixture, ended, observed, recalled};

pub async fn a_new_order_is_unknown<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    assert_eq!(store.peek(&"a".into(), None), None);
    assert_eq!(store.peek(&"a".into(), Some(&"w".into())), None);
    assert_eq!(store.get(&"a".into(), None).await.unwrap(), None);
    assert_eq!(store.get(&"a".into(), Some(&"w".into())).await.unwrap(), None);
}

pub async fn an_order_is_returned_as_it_was_stored<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    let state = Order {
        provider: Provider::Haoka.into(),
        status: OrderStatus::Paid.into(),
        total: Some(Money { currency_code: "CNY".to_owned(), minor_units: -300 }),
        recipient: Some(Recipient { name: "田".to_owned(), phone: "130".to_owned() }),
        ..observed(0, "\u{0}\u{10ffff}")
    };
    store.put(&"a".into(), &state).await.unwrap();
    store.put(&"b".into(), &observed(1, "of b")).await.unwrap();
    let known = store.get(&"a".into(), None).await.unwrap().unwrap();
    assert_eq!((known.state, known.spent), (Some(state.clone()), vec![]));
    // `peek` may know nothing, but never something else.
    assert!(store.peek(&"a".into(), None).is_none_or(|known| known.state == Some(state)));
    assert_eq!(recalled(&store, "b").await, Some(observed(1, "of b")));
    assert_eq!(recalled(&store, "A").await, None);
}

pub async fn a_later_state_replaces_an_earlier_one<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    for state in [observed(0, "first"), observed(1, "later"), observed(1, "again"), ended(1, "end")]
    {
        store.put(&"a".into(), &state).await.unwrap();
        assert_eq!(recalled(&store, "a").await, Some(state));
    }
}

pub async fn an_earlier_state_changes_nothing<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    let state = observed(9, "known");
    store.put(&"a".into(), &state).await.unwrap();
    let mut a_little_earlier = observed(9, "nanoseconds");
    a_little_earlier.observe_time.as_mut().unwrap().nanos -= 1;
    let never = Order { observe_time: None, ..observed(0, "no time") };
    for earlier in [observed(8, "earlier"), ended(8, "end"), a_little_earlier, never] {
        store.put(&"a".into(), &earlier).await.unwrap();
        assert_eq!(recalled(&store, "a").await.as_ref(), Some(&state));
    }
}

pub async fn a_terminal_state_is_final<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    let end = ended(0, "end");
    store.put(&"a".into(), &end).await.unwrap();
    for later in [observed(1, "later"), ended(1, "another end"), ended(0, "at the same time")] {
        store.put(&"a".into(), &later).await.unwrap();
        assert_eq!(recalled(&store, "a").await.as_ref(), Some(&end));
    }
}

pub async fn a_terminal_state_is_never_forgotten<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    store.put(&"a".into(), &ended(0, "end")).await.unwrap();
    fixture.advance(Duration::from_hours(3 * 365 * 24)).await;
    store.put(&"b".into(), &observed(0, "something else")).await.unwrap();
    assert_eq!(recalled(&store, "a").await, Some(ended(0, "end")));
}

/// Stores all states concurrently, in arbitrary order.
async fn keep_at_once(store: &Arc<dyn Store>, states: Vec<Order>) {
    let tasks = states.into_iter().map(|state| {
        let store = Arc::clone(store);
        tokio::spawn(async move { store.put(&"a".into(), &state).await.unwrap() })
    });
    assert!(join_all(tasks).await.iter().all(Result::is_ok));
}

pub async fn the_latest_of_concurrent_states_is_kept<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    keep_at_once(&store, (0..100).map(|n| observed(n * 37 % 101, "")).collect()).await;
    assert_eq!(recalled(&store, "a").await, Some(observed(100, "")));
}

pub async fn a_terminal_state_among_concurrent_states_is_kept<F: Fixture>() {
    let fixture = F::start().await;
    let store = fixture.store();
    let states = (0..100).map(|n| if n == 50 { ended(1000, "end") } else { observed(n, "") });
    keep_at_once(&store, states.collect()).await;
    assert_eq!(recalled(&store, "a").await, Some(ended(1000, "end")));
}
