//! `max_concurrency`: how many concurrent calls a vendor gets, and how the others wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use order_query::accounts::Caller;
use order_query::clock::SystemClock;
use order_query::error::Error;
use order_query::orders::{Answer, Orders, Wanted};
use order_query::pb::order_service_client::OrderServiceClient;
use order_query::pb::{ErrorReason, Order, OrderRef, Provider, Source};
use order_query::providers::Rules;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::child::Serving;
use crate::support::fake_vendor::FakeVendor;
use crate::support::played::{Played, answer};
use crate::support::{Server, connect, question, sandbox_at};

/// The default number of concurrent calls of an account.
const AT_ONE_TIME: usize = 64;
/// How many more can wait.
const WAITING: usize = 1000;
const LONGEST_CALL: Duration = Duration::from_secs(10);

struct Fixture {
    orders: Orders,
    asked: Arc<AtomicUsize>,
    may_end: Arc<Semaphore>,
    calls: JoinSet<Result<Answer, Error>>,
}

impl Fixture {
    fn new() -> Self {
        let (asked, may_end) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let (count, gate) = (Arc::clone(&asked), Arc::clone(&may_end));
        // Its permits let calls end.
        let vendor = FakeVendor::new(move |query| {
            count.fetch_add(1, Ordering::SeqCst);
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.unwrap().forget();
                Ok(Order { id: query.id, ..Order::default() })
            }
        });
        let vendor = vendor.ruled(Rules { longest_call: LONGEST_CALL, ..FakeVendor::RULES });
        let orders = vendor.orders_in_memory(Arc::new(SystemClock));
        Self { orders, asked, may_end, calls: JoinSet::new() }
    }

    /// Starts calls for `count` orders, and lets every runnable task run.
    async fn ask(&mut self, count: usize) {
        for _ in 0..count {
            let provider = FakeVendor::PROVIDER.into();
            let id = new_id();
            let order = OrderRef { provider, id, ..OrderRef::default() };
            let orders = self.orders.clone();
            let deadline = Instant::now() + Duration::from_hours(1);
            self.calls.spawn(async move {
                orders.get(&Caller::default(), &order, Wanted::default(), deadline).await
            });
        }
        // Tokio's time is paused: it advances when every task is idle.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    async fn next(&mut self) -> Result<Answer, Error> {
        self.calls.join_next().await.unwrap().unwrap()
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn new_id() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("order-{}", COUNT.fetch_add(1, Ordering::SeqCst))
}

#[tokio::test(start_paused = true)]
async fn the_queue_and_the_wait_are_bounded() {
    let mut fixture = Fixture::new();
    let begin = Instant::now();
    fixture.ask(AT_ONE_TIME + WAITING).await;
    assert_eq!((fixture.asked(), fixture.calls.len()), (AT_ONE_TIME, AT_ONE_TIME + WAITING));
    // One more is refused at once.
    fixture.ask(1).await;
    let error = fixture.next().await.unwrap_err();
    assert_eq!(error.reason, ErrorReason::ProviderUnavailable);
    assert_eq!(
        error.message,
        "64 calls to the vendor are in progress, and 1000 more are waiting for a permit; retry later"
    );
    assert!(begin.elapsed() < LONGEST_CALL);
    // When a call ends, the one that has waited longest gets its permit.
    fixture.may_end.add_permits(1);
    fixture.next().await.unwrap();
    fixture.ask(1).await;
    assert_eq!(fixture.asked(), AT_ONE_TIME + 1);
    // No call waits for longer than the vendor's longest call.
    for _ in 0..WAITING {
        let error = fixture.next().await.unwrap_err();
        assert_eq!(error.reason, ErrorReason::ProviderUnavailable);
        assert_eq!(
            error.message,
            "64 calls to the vendor are in progress, and none of them ended within 10s; retry later"
        );
        assert_eq!(error.retry_after, Some(Duration::from_secs(1)));
    }
    let waited = begin.elapsed();
    assert!(waited >= LONGEST_CALL && waited < 2 * LONGEST_CALL, "{waited:?}");
    assert_eq!(fixture.calls.len(), AT_ONE_TIME);
    // Waiting in vain says nothing about the vendor: calls continue.
    fixture.may_end.add_permits(AT_ONE_TIME + 10);
    fixture.ask(10).await;
    while let Some(outcome) = fixture.calls.join_next().await {
        outcome.unwrap().unwrap();
    }
    assert_eq!(fixture.asked(), AT_ONE_TIME + 1 + 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vendor_gets_at_most_max_concurrency_calls_at_a_time() {
    let [now, peak] = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
    let (at_vendor, most) = (Arc::clone(&now), Arc::clone(&peak));
    let vendor = Played::start(move |_| {
        let (now, peak) = (Arc::clone(&at_vendor), Arc::clone(&most));
        async move {
            peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(5)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            answer(200, r#"{"code":0,"data":{"orderStatus":"已发货"}}"#)
        }
    })
    .await;
    let server = Server::start(&format!(
        "[accounts.cards]\nprovider = \"haoka\"\nbase_url = \"{}\"\nmax_concurrency = 3\n\
         user_id = \"agent\"\nsecret = \"s\"\n",
        vendor.url()
    ))
    .await;
    let ids: Vec<_> = (0..150).map(|_| new_id()).collect();
    let answers = join_all(ids.iter().map(|id| server.order(Provider::Haoka, id))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!((vendor.asked().len(), peak.load(Ordering::SeqCst)), (150, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_vendor_does_not_delay_the_others() {
    let hanging = Played::start(|_| std::future::pending()).await;
    let sandbox = sandbox_at(Arc::new(SystemClock)).await;
    let config = format!(
        "{}[accounts.hangs]\nprovider = \"haoka\"\nbase_url = \"{}\"\nmax_concurrency = 2\n\
         default = true\ntimeout = \"1m\"\nuser_id = \"agent\"\nsecret = \"s\"\n",
        sandbox.accounts(),
        hanging.url()
    );
    let server = Serving::start(&config);
    let client = OrderServiceClient::new(connect(server.address).await);
    let mut waiting = JoinSet::new();
    for _ in 0..200 {
        let mut client = client.clone();
        waiting.spawn(async move { client.get_order(question(Provider::Haoka, &new_id())).await });
    }
    hanging.until_asked(2).await;
    // Far more calls than 64 permits, if they were shared.
    for round in 0..100 {
        let id = if round % 2 == 0 { "status-2" } else { "status-1" };
        for (provider, id) in [(Provider::Wechat, id), (Provider::Dingshang, "101")] {
            let mut fresh = question(provider, id);
            fresh.max_age = Some(prost_types::Duration::default());
            let answer = client.clone().get_order(fresh).await.unwrap().into_inner();
            assert_eq!(answer.source(), Source::Live);
        }
    }
    assert!(waiting.try_join_next().is_none(), "all of them wait still");
    assert_eq!((hanging.asked().len(), hanging.connections()), (2, 2));
}
