//! Watchers of orders: one poller for each watched order, however many watchers it has. Callers with a
//! share of their own get a poller of their own, so no watch spends another caller's share. All pollers
//! of an order receive what one of them learns. Used by `orders`; `grpc` streams the updates.

mod news;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use self::news::{Latest, News, same};
use super::freshness::{observed, refresh_time};
use super::question::Question;
use super::{Answer, Inner, MinObserveTime, Orders, Wanted};
use crate::accounts::{Caller, Priority, Share};
use crate::error::Error;
use crate::pb::{self, ErrorReason, Order, OrderRef, Source, WatchOrderResponse};
use crate::store::{Known, OrderKey};

/// How often a shared store is read for states that other processes have stored.
const REREAD: Duration = Duration::from_secs(5);

/// The minimum time between two questions of a poller, whatever freshness is configured.
const LEAST_PAUSE: Duration = Duration::from_secs(1);

/// How long a poller waits for one answer; calls to vendors end long before that.
const PATIENCE: Duration = Duration::from_hours(1);

/// A running poller, as new watchers find it.
#[derive(Clone, Default)]
struct Running {
    news: watch::Sender<News>,
    /// Ends the poller's wait, for a watcher that waits for a later state.
    hurry: Arc<Notify>,
}

/// The running pollers: by order, then by the share that they spend.
type Pollers = HashMap<OrderKey, HashMap<Option<Share>, Running>>;

/// All running pollers.
#[derive(Default)]
pub(super) struct Watchers(Mutex<Pollers>);

impl Running {
    /// Lets the poller ask soon, if its latest state was observed before that time.
    fn wait_for(&self, earliest: SystemTime, now: SystemTime) {
        let mut waits = false;
        self.news.send_if_modified(|news| {
            waits = news.wait_for(earliest, now);
            // The watchers need not hear of it.
            false
        });
        if waits {
            self.hurry.notify_one();
        }
    }
}

impl Watchers {
    fn lock(&self) -> MutexGuard<'_, Pollers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a new state to an order's watchers, if there are any.
    pub(super) fn learned(
        &self,
        order: &OrderKey,
        state: &Order,
        asked_here: bool,
        now: SystemTime,
    ) {
        let pollers = self.lock();
        for Running { news, .. } in pollers.get(order).iter().flat_map(|pollers| pollers.values()) {
            news.send_if_modified(|news| news.learn(state, Source::Live, asked_here, now));
        }
    }

    /// Removes the poller of a question if `so` holds. Returns true if there is no poller afterwards.
    fn forget_if(
        &self,
        question: &Question,
        so: impl FnOnce(&watch::Sender<News>) -> bool,
    ) -> bool {
        let mut pollers = self.lock();
        let Some(of_order) = pollers.get_mut(&question.key) else { return true };
        let share = &question.class.share;
        let gone = of_order.get(share).is_none_or(|poller| so(&poller.news));
        if gone {
            of_order.remove(share);
        }
        if of_order.is_empty() {
            pollers.remove(&question.key);
        }
        gone
    }
}

/// One watcher of an order.
pub struct Watching {
    orders: Orders,
    question: Question,
    order: OrderRef,
    news: watch::Receiver<News>,
    sent: Option<Arc<Order>>,
    /// Whether the poller was already running when this watcher joined.
    joined: bool,
}

impl Watching {
    /// Returns the order as it is now, then each time it changes; `None` after a terminal state.
    ///
    /// # Errors
    /// The order can never be read. No more items follow.
    pub async fn next(&mut self) -> Option<Result<WatchOrderResponse, Error>> {
        if self.sent.as_ref().is_some_and(|sent| sent.terminal) {
            return None;
        }
        loop {
            let News { latest, end, .. } = self.news.borrow_and_update().clone();
            if let Some(latest) = latest
                && self.is_news(&latest)
            {
                let Latest { state, source, .. } = latest;
                let source =
                    if self.joined && self.sent.is_none() { Source::Cache } else { source };
                self.sent = Some(Arc::clone(&state));
                let account = self.question.account.name.to_string();
                let order = Order { account, ..Arc::unwrap_or_clone(state) };
                return Some(Ok(WatchOrderResponse { order: Some(order), source: source.into() }));
            }
            if let Some(error) = end {
                return Some(Err(self.question.failed(error, &self.order)));
            }
            if self.news.changed().await.is_err() {
                return Some(Err(Error::internal("a task that watches an order panicked")));
            }
            self.joined = false;
        }
    }

    /// Whether the state is the first one that is late enough, or differs from the one that was sent.
    fn is_news(&self, latest: &Latest) -> bool {
        let Latest { state, asked_here, .. } = latest;
        match &self.sent {
            // A poller's news never go back.
            Some(sent) => !same(sent, state),
            None => self.question.counts(state, *asked_here, self.orders.0.clock.now()),
        }
    }
}

impl Orders {
    /// Watches an order: see [`Watching::next`]. No state that was observed before `min_observe_time` is
    /// returned; the poller asks soon for a later one.
    ///
    /// # Errors
    /// `INVALID_REQUEST`, `PROVIDER_NOT_CONFIGURED` and `CALLER_FORBIDDEN`.
    pub fn watch(
        &self,
        caller: &Caller,
        order: &OrderRef,
        min_observe_time: Option<MinObserveTime>,
    ) -> Result<Watching, Error> {
        let mut question =
            self.question(caller, order, Wanted { max_age: None, min_observe_time })?;
        question.class.priority = Priority::Background;
        let mut pollers = self.0.watching.lock();
        let of_order = pollers.entry(question.key.clone()).or_default();
        let mut begun = None;
        let running = of_order.entry(question.class.share.clone()).or_insert_with(|| {
            let running = Running::default();
            let (orders, running_too) = (self.clone(), running.clone());
            // It serves watchers who wait for nothing too.
            let question = Question { min_observe_time: None, ..question.clone() };
            begun = Some(Poller { orders, question, running: running_too });
            running
        });
        let (news, joined) = (running.news.subscribe(), running.news.borrow().latest.is_some());
        if let Some(earliest) = question.min_observe_time {
            running.wait_for(earliest, question.arrival);
        }
        drop(pollers);
        // If the poller cannot be spawned it is dropped at once, and its `drop` needs the lock.
        if let Some(poller) = begun {
            tokio::spawn(poller.run());
        }
        let (orders, order) = (self.clone(), order.clone());
        Ok(Watching { orders, question, order, news, sent: None, joined })
    }
}

/// Asks for an order for as long as anyone watches it.
struct Poller {
    orders: Orders,
    /// Wants no `min_observe_time`.
    question: Question,
    running: Running,
}

impl Drop for Poller {
    /// However the poller ends, no watcher may keep waiting for it.
    fn drop(&mut self) {
        let watching = &self.orders.0.watching;
        watching.forget_if(&self.question, |poller| poller.same_channel(&self.running.news));
    }
}

impl Poller {
    async fn run(mut self) {
        // Logged once for as long as the failure lasts: watchers do not see it.
        let mut failing = None;
        // In a box, because a poller waits most of its time, and then needs no room for an answer.
        while let ControlFlow::Continue(next) = Box::pin(self.ask(&mut failing)).await {
            if self.pause(next).await.is_break() {
                return;
            }
        }
    }

    /// Asks for the order, and tells its watchers. Returns when to ask again; breaks after the last
    /// news.
    async fn ask(&mut self, failing: &mut Option<ErrorReason>) -> ControlFlow<(), SystemTime> {
        let answer = self.answer().await;
        let now = self.orders.0.clock.now();
        let next = match answer {
            Ok(answer) => {
                *failing = None;
                self.tell(&answer);
                // A terminal order is not polled again.
                answer.response.refresh_time.and_then(|time| time.try_into().ok())
            }
            Err(error) if error.verdict().ends_watch => {
                self.running.news.send_modify(|news| news.end = Some(error));
                None
            }
            Err(error) => {
                if failing.replace(error.reason) != Some(error.reason) {
                    let Error { reason, detail, .. } = &error;
                    let (account, reason) = (&*self.question.account.name, pb::short_name(*reason));
                    tracing::warn!(account, reason, detail, "a watched order cannot be read now");
                }
                let freshness = self.question.account.rules.freshness;
                Some(now + error.retry_after.unwrap_or(freshness))
            }
        };
        next.map_or(ControlFlow::Break(()), |next: SystemTime| {
            ControlFlow::Continue(next.max(now + LEAST_PAUSE))
        })
    }

    /// Gets an answer for all watchers: as for a caller who sets nothing, and, if a watcher waits for a
    /// later state than that, a later one.
    async fn answer(&mut self) -> Result<Answer, Error> {
        let Running { news, hurry } = &self.running;
        // Who has asked to hurry until now is served by this answer.
        let _ = hurry.notified().now_or_never();
        let min_observe_time = news.borrow().awaited;
        self.question.arrival = self.orders.0.clock.now();
        let later = Question { min_observe_time, ..self.question.clone() };
        let answer = self.orders.answer(&self.question, Instant::now() + PATIENCE).await;
        if !self.is_too_early(&later, &answer) {
            return answer;
        }
        if let Ok(answer) = &answer {
            self.tell(answer);
        }
        self.orders.answer(&later, Instant::now() + PATIENCE).await
    }

    /// Whether a question for a later state may get one, where this is what a question for any got.
    fn is_too_early(&self, later: &Question, answer: &Result<Answer, Error>) -> bool {
        match answer {
            // The vendor cannot be asked now.
            Ok(Answer { response, .. }) if response.source() == Source::Stale => false,
            Ok(Answer { response, vendor_latency }) => {
                let (state, asked_here) = (response.order.as_ref(), vendor_latency.is_some());
                let now = self.orders.0.clock.now();
                state.is_some_and(|state| !later.counts(state, asked_here, now))
            }
            Err(error) => self.orders.came_too_early(later, error),
        }
    }

    /// Tells the watchers an answer.
    fn tell(&self, answer: &Answer) {
        let Answer { response, vendor_latency } = answer;
        // Each watcher gets its own name for the account.
        let state = response.order.clone().unwrap_or_default();
        let state = Order { account: String::new(), ..state };
        let (source, asked_here) = (response.source(), vendor_latency.is_some());
        let now = self.orders.0.clock.now();
        self.running.news.send_if_modified(|news| news.learn(&state, source, asked_here, now));
    }

    /// Waits until `next`; a newer state learned elsewhere may postpone it, and a watcher who waits for a
    /// later state ends it soon. Breaks when nobody watches any more.
    async fn pause(&self, mut next: SystemTime) -> ControlFlow<()> {
        let Inner { clock, store, watching, .. } = self.orders.0.as_ref();
        let soon = clock.now() + LEAST_PAUSE;
        while clock.now() < next {
            let until = if store.is_shared() { next.min(clock.now() + REREAD) } else { next };
            tokio::select! {
                () = self.running.news.closed() => {
                    // A new watcher may have joined meanwhile.
                    if watching.forget_if(&self.question, |poller| poller.receiver_count() == 0) {
                        return ControlFlow::Break(());
                    }
                }
                () = self.running.hurry.notified() => {
                    // The state may have come from elsewhere meanwhile.
                    if self.running.news.borrow().awaited.is_some() {
                        next = next.min(soon);
                    }
                }
                () = clock.sleep_until(until) => {}
            }
            if store.is_shared() {
                next = Box::pin(self.reread(next)).await;
            }
        }
        ControlFlow::Continue(())
    }

    /// Tells the watchers what other processes have stored. Returns when to ask: at `next`, or later
    /// where the state is newer.
    async fn reread(&self, next: SystemTime) -> SystemTime {
        let Ok(Some(Known { state: Some(state), spent })) = self.orders.known(&self.question).await
        else {
            return next;
        };
        let now = self.orders.0.clock.now();
        let is_awaited = {
            let news = &self.running.news;
            news.send_if_modified(|news| news.learn(&state, Source::Cache, false, now));
            news.borrow().awaited.is_some()
        };
        // A state that seems to be from the future has an unknown age, and postpones nothing. Nor does
        // one that is older than a watcher waits for.
        if is_awaited || observed(&state).is_none_or(|observed| observed > now) {
            return next;
        }
        let refresh = refresh_time(&self.question.account.rules, (&state).into(), &spent, now);
        refresh.map_or(next, |refresh| next.max(refresh))
    }
}
