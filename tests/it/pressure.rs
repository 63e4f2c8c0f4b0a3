//! Minutes of pressure on a vendor that requests reach late: it never counts more calls in any 60
//! seconds than its limit. A window over the times of sending would not hold here: calls that are
//! slow to arrive bunch up.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use order_query::accounts::{Account, Accounts, Caller};
use order_query::clock::{Clock, ManualClock};
use order_query::config::Secret;
use order_query::error::Error;
use order_query::orders::Orders;
use order_query::outbound::Delivery;
use order_query::pb::{ErrorReason, Order, OrderRef, Provider};
use order_query::providers::{self, Proof, Query, Resources, Rules, TokenStore};
use order_query::store::Memory;
use tokio::time::Instant;

use crate::support::{CACHE_BYTES, manual_clock};

const LIMIT: usize = 20;
const MINUTE: Duration = Duration::from_mins(1);
const STEP: Duration = Duration::from_millis(50);

/// A vendor that a request reaches within 2 s; one stalls.
struct Late {
    clock: ManualClock,
    /// When each request was counted, as the vendor sees it.
    counted: Arc<Mutex<Vec<SystemTime>>>,
    random: Mutex<u64>,
}

impl Late {
    /// How long the next request is on its way: the same in every run.
    fn delay(&self) -> Duration {
        let mut random = self.random.lock().unwrap();
        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let stalls = self.counted.lock().unwrap().len() == 7;
        if stalls { Duration::from_secs(25) } else { Duration::from_millis((*random >> 33) % 2000) }
    }
}

#[async_trait]
impl providers::Provider for Late {
    fn identity(&self) -> String {
        "late".to_owned()
    }
    fn secrets(&self) -> Vec<Secret> {
        Vec::new()
    }
    fn check_id(&self, _: &str) -> Result<(), Error> {
        Ok(())
    }
    fn rules(&self) -> Rules {
        Rules {
            freshness: Duration::ZERO,
            calls_per_minute: Some(u32::try_from(LIMIT).unwrap()),
            calls_per_order_per_day: None,
            longest_call: Duration::from_secs(10),
        }
    }
    async fn prove(&self, _: Option<&dyn TokenStore>) -> Result<Proof, Error> {
        unreachable!("nobody asks for proof")
    }
    async fn get_order(&self, query: &Query, resources: Resources<'_>) -> Result<Order, Error> {
        let pass = resources.gate.enter().await?;
        let sent = self.clock.now();
        self.clock.sleep_until(sent + self.delay()).await;
        self.counted.lock().unwrap().push(self.clock.now());
        resources.gate.leave(pass, Delivery::Answered).await;
        Ok(Order { id: query.id.clone(), observe_time: Some(sent.into()), ..Order::default() })
    }
}

#[tokio::test]
async fn no_minute_sees_more_calls_than_the_limit() {
    let clock = manual_clock();
    let counted = Arc::new(Mutex::new(Vec::new()));
    let vendor = Late {
        clock: clock.clone(),
        counted: Arc::clone(&counted),
        random: Mutex::new(20_261_121),
    };
    let account = Account::new("late", Provider::Haoka, true, Box::new(vendor));
    let time: Arc<dyn Clock> = Arc::new(clock.clone());
    let store = Arc::new(Memory::new(CACHE_BYTES, Arc::clone(&time)));
    let orders = Orders::new(Accounts::new(vec![account]), store, time);
    let mut calls = tokio::task::JoinSet::new();
    for step in 0..(5 * 60 * 20) {
        let orders = orders.clone();
        calls.spawn(async move {
            let provider = Provider::Haoka.into();
            let order = OrderRef { provider, id: step.to_string(), ..OrderRef::default() };
            let deadline = Instant::now() + Duration::from_hours(1);
            orders
                .get(&Caller::default(), &order, Some(Duration::ZERO), deadline)
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
