//! A call whose keys are at several tags: its parts are reserved in turn, all or none.

use std::time::Duration;

use order_query::providers::TokenStore as _;
use order_query::store::{Call, Lease, Limit, Reservation, Store as _, Window};

use super::open;
use crate::store::redis::faults::once_open;
use crate::store::redis::shared::{SECOND, call};
use crate::support::redis_cluster::{Layout, RedisCluster};

/// A call for an order, with a window for each owner: these are their limits and periods in seconds.
fn parted(id: &str, windows: [(&str, u32, u64); 3]) -> Call {
    let limits = [Limit::PerOrderPerDay, Limit::ClientPerMinute, Limit::PerMinute];
    let windows = windows.into_iter().zip(limits).map(|((key, max_calls, seconds), limit)| {
        Window { key: key.into(), limit, max_calls, period: Duration::from_secs(seconds) }
    });
    let lease = Lease {
        key: "the-account 1 lease".to_owned(),
        owner: id.to_owned(),
        life: 60 * SECOND,
        order: "the-account 1".into(),
        seen: None,
    };
    Call { windows: windows.collect(), lease: Some(lease), ..call(id, "", 0) }
}

const NAMES: [&str; 3] = ["the-account 1 day", "client shop minute", "the-account minute"];

#[tokio::test]
async fn the_longest_wait_of_all_parts_is_told_and_a_refused_call_leaves_nothing() {
    let cluster = RedisCluster::start_as(Layout { copies: 0, ..Layout::default() }).await;
    let (store, other) = (open(&cluster), open(&cluster));
    let [order, client, account] = NAMES;
    let all = |max: [u32; 3], seconds: [u64; 3]| {
        [(order, max[0], seconds[0]), (client, max[1], seconds[1]), (account, max[2], seconds[2])]
    };
    // Without a lease, which would be asked first.
    let free = |id: &str, windows| Call { lease: None, ..parted(id, windows) };
    for seconds in [[60, 90, 300], [300, 90, 60], [60, 300, 90]] {
        cluster.clear();
        let (store, other) = (open(&cluster), open(&cluster));
        let first = once_open(&store, &free("1", all([1, 1, 1], seconds))).await;
        assert_eq!(first, Ok(Reservation::Reserved));
        let longest = seconds.iter().position(|it| *it == 300).unwrap();
        let limit = [Limit::PerOrderPerDay, Limit::ClientPerMinute, Limit::PerMinute][longest];
        let refused = once_open(&other, &free("2", all([1, 1, 1], seconds))).await.unwrap();
        let Reservation::Full(told, wait) = refused else { panic!("{refused:?}") };
        assert_eq!(told, limit);
        assert!((300 * SECOND..=320 * SECOND + SECOND).contains(&wait), "{wait:?}");
    }

    // The account's window is the last one: what was reserved before it is free again.
    cluster.clear();
    drop((store, other));
    let (store, other) = (open(&cluster), open(&cluster));
    let minute = [60; 3];
    let first = once_open(&store, &call("1", account, 1)).await;
    assert_eq!(first, Ok(Reservation::Reserved));
    for id in ["2", "3"] {
        // No other owner has the lease, and the windows have room for one call.
        let refused = once_open(&other, &parted(id, all([1, 1, 1], minute))).await.unwrap();
        assert!(matches!(refused, Reservation::Full(Limit::PerMinute, _)), "{refused:?}");
        for window in [order, client] {
            assert!(store.spent(&window.into()).await.unwrap().is_empty(), "{window}");
        }
    }
    let granted = once_open(&store, &parted("4", all([1, 1, 2], minute))).await;
    assert_eq!(granted, Ok(Reservation::Reserved));
    let leased = once_open(&other, &parted("5", all([9, 9, 9], minute))).await;
    assert_eq!(leased, Ok(Reservation::Leased));

    // A pause is the account's: it frees the others too.
    store.cancel(&parted("4", all([1, 1, 2], minute))).await.unwrap();
    store.release("the-account 1 lease", "4").await.unwrap();
    store.pause(&"the-account".into(), 50 * SECOND, false).await.unwrap();
    let paused = once_open(&other, &parted("6", all([1, 1, 9], minute))).await;
    assert!(matches!(paused, Ok(Reservation::Paused(_))), "{paused:?}");
    for window in [order, client] {
        assert!(store.spent(&window.into()).await.unwrap().is_empty(), "{window}");
    }
}
