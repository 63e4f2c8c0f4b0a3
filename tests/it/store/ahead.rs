//! How a store handles times written by a clock that was ahead and is right again.

use std::time::{Duration, SystemTime};

use order_query::providers::Token;
use order_query::store::{Limit, Outcome, Reservation, Window};

use super::{
    Fixture, IN_FLIGHT, MINUTE, assert_full, assert_paused, call, ended, minute, observed, recalled,
};

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const YEARS: Duration = Duration::from_hours(10 * 365 * 24);

/// By how much clocks are ahead here.
const AHEAD: [Duration; 4] = [MINUTE, HOUR, DAY, YEARS];

fn day(key: &str) -> Window {
    Window { key: key.into(), limit: Limit::PerMinute, max_calls: 1, period: DAY }
}

pub async fn slots_of_a_clock_that_was_ahead_are_clamped_to_their_rule<F: Fixture>() {
    for (window, by) in AHEAD.iter().flat_map(|by| [(minute("w", 1), by), (day("w"), by)]) {
        for settled in [false, true] {
            let fixture = F::start().await;
            let windows = [window.clone()];
            let before = call("before", &windows);
            assert_eq!(fixture.store().reserve(&before).await.unwrap(), Reservation::Reserved);
            if settled {
                fixture.store().finish(&before, Outcome::Counted).await.unwrap();
            }
            let fixture = fixture.restart_earlier(*by).await;
            let store = fixture.store();
            // The whole period from now on, and not restarted by each call.
            let wait = IN_FLIGHT + window.period;
            assert_full::<F>(
                &store.reserve(&call("a", &windows)).await.unwrap(),
                Limit::PerMinute,
                wait,
            );
            fixture.advance(MINUTE / 2).await;
            let left = wait - MINUTE / 2;
            assert_full::<F>(
                &store.reserve(&call("b", &windows)).await.unwrap(),
                Limit::PerMinute,
                left,
            );
            drop(store);
            let fixture = fixture.restart().await;
            let store = fixture.store();
            assert_full::<F>(
                &store.reserve(&call("c", &windows)).await.unwrap(),
                Limit::PerMinute,
                left,
            );
            fixture.advance_almost(left).await;
            assert!(matches!(
                store.reserve(&call("d", &windows)).await,
                Ok(Reservation::Full(Limit::PerMinute, _))
            ));
            fixture.advance_the_rest().await;
            assert_eq!(store.reserve(&call("e", &windows)).await.unwrap(), Reservation::Reserved);
        }
    }
}

pub async fn spent_calls_of_a_clock_that_was_ahead_are_clamped<F: Fixture>() {
    let fixture = F::start().await;
    fixture.store().reserve(&call("before", &[day("order day")])).await.unwrap();
    let fixture = fixture.restart_earlier(YEARS).await;
    let store = fixture.store();
    let spent = async || {
        let known = store.get(&"order".into(), Some(&"order day".into())).await.unwrap();
        known.unwrap_or_default().spent
    };
    let told = spent().await;
    assert_eq!(told.len(), 1);
    fixture.advance(IN_FLIGHT + DAY).await;
    assert!(spent().await.is_empty(), "{told:?}");
}

pub async fn pauses_of_a_clock_that_was_ahead_are_clamped_to_their_rule<F: Fixture>() {
    for by in [DAY, YEARS] {
        for (probe, longest) in [(false, HOUR), (true, MINUTE)] {
            let fixture = F::start().await;
            fixture.store().pause(&"account".into(), MINUTE, probe).await.unwrap();
            let fixture = fixture.restart_earlier(by).await;
            let store = fixture.store();
            assert_paused::<F>(&store.reserve(&call("a", &[])).await.unwrap(), longest);
            fixture.advance(MINUTE / 2).await;
            let left = longest - MINUTE / 2;
            assert_paused::<F>(&store.reserve(&call("b", &[])).await.unwrap(), left);
            fixture.advance(left).await;
            assert_eq!(store.reserve(&call("c", &[])).await.unwrap(), Reservation::Reserved);
        }
    }
}

pub async fn a_token_of_a_clock_that_was_ahead_is_discarded<F: Fixture>() {
    let fixture = F::start().await;
    // All clocks of these tests start there.
    let begin = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
    let token = Token { value: "value".into(), renew_at: begin + 2 * HOUR };
    fixture.store().save("us", &token).await.unwrap();
    let fixture = fixture.restart_earlier(MINUTE).await;
    let kept = fixture.store().load("us").await.unwrap();
    assert_eq!(kept.map(|token| token.value), Some("value".into()), "it can be so");
    let fixture = fixture.restart_earlier(YEARS).await;
    assert_eq!(fixture.store().load("us").await.unwrap(), None);
}

pub async fn a_lease_of_a_clock_that_was_ahead_lasts_no_longer_than_granted<F: Fixture>() {
    for by in [MINUTE, YEARS] {
        let fixture = F::start().await;
        let life = Duration::from_secs(5);
        assert!(fixture.store().lease("it", "before", life).await.unwrap());
        let fixture = fixture.restart_earlier(by).await;
        let store = fixture.store();
        // Where a lease is persistent, its end is found to be wrong here.
        let _ = store.lease("it", "b", Duration::from_secs(1)).await.unwrap();
        fixture.advance(life).await;
        assert!(store.lease("it", "c", life).await.unwrap());
    }
}

pub async fn an_order_from_the_future_is_replaced_by_the_next_answer<F: Fixture>() {
    for by in [HOUR, YEARS] {
        let fixture = F::start().await;
        fixture.advance(by).await;
        let ahead = i64::try_from(by.as_secs()).unwrap();
        let store = fixture.store();
        store.put(&"open".into(), &observed(ahead, "of the future")).await.unwrap();
        store.put(&"ended".into(), &ended(ahead, "the end")).await.unwrap();
        drop(store);
        let fixture = fixture.restart_earlier(by).await;
        let store = fixture.store();
        assert_eq!(recalled(&store, "open").await, Some(observed(ahead, "of the future")));
        for seconds in [1, 2] {
            let state = observed(seconds, "true");
            store.put(&"open".into(), &state).await.unwrap();
            assert_eq!(recalled(&store, "open").await, Some(state));
        }
        store.put(&"open".into(), &observed(1, "earlier")).await.unwrap();
        assert_eq!(recalled(&store, "open").await, Some(observed(2, "true")));
        store.put(&"ended".into(), &observed(1, "another")).await.unwrap();
        assert_eq!(recalled(&store, "ended").await, Some(ended(ahead, "the end")));
        // Clocks may differ a little: then the later state is kept.
        store.put(&"near".into(), &observed(30, "near")).await.unwrap();
        store.put(&"near".into(), &observed(1, "earlier")).await.unwrap();
        assert_eq!(recalled(&store, "near").await, Some(observed(30, "near")));
    }
}
