//! Concurrent requests for one order, with a store and a vendor that wait for the test: who joins
//! whose call, and which requests its result satisfies.

mod later;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::poll;
use order_query::accounts::Caller;
use order_query::clock::{Clock, ManualClock};
use order_query::error::Error;
use order_query::orders::{Orders, Wanted};
use order_query::pb::{ErrorReason, Order, OrderRef, Source};
use order_query::providers::{Rules, Token, TokenStore};
use order_query::store::{
    AccountKey, Call, Held, Known, Memory, OrderKey, Outcome, Reservation, Snapshot, Store,
    WindowKey,
};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::support::fake_vendor::FakeVendor;
use crate::support::{CACHE_BYTES, manual_clock};

/// A memory store whose reads wait for the test's permission.
struct Slow {
    memory: Memory,
    reads: Arc<Semaphore>,
    /// Whether it claims to be shared.
    is_shared: bool,
    /// How often a lease was refused.
    refused: Arc<AtomicUsize>,
    /// Whether every write fails.
    broken: Arc<AtomicBool>,
}

impl Slow {
    fn works(&self) -> Result<(), Error> {
        let broken = self.broken.load(Ordering::SeqCst);
        if broken { Err(Error::store_unavailable("it is broken")) } else { Ok(()) }
    }
}

#[async_trait]
impl Store for Slow {
    fn snapshot(&self, order: &OrderKey, window: Option<&WindowKey>) -> Snapshot {
        self.memory.snapshot(order, window)
    }
    async fn get(
        &self,
        order: &OrderKey,
        window: Option<&WindowKey>,
    ) -> Result<Option<Known>, Error> {
        let _may_read = self.reads.acquire().await;
        self.works()?;
        self.memory.get(order, window).await
    }
    async fn put(&self, order: &OrderKey, state: &Order) -> Result<(), Error> {
        self.memory.put(order, state).await
    }
    async fn reserve(&self, call: &Call) -> Result<Reservation, Error> {
        self.works()?;
        let reservation = self.memory.reserve(call).await?;
        let refused = reservation == Reservation::Leased;
        self.refused.fetch_add(usize::from(refused), Ordering::SeqCst);
        Ok(reservation)
    }
    async fn finish(&self, call: &Call, outcome: Outcome<'_>) -> Result<Vec<SystemTime>, Error> {
        self.memory.finish(call, outcome).await
    }
    async fn cancel(&self, call: &Call) -> Result<(), Error> {
        self.memory.cancel(call).await
    }
    async fn pause(&self, account: &AccountKey, wait: Duration, probe: bool) -> Result<(), Error> {
        self.memory.pause(account, wait, probe).await
    }
    async fn spent(&self, window: &WindowKey) -> Result<Vec<SystemTime>, Error> {
        self.memory.spent(window).await
    }
    async fn ping(&self) -> Result<(), Error> {
        Ok(())
    }
    fn held(&self) -> Held {
        self.memory.held()
    }
    fn is_shared(&self) -> bool {
        self.is_shared
    }
}

#[async_trait]
impl TokenStore for Slow {
    async fn load(&self, identity: &str) -> Result<Option<Token>, Error> {
        self.memory.load(identity).await
    }
    async fn save(&self, identity: &str, token: &Token) -> Result<(), Error> {
        self.memory.save(identity, token).await
    }
    async fn remove_if(&self, identity: &str, token: &Token) -> Result<(), Error> {
        self.memory.remove_if(identity, token).await
    }
    async fn lease(&self, what: &str, owner: &str, life: Duration) -> Result<bool, Error> {
        self.memory.lease(what, owner, life).await
    }
    async fn release(&self, what: &str, owner: &str) -> Result<(), Error> {
        self.memory.release(what, owner).await
    }
}

/// A vendor that answers when the test permits it, and counts. The call `unsent` times out
/// without being sent.
fn vendor(
    clock: &ManualClock,
    answers: &Arc<Semaphore>,
    asked: &Arc<AtomicUsize>,
    unsent: usize,
) -> FakeVendor {
    let (clock, answers, asked) = (clock.clone(), Arc::clone(answers), Arc::clone(asked));
    FakeVendor::new(move |query| {
        let (clock, answers) = (clock.clone(), Arc::clone(&answers));
        let number = asked.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            let observe_time = Some(clock.now().into());
            if number == unsent {
                clock.advance(FakeVendor::RULES.longest_call);
                return Err(Error::failed("refused"));
            }
            let _may_answer = answers.acquire().await;
            if query.id == NOBODY {
                return Err(Error::new(ErrorReason::OrderNotFound, "nobody knows it"));
            }
            Ok(Order { id: query.id, observe_time, ..Order::default() })
        }
    })
    .never_reached()
}

struct Fixture {
    clock: ManualClock,
    orders: Orders,
    /// Another replica with the same store and vendor.
    other: Orders,
    reads: Arc<Semaphore>,
    answers: Arc<Semaphore>,
    asked: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    broken: Arc<AtomicBool>,
    order: OrderRef,
}

/// The order that the vendor does not know.
const NOBODY: &str = "nobody";
/// More permits than any test needs.
const MANY: usize = 1000;
/// How many calls an order may have in a day.
const LIMIT: Option<u32> = Some(10);
/// The `max_age` of a caller that requires a live answer.
const NOW: Option<Duration> = Some(Duration::ZERO);

impl Fixture {
    fn new() -> Self {
        Self::with(false, 0, LIMIT)
    }

    fn with(is_shared: bool, unsent: usize, calls_per_order_per_day: Option<u32>) -> Self {
        let clock = manual_clock();
        let broken = Arc::new(AtomicBool::new(false));
        let [reads, answers] = [MANY, MANY].map(|permits| Arc::new(Semaphore::new(permits)));
        let [asked, refused] = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        let time: Arc<dyn Clock> = Arc::new(clock.clone());
        let memory = Memory::new(CACHE_BYTES, Arc::clone(&time));
        let store = Arc::new(Slow {
            memory,
            reads: Arc::clone(&reads),
            is_shared,
            refused: Arc::clone(&refused),
            broken: Arc::clone(&broken),
        });
        let replica = || {
            let vendor = vendor(&clock, &answers, &asked, unsent);
            let freshness = Duration::from_mins(15);
            let rules = Rules { freshness, calls_per_order_per_day, ..FakeVendor::RULES };
            vendor.ruled(rules).orders(Arc::clone(&store) as Arc<dyn Store>, Arc::clone(&time))
        };
        let (orders, other) = (replica(), replica());
        let provider = FakeVendor::PROVIDER.into();
        let order = OrderRef { provider, id: "A1".to_owned(), ..OrderRef::default() };
        Self { clock, orders, other, reads, answers, asked, refused, broken, order }
    }

    async fn get(&self, max_age: Option<Duration>) -> Result<Source, ErrorReason> {
        self.get_as(&Caller::default(), max_age).await
    }

    async fn get_as(
        &self,
        caller: &Caller,
        max_age: Option<Duration>,
    ) -> Result<Source, ErrorReason> {
        let wanted = Wanted { max_age, ..Wanted::default() };
        let deadline = Instant::now() + Duration::from_mins(1);
        let answer = self.orders.get(caller, &self.order, wanted, deadline).await;
        answer.map(|answer| answer.response.source()).map_err(|error| error.reason)
    }

    /// Takes all permits, so that everything waits.
    async fn close(semaphore: &Semaphore) {
        semaphore.acquire_many(u32::try_from(MANY).unwrap()).await.unwrap().forget();
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Waits until the vendor has had `times` calls.
    async fn until_asked(&self, times: usize) {
        while self.asked() < times {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_call_in_flight_at_arrival_satisfies_any_max_age() {
    let fixture = Fixture::new();
    Fixture::close(&fixture.answers).await;
    let mut first = pin!(fixture.get(None));
    assert!(poll!(&mut first).is_pending());
    fixture.until_asked(1).await;
    fixture.clock.advance(Duration::from_secs(5));
    let mut second = pin!(fixture.get(NOW));
    assert!(poll!(&mut second).is_pending());
    fixture.answers.add_permits(MANY);
    assert_eq!((first.await, second.await), (Ok(Source::Live), Ok(Source::Live)));
    assert_eq!(fixture.asked(), 1);
    // It was observed before this request arrived.
    assert_eq!(fixture.get(NOW).await, Ok(Source::Live));
    assert_eq!(fixture.asked(), 2);
}

#[tokio::test]
async fn a_call_continues_when_its_callers_leave() {
    let fixture = Fixture::new();
    Fixture::close(&fixture.answers).await;
    {
        let mut gone = pin!(fixture.get(None));
        assert!(poll!(&mut gone).is_pending());
        fixture.until_asked(1).await;
    }
    let mut joined = pin!(fixture.get(None));
    assert!(poll!(&mut joined).is_pending());
    fixture.answers.add_permits(MANY);
    assert_eq!(joined.await, Ok(Source::Live));
    assert_eq!(fixture.get(None).await, Ok(Source::Cache));
    assert_eq!(fixture.asked(), 1);
}

#[tokio::test]
async fn a_fresh_request_is_not_refused_with_a_default_one() {
    let fixture = Fixture::new();
    for _ in 0..8 {
        fixture.get(NOW).await.unwrap();
        fixture.clock.advance(Duration::from_mins(1));
    }
    fixture.clock.advance(Duration::from_hours(7));
    Fixture::close(&fixture.reads).await;
    let mut content = pin!(fixture.get(None));
    assert!(poll!(&mut content).is_pending());
    let mut insists = pin!(fixture.get(NOW));
    assert!(poll!(&mut insists).is_pending());
    fixture.reads.add_permits(MANY);
    assert_eq!((content.await, insists.await), (Ok(Source::Stale), Ok(Source::Live)));
    assert_eq!(fixture.asked(), 9);
}

#[tokio::test]
async fn a_fresh_request_misses_its_deadline_and_a_default_one_gets_stale_data() {
    let fixture = Fixture::new();
    fixture.get(None).await.unwrap();
    fixture.clock.advance(Duration::from_hours(1));
    Fixture::close(&fixture.answers).await;
    let deadline = || Instant::now() + Duration::from_millis(50);
    let (anyone, now) = (Caller::default(), Wanted { max_age: NOW, ..Wanted::default() });
    let failed = fixture.orders.get(&anyone, &fixture.order, now, deadline()).await.unwrap_err();
    assert_eq!(failed.reason, ErrorReason::DeadlineExceeded);
    assert_eq!(failed.account.as_deref(), Some(FakeVendor::ACCOUNT));
    let stale =
        fixture.orders.get(&anyone, &fixture.order, Wanted::default(), deadline()).await.unwrap();
    assert_eq!(stale.response.source(), Source::Stale);
    assert_eq!(fixture.asked(), 2, "the second joined the first one's call");
}

#[tokio::test]
async fn a_retry_renews_the_order_lease() {
    // Ten calls fund a retry; the tenth fails, after its whole timeout.
    let mut fixture = Fixture::with(true, 10, LIMIT);
    for n in 1..10 {
        fixture.order.id = format!("B{n}");
        fixture.get(NOW).await.unwrap();
    }
    fixture.order.id = "A1".to_owned();
    Fixture::close(&fixture.answers).await;
    let mut first = pin!(fixture.get(NOW));
    assert!(poll!(&mut first).is_pending());
    fixture.until_asked(11).await;
    // Longer than the rest of a lease that was not renewed.
    fixture.clock.advance(Duration::from_secs(5));
    let (anyone, deadline) = (Caller::default(), Instant::now() + Duration::from_mins(1));
    let now = Wanted { max_age: NOW, ..Wanted::default() };
    let mut other = pin!(fixture.other.get(&anyone, &fixture.order, now, deadline));
    assert!(poll!(&mut other).is_pending());
    while fixture.refused.load(Ordering::SeqCst) == 0 && fixture.asked() == 11 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    fixture.answers.add_permits(MANY);
    assert_eq!(first.await, Ok(Source::Live));
    assert_eq!(other.await.unwrap().response.source(), Source::Live);
    assert_eq!(fixture.asked(), 11, "one call for both replicas");
}

/// A caller with one call a minute.
fn with_a_share(name: &str) -> Caller {
    Caller { name: name.into(), accounts: None, vendor_calls_per_minute: Some(1) }
}

#[tokio::test]
async fn a_joiner_retries_when_the_leaders_share_is_exhausted() {
    let (spent, fresh) = (with_a_share("spent"), with_a_share("fresh"));
    for other in [Caller::default(), fresh.clone()] {
        let fixture = Fixture::new();
        fixture.get_as(&spent, NOW).await.unwrap();
        fixture.clock.advance(Duration::from_secs(1));
        Fixture::close(&fixture.reads).await;
        let mut first = pin!(fixture.get_as(&spent, NOW));
        assert!(poll!(&mut first).is_pending());
        let mut joined = pin!(fixture.get_as(&other, NOW));
        let mut twin = pin!(fixture.get_as(&spent, NOW));
        assert!(poll!(&mut joined).is_pending() && poll!(&mut twin).is_pending());
        fixture.reads.add_permits(MANY);
        let refused = Err(ErrorReason::ProviderQuotaExhausted);
        assert_eq!((first.await, joined.await), (refused, Ok(Source::Live)), "{other:?}");
        assert_eq!(fixture.asked(), 2);
        // Its own share (or none) applies, not the leader's.
        fixture.clock.advance(Duration::from_secs(1));
        let again = if other == fresh { refused } else { Ok(Source::Live) };
        assert_eq!(fixture.get_as(&other, NOW).await, again);
        twin.await.unwrap_err();
    }
}

#[tokio::test]
async fn joined_calls_and_cached_answers_spend_no_share() {
    let fixture = Fixture::new();
    let caller = with_a_share("caller");
    Fixture::close(&fixture.answers).await;
    let mut first = pin!(fixture.get(None));
    assert!(poll!(&mut first).is_pending());
    fixture.until_asked(1).await;
    let mut joined = pin!(fixture.get_as(&caller, NOW));
    assert!(poll!(&mut joined).is_pending());
    fixture.answers.add_permits(MANY);
    assert_eq!((first.await, joined.await), (Ok(Source::Live), Ok(Source::Live)));
    assert_eq!(fixture.get_as(&caller, None).await, Ok(Source::Cache));
    fixture.clock.advance(Duration::from_secs(1));
    assert_eq!(fixture.get_as(&caller, NOW).await, Ok(Source::Live), "its one call is left");
    fixture.clock.advance(Duration::from_secs(1));
    assert_eq!(fixture.get_as(&caller, NOW).await, Err(ErrorReason::ProviderQuotaExhausted));
}

#[tokio::test]
async fn an_uncountable_share_blocks_only_its_own_caller() {
    let fixture = Fixture::with(false, 0, None);
    fixture.broken.store(true, Ordering::SeqCst);
    Fixture::close(&fixture.reads).await;
    let caller = with_a_share("caller");
    let mut counted = pin!(fixture.get_as(&caller, NOW));
    assert!(poll!(&mut counted).is_pending());
    let mut joined = pin!(fixture.get(NOW));
    assert!(poll!(&mut joined).is_pending());
    fixture.reads.add_permits(MANY);
    let failed = Err(ErrorReason::StoreUnavailable);
    assert_eq!((counted.await, joined.await), (failed, Ok(Source::Live)));
    assert_eq!(fixture.asked(), 1);
}
