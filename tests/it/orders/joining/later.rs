//! Which results in flight are late enough for a caller's `min_observe_time`.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{join, poll};
use order_query::accounts::Caller;
use order_query::clock::Clock as _;
use order_query::orders::{Orders, Wanted};
use order_query::pb::{ErrorReason, Source};
use tokio::time::Instant;

use super::{Fixture, LIMIT, MANY, NOBODY, NOW};

impl Fixture {
    /// Asks without `max_age`, with a `min_observe_time` that is so long after now.
    async fn get_later(&self, orders: &Orders, ahead: Duration) -> Result<Source, ErrorReason> {
        let earliest = orders.min_observe_time(self.clock.now() + ahead).unwrap();
        let wanted = Wanted { min_observe_time: Some(earliest), ..Wanted::default() };
        let deadline = Instant::now() + Duration::from_mins(1);
        let answer = orders.get(&Caller::default(), &self.order, wanted, deadline).await;
        answer.map(|answer| answer.response.source()).map_err(|error| error.reason)
    }
}

#[tokio::test]
async fn a_call_in_flight_counts_if_it_was_sent_late_enough() {
    // In the second round the answer is dated before what the caller has seen: its clock is ahead.
    for ahead in [Duration::ZERO, Duration::from_mins(1)] {
        let fixture = Fixture::new();
        Fixture::close(&fixture.answers).await;
        let mut content = pin!(fixture.get_later(&fixture.orders, Duration::ZERO));
        assert!(poll!(&mut content).is_pending());
        fixture.until_asked(1).await;
        let mut also_content = pin!(fixture.get_later(&fixture.orders, Duration::ZERO));
        assert!(poll!(&mut also_content).is_pending());
        fixture.clock.advance(Duration::from_secs(5));
        let mut later = pin!(fixture.get_later(&fixture.orders, ahead));
        let mut too = pin!(fixture.get_later(&fixture.orders, ahead));
        assert!(poll!(&mut later).is_pending() && poll!(&mut too).is_pending());
        fixture.answers.add_permits(MANY);
        assert_eq!((content.await, also_content.await), (Ok(Source::Live), Ok(Source::Live)));
        assert_eq!(fixture.asked(), 1);
        let both = join!(later, too);
        assert_eq!(both, (Ok(Source::Live), Ok(Source::Live)));
        assert_eq!(fixture.asked(), 2, "one call serves both that came too late for the first");
    }
}

#[tokio::test]
async fn a_not_found_in_flight_counts_if_it_was_asked_late_enough() {
    for (waited, asked) in [(Duration::ZERO, 1), (Duration::from_secs(2), 2)] {
        let mut fixture = Fixture::new();
        fixture.order.id = NOBODY.to_owned();
        Fixture::close(&fixture.answers).await;
        let mut first = pin!(fixture.get(None));
        assert!(poll!(&mut first).is_pending());
        fixture.until_asked(1).await;
        fixture.clock.advance(waited);
        let mut later = pin!(fixture.get_later(&fixture.orders, Duration::ZERO));
        assert!(poll!(&mut later).is_pending());
        fixture.answers.add_permits(MANY);
        let not_found = Err(ErrorReason::OrderNotFound);
        assert_eq!((first.await, later.await), (not_found, not_found));
        assert_eq!(fixture.asked(), asked, "{waited:?}");
    }
}

#[tokio::test]
async fn a_call_of_another_replica_counts_if_it_was_sent_late_enough() {
    for (waited, asked) in [(Duration::ZERO, 1), (Duration::from_secs(5), 2)] {
        let fixture = Fixture::with(true, 0, LIMIT);
        Fixture::close(&fixture.answers).await;
        let mut first = pin!(fixture.get(NOW));
        assert!(poll!(&mut first).is_pending());
        fixture.until_asked(1).await;
        fixture.clock.advance(waited);
        let mut other = pin!(fixture.get_later(&fixture.other, Duration::ZERO));
        while fixture.refused.load(Ordering::SeqCst) == 0 {
            assert!(poll!(&mut other).is_pending());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        fixture.answers.add_permits(MANY);
        assert_eq!((first.await, other.await), (Ok(Source::Live), Ok(Source::Live)));
        assert_eq!(fixture.asked(), asked, "{waited:?}");
    }
}

#[tokio::test]
async fn a_second_call_of_another_replica_counts_by_whatever_clock() {
    let fixture = Fixture::with(true, 0, LIMIT);
    Fixture::close(&fixture.answers).await;
    let mut first = pin!(fixture.get(NOW));
    assert!(poll!(&mut first).is_pending());
    fixture.until_asked(1).await;
    let mut other = pin!(fixture.get_later(&fixture.other, Duration::from_mins(1)));
    while fixture.refused.load(Ordering::SeqCst) == 0 {
        assert!(poll!(&mut other).is_pending());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    fixture.answers.add_permits(1);
    assert_eq!(first.await, Ok(Source::Live));
    fixture.answers.acquire().await.unwrap().forget();
    // The next call begins before the other replica looks again.
    fixture.clock.advance(Duration::from_secs(1));
    let mut second = pin!(fixture.get(NOW));
    assert!(poll!(&mut second).is_pending());
    fixture.until_asked(2).await;
    let refused = fixture.refused.load(Ordering::SeqCst);
    while fixture.refused.load(Ordering::SeqCst) < refused + 2 {
        assert!(poll!(&mut other).is_pending());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    fixture.answers.add_permits(MANY);
    assert_eq!((second.await, other.await), (Ok(Source::Live), Ok(Source::Live)));
    assert_eq!(fixture.asked(), 2);
}
