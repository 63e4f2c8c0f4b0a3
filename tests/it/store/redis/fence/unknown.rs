//! A new replica at a Redis that was emptied: others were there before it, and nobody names them.

use order_query::store::{Reservation, Store as _};

use super::{
    FLIGHT, LIFE, Replica, assert_closed, assert_full, cut, daily, store, store_behind,
    until_reserved,
};
use crate::store::redis::faults::{assert_unavailable, once_open, until_it_works};
use crate::store::redis::shared::{SECOND, call};
use crate::support::manual_clock;
use crate::support::redis_proxy::Line;
use crate::support::redis_server::RedisServer;

#[tokio::test]
async fn calls_of_unknown_replicas_at_an_emptied_server_close_the_minute() {
    let (server, clock) = (RedisServer::start(), manual_clock());
    let gone = Replica::start(&server, &clock);
    assert_eq!(gone.reserve(&call("1", "minute", 9)).await, Ok(Reservation::Reserved));
    gone.crash();
    // It still has the scripts.
    let () = server.say(&["FLUSHALL"]);
    let new = store(&server, &clock);
    let waiting = new.reserve(&call("2", "minute", 9)).await.unwrap_err();
    assert!(waiting.detail.unwrap().contains("may have lost"));
    clock.advance(LIFE);
    // Nobody tells how long those may have been in flight: as long as its own.
    let wait = assert_closed(&once_open(&new, &call("2", "minute", 9)).await);
    assert_eq!(wait, FLIGHT + 60 * SECOND - LIFE);
    assert_eq!(once_open(&new, &daily("3", 9)).await, Ok(Reservation::Reserved));
    clock.advance(wait);
    until_reserved(&new, &call("2", "minute", 9)).await;
}

#[tokio::test]
async fn a_replica_that_was_there_names_all_unknown_ones() {
    let (server, clock) = (RedisServer::start(), manual_clock());
    let line = Line::to(server.port).await;
    let old = store_behind(&line, &clock);
    assert_eq!(once_open(&old, &call("1", "minute", 2)).await, Ok(Reservation::Reserved));
    let _nowhere = cut(&line);
    assert_unavailable(&old.get(&"-".into(), None).await.unwrap_err());
    let () = server.say(&["FLUSHALL"]);
    let new = store(&server, &clock);
    let _ = new.reserve(&call("2", "minute", 2)).await;
    clock.advance(LIFE);
    assert_closed(&once_open(&new, &call("2", "minute", 2)).await);
    line.lose_answers(false);
    line.lead_to(server.port);
    until_it_works(&old).await;
    until_reserved(&new, &call("2", "minute", 2)).await;
    assert_full(&once_open(&new, &call("3", "minute", 2)).await);
}
