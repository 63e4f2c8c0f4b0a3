//! What a store still knows after it is reopened.

use std::time::Duration;

use order_query::store::{Limit, Outcome, Reservation};

use super::accounts::token;
use super::{
    Fixture, IN_FLIGHT, MINUTE, answer, assert_full, assert_paused, call, ended, minute, observed,
    recalled,
};

const STEP: Duration = Duration::from_secs(10);

pub async fn orders_survive_a_restart<F: Fixture>() {
    let fixture = F::start().await;
    fixture.store().put(&"open".into(), &observed(1, "open")).await.unwrap();
    fixture.store().put(&"ended".into(), &ended(1, "ended")).await.unwrap();
    let fixture = fixture.restart().await;
    let store = fixture.store();
    for _ in 0..2 {
        assert_eq!(recalled(&store, "open").await, Some(observed(1, "open")));
        assert_eq!(recalled(&store, "ended").await, Some(ended(1, "ended")));
    }
    // The rules of replacement also apply to earlier states.
    store.put(&"open".into(), &observed(0, "earlier")).await.unwrap();
    store.put(&"ended".into(), &ended(2, "later")).await.unwrap();
    assert_eq!(recalled(&store, "open").await, Some(observed(1, "open")));
    assert_eq!(recalled(&store, "ended").await, Some(ended(1, "ended")));
    store.put(&"open".into(), &observed(2, "later")).await.unwrap();
    assert_eq!(recalled(&store, "open").await, Some(observed(2, "later")));
}

pub async fn spent_calls_survive_a_restart<F: Fixture>() {
    let fixture = F::start().await;
    let windows = [minute("w", 3)];
    for id in ["answered", "unanswered", "another"] {
        assert_eq!(
            fixture.store().reserve(&call(id, &windows)).await.unwrap(),
            Reservation::Reserved
        );
    }
    fixture.store().finish(&call("answered", &windows), Outcome::Counted).await.unwrap();
    let fixture = fixture.restart().await;
    let store = fixture.store();
    assert_full::<F>(
        &store.reserve(&call("new", &windows)).await.unwrap(),
        Limit::PerMinute,
        MINUTE,
    );
    fixture.advance(MINUTE).await;
    assert_eq!(store.reserve(&call("new", &windows)).await.unwrap(), Reservation::Reserved);
    assert_full::<F>(
        &store.reserve(&call("newer", &windows)).await.unwrap(),
        Limit::PerMinute,
        IN_FLIGHT,
    );
    // A call that was in flight still holds its slot.
    store.cancel(&call("unanswered", &windows)).await.unwrap();
    assert_eq!(store.reserve(&call("newer", &windows)).await.unwrap(), Reservation::Reserved);
}

pub async fn cancellations_and_removals_survive_a_restart<F: Fixture>() {
    let fixture = F::start().await;
    let windows = [minute("w", 1)];
    fixture.store().reserve(&call("a", &windows)).await.unwrap();
    fixture.store().cancel(&call("a", &windows)).await.unwrap();
    fixture.store().pause(&"account".into(), MINUTE, true).await.unwrap();
    fixture.advance(MINUTE).await;
    fixture.store().reserve(&call("probe", &[])).await.unwrap();
    fixture.store().finish(&answer("account"), Outcome::Answered).await.unwrap();
    fixture.store().save("us", &token("value")).await.unwrap();
    fixture.store().remove_if("us", &token("value")).await.unwrap();
    let fixture = fixture.restart().await;
    assert_eq!(fixture.store().reserve(&call("b", &windows)).await.unwrap(), Reservation::Reserved);
    assert_eq!(fixture.store().load("us").await.unwrap(), None);
}

pub async fn pauses_survive_a_restart<F: Fixture>() {
    let fixture = F::start().await;
    fixture.store().pause(&"account".into(), MINUTE, true).await.unwrap();
    fixture.advance(STEP).await;
    let fixture = fixture.restart().await;
    assert_paused::<F>(&fixture.store().reserve(&call("a", &[])).await.unwrap(), MINUTE - STEP);
    fixture.advance(MINUTE - STEP).await;
    assert_eq!(fixture.store().reserve(&call("probe", &[])).await.unwrap(), Reservation::Reserved);
    let fixture = fixture.restart().await;
    assert_paused::<F>(&fixture.store().reserve(&call("b", &[])).await.unwrap(), MINUTE);
}

pub async fn tokens_survive_a_restart<F: Fixture>() {
    let fixture = F::start().await;
    fixture.store().save("us", &token("old")).await.unwrap();
    fixture.store().save("us", &token("new")).await.unwrap();
    let fixture = fixture.restart().await;
    assert_eq!(fixture.store().load("us").await.unwrap(), Some(token("new")));
}
