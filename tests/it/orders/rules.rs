//! The vendors' rules, counted at the vendor: how often it is called, whatever callers do.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use order_query::clock::ManualClock;
use order_query::pb::{GetOrderRequest, GetOrderResponse, OrderStatus, Provider, Source};
use order_query::sandbox::{Kind, Sandbox};
use tonic::Code;

use crate::support::{Failed, Server, manual_clock, question, sandbox_at};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

/// The sandbox and a server over one clock that the test advances.
pub struct Fixture {
    pub clock: ManualClock,
    pub sandbox: Sandbox,
    pub server: Server,
}

impl Fixture {
    pub async fn new() -> Self {
        Self::with(str::to_owned).await
    }

    /// With the sandbox's accounts changed.
    pub async fn with(change: impl Fn(&str) -> String) -> Self {
        let clock = manual_clock();
        let sandbox = sandbox_at(Arc::new(clock.clone())).await;
        let config = change(&sandbox.accounts());
        let server = Server::start_at(&config, Arc::new(clock.clone())).await;
        Self { clock, sandbox, server }
    }

    pub fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    /// When the vendor was called for the order, in seconds of the test.
    pub fn asked(&self, provider: Provider, id: &str) -> Vec<u64> {
        let start = std::time::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        let arrivals = self.sandbox.arrivals().into_iter();
        let asked = arrivals.filter(|arrival| {
            arrival.vendor == provider.word()
                && arrival.kind == Kind::Order
                && arrival.order_id.as_deref() == Some(id)
        });
        asked.map(|arrival| arrival.time.duration_since(start).unwrap().as_secs()).collect()
    }

    async fn get(&self, provider: Provider, id: &str) -> Result<GetOrderResponse, Failed> {
        self.server.get(question(provider, id)).await
    }

    /// Fetches with that `max_age`.
    async fn get_fresh(
        &self,
        provider: Provider,
        id: &str,
        max_age: i64,
    ) -> Result<GetOrderResponse, Failed> {
        let max_age = Some(prost_types::Duration { seconds: max_age, nanos: 0 });
        self.server.get(GetOrderRequest { max_age, ..question(provider, id) }).await
    }
}

#[tokio::test]
async fn concurrent_equal_requests_share_one_call() {
    let fixture = Fixture::new().await;
    let fixture = &fixture;
    let calls = (0..500).map(|n| async move {
        if n % 2 == 0 {
            fixture.get(Provider::Haoka, "shipped").await
        } else {
            fixture.get_fresh(Provider::Haoka, "shipped", 0).await
        }
    });
    for answer in join_all(calls).await {
        assert_eq!(answer.unwrap().order.unwrap().status(), OrderStatus::Shipped);
    }
    assert_eq!(fixture.asked(Provider::Haoka, "shipped"), [0]);
}

#[tokio::test]
async fn fresh_requests_get_ten_calls_a_day() {
    let fixture = Fixture::new().await;
    let mut refused = 0;
    for _ in 0..15 {
        match fixture.get_fresh(Provider::Haoka, "shipped", 0).await {
            Ok(answer) => assert_eq!(answer.source(), Source::Live),
            Err(failed) => {
                assert_eq!(failed.code, Code::ResourceExhausted);
                assert_eq!(failed.reason, "PROVIDER_QUOTA_EXHAUSTED");
                assert!(failed.message.contains("calls_per_order_per_day"), "{}", failed.message);
                refused += 1;
            }
        }
        fixture.pass(HOUR);
    }
    let asked = fixture.asked(Provider::Haoka, "shipped");
    assert_eq!((asked.len(), refused), (10, 5));
    // Another order has its own limit.
    fixture.get_fresh(Provider::Haoka, "pending", 0).await.unwrap();
    // The retry delay of the last refusal is exact, to the second.
    let failed = fixture.get_fresh(Provider::Haoka, "shipped", 0).await.unwrap_err();
    assert_eq!(failed.retry_delay, Some(Duration::from_secs(9 * HOUR)));
    fixture.pass(9 * HOUR - 1);
    fixture.get_fresh(Provider::Haoka, "shipped", 0).await.unwrap_err();
    fixture.pass(1);
    fixture.get_fresh(Provider::Haoka, "shipped", 0).await.unwrap();
}

#[tokio::test]
async fn default_requests_spread_eight_calls_over_the_day() {
    let fixture = Fixture::new().await;
    for step in 0..=(24 * 12) {
        let answer = fixture.get(Provider::Haoka, "shipped").await.unwrap();
        let minutes = step * 5;
        // Six hours after the eighth call the cached answer is too old, and the quota is exhausted.
        let stale = (875 + 6 * 60 + 1..24 * 60).contains(&minutes);
        assert_eq!(answer.source() == Source::Stale, stale, "{minutes}");
        if stale {
            assert_eq!(answer.refresh_time.unwrap().seconds, 1_790_000_000 + 24 * 3600);
        }
        fixture.pass(5 * MINUTE);
    }
    let minutes: Vec<_> =
        fixture.asked(Provider::Haoka, "shipped").iter().map(|seconds| seconds / 60).collect();
    assert_eq!(minutes, [0, 20, 40, 75, 140, 265, 510, 875, 24 * 60]);
}

#[tokio::test]
async fn the_last_two_calls_of_the_day_are_reserved_for_fresh_requests() {
    let fixture = Fixture::new().await;
    for _ in 0..8 {
        fixture.get_fresh(Provider::Haoka, "shipped", 0).await.unwrap();
        fixture.pass(2 * MINUTE);
    }
    fixture.pass(7 * HOUR);
    assert_eq!(fixture.get(Provider::Haoka, "shipped").await.unwrap().source(), Source::Stale);
    for _ in 0..2 {
        let answer = fixture.get_fresh(Provider::Haoka, "shipped", 60).await.unwrap();
        assert_eq!(answer.source(), Source::Live);
        fixture.pass(2 * MINUTE);
    }
    fixture.get_fresh(Provider::Haoka, "shipped", 60).await.unwrap_err();
    assert_eq!(fixture.asked(Provider::Haoka, "shipped").len(), 10);
}

#[tokio::test]
async fn the_configured_limit_per_minute_is_enforced() {
    let fixture =
        Fixture::with(|accounts| accounts.replace("user_id", "calls_per_minute = 5\nuser_id"))
            .await;
    let ids =
        ["pending", "submitted", "shipped", "completed", "entering", "review-failed", "sample"];
    for id in &ids[..5] {
        fixture.get(Provider::Haoka, id).await.unwrap();
    }
    for id in &ids[5..] {
        let failed = fixture.get(Provider::Haoka, id).await.unwrap_err();
        assert_eq!(failed.reason, "PROVIDER_QUOTA_EXHAUSTED");
        assert_eq!(failed.retry_delay, Some(Duration::from_mins(1)));
        assert_eq!(failed.pushback.as_deref(), Some("-1"));
        assert!(failed.message.contains("calls_per_minute"), "{}", failed.message);
    }
    fixture.pass(59);
    assert!(fixture.get_fresh(Provider::Haoka, "pending", 0).await.is_err());
    fixture.pass(1);
    for id in &ids[..5] {
        fixture.get_fresh(Provider::Haoka, id, 0).await.unwrap();
    }
}

#[tokio::test]
async fn a_terminal_order_is_never_fetched_again() {
    let fixture = Fixture::new().await;
    for id in ["withdrawn", "rejected", "canceled", "settled", "unsettleable"] {
        for n in 0..100 {
            let answer = fixture.get_fresh(Provider::Haoka, id, 0).await.unwrap();
            let expected = if n == 0 { Source::Live } else { Source::Cache };
            assert_eq!((answer.source(), answer.refresh_time), (expected, None));
            assert!(answer.order.unwrap().terminal);
            fixture.pass(HOUR);
        }
        assert_eq!(fixture.asked(Provider::Haoka, id).len(), 1, "{id}");
    }
    for _ in 0..2 {
        let answer = fixture.get_fresh(Provider::Haoka, "completed", 0).await.unwrap();
        assert_eq!(answer.source(), Source::Live);
        fixture.pass(1);
    }
}

#[tokio::test]
async fn an_answer_is_cached_for_its_freshness_and_no_longer() {
    let fixture = Fixture::new().await;
    let cases = [
        (Provider::Wechat, "status-2", 10),
        (Provider::Dingshang, "101", 5),
        (Provider::Haoka, "shipped", 900),
    ];
    for (provider, id, freshness) in cases {
        let first = fixture.get(provider, id).await.unwrap();
        let observed = first.order.as_ref().unwrap().observe_time.unwrap();
        assert_eq!(first.refresh_time.unwrap().seconds, observed.seconds + freshness);
        fixture.pass(freshness.unsigned_abs());
        let kept = fixture.get(provider, id).await.unwrap();
        assert_eq!(kept.source(), Source::Cache);
        assert_eq!((&kept.order, kept.refresh_time), (&first.order, first.refresh_time));
        // A `max_age` that the cached answer just satisfies, and one that it just does not.
        let kept = fixture.get_fresh(provider, id, freshness).await.unwrap();
        assert_eq!(kept.source(), Source::Cache);
        assert_eq!(fixture.asked(provider, id).len(), 1);
        let live = fixture.get_fresh(provider, id, freshness - 1).await.unwrap();
        assert_eq!(live.source(), Source::Live);
        fixture.pass(freshness.unsigned_abs() + 1);
        assert_eq!(fixture.get(provider, id).await.unwrap().source(), Source::Live);
        assert_eq!(fixture.asked(provider, id).len(), 3);
    }
}

#[tokio::test]
async fn an_unknown_order_is_cached_for_five_seconds() {
    let fixture = Fixture::new().await;
    for _ in 0..3 {
        let failed = fixture.get(Provider::Wechat, "nobody").await.unwrap_err();
        assert_eq!((failed.code, failed.reason.as_str()), (Code::NotFound, "ORDER_NOT_FOUND"));
        assert_eq!(failed.metadata["account"], "wechat-sandbox");
    }
    assert_eq!(fixture.asked(Provider::Wechat, "nobody").len(), 1);
    fixture.get_fresh(Provider::Wechat, "nobody", 0).await.unwrap_err();
    assert_eq!(
        fixture.asked(Provider::Wechat, "nobody").len(),
        2,
        "an explicit max_age is a promise"
    );
    fixture.pass(5);
    fixture.get(Provider::Wechat, "nobody").await.unwrap_err();
    assert_eq!(fixture.asked(Provider::Wechat, "nobody").len(), 3);
}

#[tokio::test]
async fn some_errors_are_replaced_by_a_stale_answer_without_max_age() {
    // A vendor that disappears: the sandbox is dropped once the order is cached.
    let Fixture { clock, sandbox, server } = Fixture::new().await;
    server.get(question(Provider::Dingshang, "101")).await.unwrap();
    server.get(question(Provider::Haoka, "shipped")).await.unwrap();
    drop(sandbox);
    clock.advance(Duration::from_secs(1000));
    for (provider, id) in [(Provider::Dingshang, "101"), (Provider::Haoka, "shipped")] {
        let stale = server.get(question(provider, id)).await.unwrap();
        assert_eq!(stale.source(), Source::Stale);
        assert_eq!(stale.order.unwrap().observe_time.unwrap().seconds, 1_790_000_000);
        let again = stale.refresh_time.unwrap().seconds;
        assert_eq!(again, 1_790_001_001, "once the vendor may answer again");
        let max_age = Some(prost_types::Duration { seconds: 100, nanos: 0 });
        let insisting = GetOrderRequest { max_age, ..question(provider, id) };
        let failed = server.get(insisting).await.unwrap_err();
        assert_eq!(failed.reason, "PROVIDER_UNAVAILABLE");
    }
    let failed = server.get(question(Provider::Haoka, "pending")).await.unwrap_err();
    assert_eq!(failed.reason, "PROVIDER_UNAVAILABLE", "of this one nothing is known");
}

#[tokio::test]
async fn an_unsent_call_costs_no_quota() {
    let Fixture { clock, sandbox, server } = Fixture::new().await;
    let config = sandbox.accounts();
    drop(sandbox);
    let haoka = Server::start_at(&config, Arc::new(clock.clone())).await;
    drop(server);
    for _ in 0..15 {
        let failed = haoka.get(question(Provider::Haoka, "shipped")).await.unwrap_err();
        assert_eq!(failed.reason, "PROVIDER_UNAVAILABLE");
        assert_eq!(failed.message, "the vendor cannot be reached; retry later");
        // Each call is tried: after enough failures the breaker opens for a while.
        clock.advance(Duration::from_mins(1));
    }
}

#[tokio::test]
async fn a_rate_limited_account_is_paused() {
    let cases = [
        (Provider::Haoka, "error-frequent", "shipped", 60),
        (Provider::Haoka, "error-blocked", "shipped", 60),
        (Provider::Wechat, "errcode-45011", "status-2", 60),
        (Provider::Wechat, "errcode-45009", "status-2", 900),
        (Provider::Dingshang, "9004", "101", 30),
    ];
    for (provider, closing, id, seconds) in cases {
        let fixture = Fixture::new().await;
        let wait = Some(Duration::from_secs(seconds));
        assert_eq!(fixture.get(provider, closing).await.unwrap_err().retry_delay, wait);
        let failed = fixture.get_fresh(provider, id, 0).await.unwrap_err();
        assert_eq!(
            (failed.reason.as_str(), failed.retry_delay),
            ("PROVIDER_QUOTA_EXHAUSTED", wait)
        );
        fixture.pass(seconds - 1);
        fixture.get_fresh(provider, id, 0).await.unwrap_err();
        assert_eq!(fixture.asked(provider, id).len(), 0, "{closing}");
        fixture.pass(1);
        fixture.get_fresh(provider, id, 0).await.unwrap();
        fixture.get_fresh(provider, closing, 0).await.unwrap_err();
    }
}

#[tokio::test]
async fn an_exhausted_daily_quota_is_probed_by_one_call_every_15_minutes() {
    let fixture = Fixture::new().await;
    fixture.get(Provider::Wechat, "errcode-45009").await.unwrap_err();
    for round in 1..4 {
        fixture.pass(900);
        for _ in 0..3 {
            fixture.get_fresh(Provider::Wechat, "errcode-45009", 0).await.unwrap_err();
            fixture.get_fresh(Provider::Wechat, "status-2", 0).await.unwrap_err();
        }
        assert_eq!(fixture.asked(Provider::Wechat, "errcode-45009").len(), round + 1);
    }
    assert_eq!(fixture.asked(Provider::Wechat, "status-2").len(), 0);
    fixture.pass(900);
    for _ in 0..3 {
        fixture.get_fresh(Provider::Wechat, "status-2", 0).await.unwrap();
        fixture.pass(1);
    }
    assert_eq!(fixture.asked(Provider::Wechat, "status-2").len(), 3, "open again");
}
