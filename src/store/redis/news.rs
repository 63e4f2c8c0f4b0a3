//! News of the other replicas: an order that this replica holds in memory, and whose state another one
//! has stored, is read again. So callers that ask one replica after another see no older state for long.
//!
//! The script that stores a state publishes when it was observed, and the order (`snapshot.lua`). News is
//! only a hint: the state itself comes from the store, and news about orders that are not held here, or are
//! held in that very state, is dropped. News may be lost, and garbage may arrive: both cost little.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::redis::cmd;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use lru::LruCache;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::connection::{Connection, Failure, Subscription};
use super::input::sortable;
use super::knowledge::Knowledge;
use super::refusals::Why;
use super::scripts::{self, Input, Line, Runner};
use crate::store::OrderKey;

/// Where a stored state is published. Like every channel, it is one for all databases of a server.
pub(super) const CHANNEL: &str = "order-query:news";

/// How many orders may wait to be read again; news about further ones is dropped.
const MOST_WAITING: usize = 10_000;

/// How many orders are read again at one time.
const CONCURRENCY: usize = 16;

/// How many of the orders that were used last are looked at after a time without a subscription.
const LOOKED_AT: usize = 1000;

/// How often to look whether the calls use another connection, which may lead to another server.
const LOOK: Duration = Duration::from_secs(1);

/// How long to wait before subscribing again: at first, and at most.
const WAITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_mins(1)];

const GRANT: &str = "grant +publish, +subscribe and &order-query:news";

/// The task that listens. It ends with the store.
#[derive(Default)]
pub(super) struct News(OnceLock<AbortOnDropHandle<()>>);

impl News {
    /// Begins to listen, unless that has begun already, or the server is no Redis process.
    pub(super) fn start(&self, server: &Arc<Runner>, here: &Arc<Knowledge>) {
        let Line::Connected(connection) = &server.line else { return };
        self.0.get_or_init(|| {
            let listener = Listener {
                connection: Arc::clone(connection),
                server: Arc::clone(server),
                here: Arc::clone(here),
                waiting: Waiting::default(),
                reported: None,
            };
            AbortOnDropHandle::new(tokio::spawn(listener.run()))
        });
    }
}

struct Listener {
    connection: Arc<Connection>,
    server: Arc<Runner>,
    here: Arc<Knowledge>,
    waiting: Waiting,
    /// Why no news passes, if that was logged.
    reported: Option<Why>,
}

impl Listener {
    async fn run(mut self) {
        let [mut wait, longest] = WAITS;
        let mut known = None;
        loop {
            let in_use = self.connection.generation();
            if known != in_use {
                (wait, known) = (WAITS[0], in_use);
            }
            if let Some(number) = in_use {
                match self.subscribe().await {
                    Ok(subscription) => {
                        wait = WAITS[0];
                        self.listen(subscription, number).await;
                    }
                    Err(why) => {
                        wait = if why.advice == Some(GRANT) { longest } else { wait * 2 };
                        wait = wait.min(longest);
                        self.report_failure(why);
                    }
                }
            }
            sleep(wait).await;
        }
    }

    /// Subscribes, and checks that this replica may publish its own news.
    async fn subscribe(&mut self) -> Result<Subscription, Why> {
        let advised = |why: Why| match &*why.text {
            "NOPERM" => Why { advice: Some(GRANT), ..why },
            _ => why,
        };
        let subscription = self.connection.subscribe(CHANNEL).await.map_err(advised)?;
        let mut nothing = cmd("PUBLISH");
        nothing.arg(CHANNEL).arg("");
        match self.connection.ask_aside(&nothing).await {
            Err(Failure::Refused(why)) => self.report_failure(advised(why)),
            _ => {
                if self.reported.take().is_some() {
                    tracing::info!("news passes between the replicas again");
                }
            }
        }
        Ok(subscription)
    }

    fn report_failure(&mut self, why: Why) {
        if self.reported.as_ref() != Some(&why) {
            let Why { text: why, advice } = &why;
            tracing::warn!(
                why,
                advice,
                "news does not pass between the replicas: an answer from memory may be older than another \
                 replica's, within max_age"
            );
        }
        self.reported = Some(why);
    }

    /// Reads orders again until the subscription is lost, or the calls use another connection.
    async fn listen(&mut self, mut subscription: Subscription, number: u64) {
        self.waiting.being_read.clear();
        // What was missed before the subscription, as far as that is cheap to find out.
        for order in self.here.recent.open_orders(LOOKED_AT) {
            self.waiting.add(&order);
        }
        let mut reads = FuturesUnordered::new();
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while let Some(order) = self.waiting.next() {
                reads.push(read_again(Arc::clone(&self.server), Arc::clone(&self.here), order));
            }
            tokio::select! {
                message = subscription.next() => match message {
                    Some(message) => self.hear(&message),
                    None => return,
                },
                Some(order) = reads.next() => self.waiting.done(&order),
                _ = look.tick() => {
                    if self.connection.generation().is_some_and(|in_use| in_use != number) {
                        return;
                    }
                }
            }
        }
    }

    fn hear(&mut self, message: &[u8]) {
        if let Some((observed, order)) = parse(message)
            && self.here.holds_another(order, observed)
        {
            self.waiting.add(order);
        }
    }
}

impl Knowledge {
    /// Whether this replica holds another state of an order, which can still change.
    fn holds_another(&self, order: &str, observed: &str) -> bool {
        let held = self.recent.look(order).filter(|held| !held.terminal);
        held.is_some_and(|held| sortable(held.decode().observe_time) != observed)
    }
}

/// Reads an order into this replica's memory. A failure leaves it as it is, until the next news or question.
/// Returns the order.
async fn read_again(server: Arc<Runner>, here: Arc<Knowledge>, order: OrderKey) -> OrderKey {
    let input = Input::default().key("order", &order).longest();
    if let Ok(answer) = server.run(&scripts::GET, input).await {
        let (found, bytes, _, _): (u8, Option<Vec<u8>>, Vec<u64>, u64) = answer;
        here.learn(&order, found, bytes.as_deref());
    }
    order
}

/// When a state was observed, and the order's text, in a message.
fn parse(message: &[u8]) -> Option<(&str, &str)> {
    let (observed, order) = std::str::from_utf8(message).ok()?.split_once(' ')?;
    let is_time = observed.len() == 30 && observed.bytes().all(|digit| digit.is_ascii_digit());
    (is_time && !order.is_empty()).then_some((observed, order))
}

/// The orders that wait to be read again, each once; the first one comes first.
struct Waiting {
    orders: LruCache<Box<str>, ()>,
    /// The orders that are being read now, and whether there was news of each meanwhile.
    being_read: HashMap<OrderKey, bool>,
    /// Whether it was logged that news was dropped.
    was_full: bool,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { orders: LruCache::unbounded(), being_read: HashMap::new(), was_full: false }
    }
}

impl Waiting {
    fn add(&mut self, order: &str) {
        if self.orders.contains(order) {
            return;
        }
        if let Some(again) = self.being_read.get_mut(&OrderKey::from(order)) {
            *again = true;
        } else if self.orders.len() < MOST_WAITING {
            self.orders.push(order.into(), ());
        } else if !self.was_full {
            self.was_full = true;
            tracing::warn!(
                "too much news from other replicas at one time: some is dropped, and an answer from memory may \
                 be older than theirs, within max_age"
            );
        }
    }

    /// The next order to read, unless enough of them are being read.
    fn next(&mut self) -> Option<OrderKey> {
        if self.being_read.len() >= CONCURRENCY {
            return None;
        }
        let (order, ()) = self.orders.pop_lru()?;
        let order = OrderKey::from(order);
        self.being_read.insert(order.clone(), false);
        Some(order)
    }

    /// An order was read.
    fn done(&mut self, order: &OrderKey) {
        if self.being_read.remove(order) == Some(true) {
            self.add(order.as_str());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_time_and_an_order_are_news() {
        let time = "922337203854775808002147483648";
        assert_eq!(parse(format!("{time} a order: b").as_bytes()), Some((time, "a order: b")));
        assert_eq!(sortable(None).len(), time.len());
        let short = &time[1..];
        for garbage in
            ["", " ", time, &format!("{time} "), &format!("{short} a"), &format!("x{short} a")]
        {
            assert_eq!(parse(garbage.as_bytes()), None, "{garbage}");
        }
        assert_eq!(parse(&[0xff; 99]), None);
    }

    #[test]
    fn orders_wait_once_and_in_turn_and_only_so_many() {
        let mut waiting = Waiting::default();
        for n in 0..2 * MOST_WAITING {
            waiting.add(&n.to_string());
            waiting.add("0");
        }
        assert_eq!(waiting.orders.len(), MOST_WAITING);
        for n in 0..MOST_WAITING {
            let order = waiting.next().unwrap();
            assert_eq!(order.as_str(), n.to_string());
            waiting.done(&order);
        }
        assert_eq!(waiting.next(), None);
    }

    #[test]
    fn an_order_is_read_once_at_a_time_and_again_after_news() {
        let mut waiting = Waiting::default();
        for n in 0..=CONCURRENCY {
            waiting.add(&n.to_string());
        }
        let reads: Vec<_> = (0..CONCURRENCY).map(|_| waiting.next().unwrap()).collect();
        assert_eq!(waiting.next(), None, "so many are being read");
        waiting.add("1");
        waiting.add("1");
        waiting.done(&reads[0]);
        assert_eq!(waiting.next(), Some(CONCURRENCY.to_string().into()));
        waiting.done(&reads[2]);
        assert_eq!(waiting.next(), None, "1 is still being read");
        waiting.done(&reads[1]);
        assert_eq!(waiting.next(), Some("1".into()));
        waiting.done(&"1".into());
        assert_eq!(waiting.next(), None);
    }
}
