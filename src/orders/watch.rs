//! Watchers of orders: one poller for each watched order, however many watchers it has. Callers with a
//! share of their own get a poller of their own, so no watch spends another caller's share. All pollers
//! of an order receive what one of them learns. Used by `orders`; `grpc` streams the updates.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

use super::freshness::{observed, refresh_time};
use super::question::Question;
use super::{Answer, Inner, Orders};
use crate::accounts::{Caller, Priority, Share};
use crate::error::Error;
use crate::pb::{self, ErrorReason, Order, OrderRef, Source, WatchOrderResponse};
use crate::store::{Known, OrderKey, newer};

/// How often a shared store is read for states that other processes have stored.
const REREAD: Duration = Duration::from_secs(5);

/// The minimum time between two questions of a poller, whatever freshness is configured.
const LEAST_PAUSE: Duration = Duration::from_secs(1);

/// How long a poller waits for one answer; calls to vendors end long before that.
const PATIENCE: Duration = Duration::from_hours(1);

/// The latest news of a poller. Its watchers share the state.
#[derive(Clone, Default)]
struct News {
    latest: Option<(Arc<Order>, Source)>,
    /// Why no more updates follow.
    end: Option<Error>,
}

/// The running pollers: by order, then by the share that they spend.
type Pollers = HashMap<OrderKey, HashMap<Option<Share>, watch::Sender<News>>>;

/// All running pollers.
#[derive(Default)]
pub(super) struct Watchers(Mutex<Pollers>);

impl Watchers {
    fn lock(&self) -> MutexGuard<'_, Pollers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a new state to an order's watchers, if there are any.
    pub(super) fn learned(&self, order: &OrderKey, state: &Order, now: SystemTime) {
        for poller in self.lock().get(order).iter().flat_map(|pollers| pollers.values()) {
            poller.send_if_modified(|news| news.learn(state, Source::Live, now));
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
        let gone = of_order.get(share).is_none_or(so);
        if gone {
            of_order.remove(share);
        }
        if of_order.is_empty() {
            pollers.remove(&question.key);
        }
        gone
    }
}

impl News {
    /// Adopts the state unless it is older. Returns true if watchers must be notified.
    fn learn(&mut self, state: &Order, source: Source, now: SystemTime) -> bool {
        let Some((known, _)) = &self.latest else {
            self.latest = Some((Arc::new(state.clone()), source));
            return true;
        };
        if !newer(state, known, now) {
            return false;
        }
        let changed = !same(known, state);
        self.latest = Some((Arc::new(state.clone()), source));
        changed
    }
}

/// Whether two states differ only in when they were observed.
fn same(one: &Order, other: &Order) -> bool {
    Order { observe_time: None, ..one.clone() } == Order { observe_time: None, ..other.clone() }
}

/// One watcher of an order.
pub struct Watching {
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
            let News { latest, end } = self.news.borrow_and_update().clone();
            if let Some((state, source)) = latest
                && self.sent.as_ref().is_none_or(|sent| !same(sent, &state))
            {
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
}

impl Orders {
    /// Watches an order: see [`Watching::next`].
    ///
    /// # Errors
    /// `INVALID_REQUEST`, `PROVIDER_NOT_CONFIGURED` and `CALLER_FORBIDDEN`.
    pub fn watch(&self, caller: &Caller, order: &OrderRef) -> Result<Watching, Error> {
        let mut question = self.question(caller, order, None)?;
        question.class.priority = Priority::Background;
        let mut pollers = self.0.watching.lock();
        let of_order = pollers.entry(question.key.clone()).or_default();
        let mut begun = None;
        let (news, joined) = if let Some(poller) = of_order.get(&question.class.share) {
            (poller.subscribe(), poller.borrow().latest.is_some())
        } else {
            let (sender, news) = watch::channel(News::default());
            of_order.insert(question.class.share.clone(), sender.clone());
            begun = Some(Poller { orders: self.clone(), question: question.clone(), sender });
            (news, false)
        };
        drop(pollers);
        // If the poller cannot be spawned it is dropped at once, and its `drop` needs the lock.
        if let Some(poller) = begun {
            tokio::spawn(poller.run());
        }
        Ok(Watching { question, order: order.clone(), news, sent: None, joined })
    }
}

/// Asks for an order for as long as anyone watches it.
struct Poller {
    orders: Orders,
    question: Question,
    sender: watch::Sender<News>,
}

impl Drop for Poller {
    /// However the poller ends, no watcher may keep waiting for it.
    fn drop(&mut self) {
        let watching = &self.orders.0.watching;
        watching.forget_if(&self.question, |poller| poller.same_channel(&self.sender));
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
        self.question.arrival = self.orders.0.clock.now();
        let answer = self.orders.answer(&self.question, Instant::now() + PATIENCE).await;
        let now = self.orders.0.clock.now();
        let next = match answer {
            Ok(Answer { response: answer, .. }) => {
                *failing = None;
                let source = answer.source();
                let next = answer.refresh_time.and_then(|time| time.try_into().ok());
                // Each watcher gets its own name for the account.
                let state = Order { account: String::new(), ..answer.order.unwrap_or_default() };
                self.sender.send_if_modified(|news| news.learn(&state, source, now));
                // A terminal order is not polled again.
                next
            }
            Err(error) if error.verdict().ends_watch => {
                self.sender.send_modify(|news| news.end = Some(error));
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

    /// Waits until `next`; a newer state learned elsewhere may postpone it. Breaks when nobody watches
    /// any more.
    async fn pause(&self, mut next: SystemTime) -> ControlFlow<()> {
        let Inner { clock, store, watching, .. } = self.orders.0.as_ref();
        while clock.now() < next {
            let until = if store.is_shared() { next.min(clock.now() + REREAD) } else { next };
            tokio::select! {
                () = self.sender.closed() => {
                    // A new watcher may have joined meanwhile.
                    if watching.forget_if(&self.question, |poller| poller.receiver_count() == 0) {
                        return ControlFlow::Break(());
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
        self.sender.send_if_modified(|news| news.learn(&state, Source::Cache, now));
        // A state that seems to be from the future has an unknown age, and postpones nothing.
        if observed(&state).is_none_or(|observed| observed > now) {
            return next;
        }
        let refresh = refresh_time(&self.question.account.rules, (&state).into(), &spent, now);
        refresh.map_or(next, |refresh| next.max(refresh))
    }
}
