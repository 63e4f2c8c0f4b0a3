//! What a store still knows when it is opened again.

use std::time::Duration;

use order_query::store::Take;

use super::accounts::token;
use super::{
    Fixture, IN_FLIGHT, MINUTE, assert_closed, assert_full, call, ended, minute, observed, recalled,
};

const STEP: Duration = Duration::from_secs(10);

pub async fn orders_are_there_again<F: Fixture>() {
    let field = F::start().await;
    field.store().keep("open", &observed(1, "open")).await.unwrap();
    field.store().keep("ended", &ended(1, "ended")).await.unwrap();
    let field = field.restart().await;
    let store = field.store();
    for _ in 0..2 {
        assert_eq!(recalled(&store, "open").await, Some(observed(1, "open")));
        assert_eq!(recalled(&store, "ended").await, Some(ended(1, "ended")));
    }
    // The rules for what takes whose place hold for what was known before.
    store.keep("open", &observed(0, "earlier")).await.unwrap();
    store.keep("ended", &ended(2, "later")).await.unwrap();
    assert_eq!(recalled(&store, "open").await, Some(observed(1, "open")));
    assert_eq!(recalled(&store, "ended").await, Some(ended(1, "ended")));
    store.keep("open", &observed(2, "later")).await.unwrap();
    assert_eq!(recalled(&store, "open").await, Some(observed(2, "later")));
}

pub async fn spent_calls_are_there_again<F: Fixture>() {
    let field = F::start().await;
    let windows = [minute("w", 3)];
    for id in ["answered", "unanswered", "another"] {
        assert_eq!(field.store().take(&call(id, &windows)).await.unwrap(), Take::Taken);
    }
    field.store().settle(&call("answered", &windows)).await.unwrap();
    let field = field.restart().await;
    let store = field.store();
    assert_full::<F>(&store.take(&call("new", &windows)).await.unwrap(), 0, MINUTE);
    field.advance(MINUTE).await;
    assert_eq!(store.take(&call("new", &windows)).await.unwrap(), Take::Taken);
    assert_full::<F>(&store.take(&call("newer", &windows)).await.unwrap(), 0, IN_FLIGHT);
    // A call that was under way is still the one that holds its slot.
    store.give_back(&call("unanswered", &windows)).await.unwrap();
    assert_eq!(store.take(&call("newer", &windows)).await.unwrap(), Take::Taken);
}

pub async fn what_was_undone_stays_undone<F: Fixture>() {
    let field = F::start().await;
    let windows = [minute("w", 1)];
    field.store().take(&call("a", &windows)).await.unwrap();
    field.store().give_back(&call("a", &windows)).await.unwrap();
    field.store().close("account", MINUTE, true).await.unwrap();
    field.advance(MINUTE).await;
    field.store().take(&call("probe", &[])).await.unwrap();
    field.store().reopen("account").await.unwrap();
    field.store().save("us", &token("value")).await.unwrap();
    field.store().drop_if("us", &token("value")).await.unwrap();
    let field = field.restart().await;
    assert_eq!(field.store().take(&call("b", &windows)).await.unwrap(), Take::Taken);
    assert_eq!(field.store().load("us").await.unwrap(), None);
}

pub async fn closed_accounts_are_there_again<F: Fixture>() {
    let field = F::start().await;
    field.store().close("account", MINUTE, true).await.unwrap();
    field.advance(STEP).await;
    let field = field.restart().await;
    assert_closed::<F>(&field.store().take(&call("a", &[])).await.unwrap(), MINUTE - STEP);
    field.advance(MINUTE - STEP).await;
    assert_eq!(field.store().take(&call("probe", &[])).await.unwrap(), Take::Taken);
    let field = field.restart().await;
    assert_closed::<F>(&field.store().take(&call("b", &[])).await.unwrap(), MINUTE);
}

pub async fn tokens_are_there_again<F: Fixture>() {
    let field = F::start().await;
    field.store().save("us", &token("old")).await.unwrap();
    field.store().save("us", &token("new")).await.unwrap();
    let field = field.restart().await;
    assert_eq!(field.store().load("us").await.unwrap(), Some(token("new")));
}
