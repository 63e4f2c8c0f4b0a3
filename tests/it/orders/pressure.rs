//! Minutes of load on a vendor that requests reach late: it never counts more calls in any 60
//! seconds than its limit. A window over the times of sending would not hold here: calls that are
//! slow to arrive bunch up.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use order_query::accounts::Caller;
use order_query::clock::Clock as _;
use order_query::orders::Wanted;
use order_query::pb::{ErrorReason, Order, OrderRef};
use order_query::providers::Rules;
use tokio::time::Instant;

use crate::support::fake_vendor::FakeVendor;
use crate::support::manual_clock;

const LIMIT: usize = 20;
const MINUTE: Duration = Duration::from_mins(1);
const STEP: Duration = Duration::from_millis(50);

/// The transit time of each request: at most 2 s, except for one that stalls. The same in every run.
fn delays() -> impl FnMut() -> Duration {
    let (mut random, mut asked) = (20_261_121_u64, 0);
    move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        asked += 1;
        if asked == 8 {
            Duration::from_secs(25)
        } else {
            Duration::from_millis((random >> 33) % 2000)
        }
    }
}

#[tokio::test]
async fn the_vendor_never_counts_more_calls_a_minute_than_the_limit() {
    let clock = manual_clock();
    let counted = Arc::new(Mutex::new(Vec::<SystemTime>::new()));
    let (delay, seen) = (Mutex::new(delays()), Arc::clone(&counted));
    let time = clock.clone();
    let vendor = FakeVendor::new(move |query| {
        let sent = time.now();
        let arrival = sent + delay.lock().unwrap()();
        let (time, seen) = (time.clone(), Arc::clone(&seen));
        async move {
            time.sleep_until(arrival).await;
            seen.lock().unwrap().push(time.now());
            Ok(Order { id: query.id, observe_time: Some(sent.into()), ..Order::default() })
        }
    });
    let limit = Some(u32::try_from(LIMIT).unwrap());
    let vendor = vendor.ruled(Rules { calls_per_minute: limit, ..FakeVendor::RULES });
    let orders = vendor.orders_in_memory(Arc::new(clock.clone()));
    let mut calls = tokio::task::JoinSet::new();
    for step in 0..(5 * 60 * 20) {
        let orders = orders.clone();
        calls.spawn(async move {
            let provider = FakeVendor::PROVIDER.into();
            let order = OrderRef { provider, id: step.to_string(), ..OrderRef::default() };
            let deadline = Instant::now() + Duration::from_hours(1);
            let wanted = Wanted { max_age: Some(Duration::ZERO), ..Wanted::default() };
            orders
                .get(&Caller::default(), &order, wanted, deadline)
                .await
                .map_err(|error| error.reason)
        });
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        clock.advance(STEP);
    }
    clock.advance(MINUTE);
    let outcomes = calls.join_all().await;
    let answered = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    for outcome in outcomes {
        assert!(matches!(outcome, Ok(_) | Err(ErrorReason::ProviderQuotaExhausted)), "{outcome:?}");
    }
    let counted = counted.lock().unwrap();
    assert_eq!(counted.len(), answered);
    assert!(answered > 3 * LIMIT, "{answered}: the limit is there to be used");
    for window in counted.windows(LIMIT + 1) {
        let span = window[LIMIT].duration_since(window[0]).unwrap();
        assert!(span >= MINUTE, "{} calls within {span:?}", LIMIT + 1);
    }
}
