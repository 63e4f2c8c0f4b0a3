//! A store that lasts as long as the process. Terminal orders stay until the process ends, and spent
//! calls for as long as they count; of the other orders only the most recent stay, within a bound of
//! bytes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use super::cache::{self, Cache, Encoded};
use super::leases::Leases;
use super::ledger::{Fact, Ledger};
use super::{
    AccountKey, Call, Held, Known, OrderKey, Outcome, Reservation, Snapshot, Store, WindowKey,
    newer,
};
use crate::clock::Clock;
use crate::error::Error;
use crate::pb::Order;
use crate::providers::{Token, TokenStore};

/// A store in memory.
pub struct Memory {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    open_orders: Cache,
}

#[derive(Default)]
struct State {
    terminal_orders: HashMap<Box<str>, Encoded>,
    terminal_bytes: usize,
    ledger: Ledger,
    leases: Leases,
}

impl Memory {
    /// Creates an empty store with `cache_bytes` for orders that are not terminal.
    #[must_use]
    pub fn new(cache_bytes: usize, clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::default(), open_orders: Cache::new(cache_bytes) }
    }

    fn with<T>(&self, work: impl FnOnce(&mut State, SystemTime) -> T) -> T {
        let now = self.clock.now();
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner), now)
    }

    /// Makes a decision, and records the changes that follow from it.
    fn change<T>(&self, decide: impl FnOnce(&Ledger, SystemTime) -> (T, Vec<Fact>)) -> T {
        self.with(|State { ledger, .. }, now| {
            let (outcome, facts) = decide(ledger, now);
            for fact in facts.into_iter().chain(ledger.sweep(now)) {
                ledger.set(fact);
            }
            outcome
        })
    }

    /// Records facts.
    fn note(&self, happened: impl FnOnce(&Ledger, SystemTime) -> Vec<Fact>) {
        self.change(|ledger, now| ((), happened(ledger, now)));
    }

    /// Returns when each used slot in a window becomes free, earliest first.
    pub(super) fn spent_now(&self, window: Option<&WindowKey>) -> Vec<SystemTime> {
        self.with(|all, now| all.ledger.spent(window, now))
    }

    /// Returns every fact that still applies.
    pub(super) fn facts(&self) -> Vec<Fact> {
        self.with(|all, now| all.ledger.facts(now))
    }

    /// The account is not paused any more.
    pub(super) fn resume(&self, account: &AccountKey) {
        self.note(|_, _| Fact::resumed(account));
    }
}

impl State {
    fn put(&mut self, open_orders: &Cache, order: &OrderKey, state: &Order, now: SystemTime) {
        let order = order.as_str();
        let is_terminal = self.terminal_orders.contains_key(order);
        let known = open_orders.get(order).map(|known| known.decode());
        if is_terminal || !known.is_none_or(|known| newer(state, &known, now)) {
            return;
        }
        let encoded = Encoded::new(state);
        if state.terminal {
            self.terminal_bytes += cache::size(order, &encoded);
            self.terminal_orders.insert(order.into(), encoded);
            open_orders.remove(order);
        } else {
            open_orders.put(order, encoded);
        }
    }
}

#[async_trait]
impl Store for Memory {
    fn snapshot(&self, order: &OrderKey, window: Option<&WindowKey>) -> Snapshot {
        self.with(|all, now| {
            let terminal = all.terminal_orders.get(order.as_str()).cloned();
            let state = terminal.or_else(|| self.open_orders.get(order.as_str()));
            Snapshot { state, spent: all.ledger.spent(window, now) }
        })
    }

    async fn get(
        &self,
        order: &OrderKey,
        window: Option<&WindowKey>,
    ) -> Result<Option<Known>, Error> {
        Ok(self.peek(order, window))
    }

    async fn put(&self, order: &OrderKey, state: &Order) -> Result<(), Error> {
        self.with(|all, now| all.put(&self.open_orders, order, state, now));
        Ok(())
    }

    async fn reserve(&self, call: &Call) -> Result<Reservation, Error> {
        if let Some(lease) = &call.lease {
            let known = self.peek(&lease.order, None);
            if !self.with(|all, now| all.leases.take(lease, known.as_ref(), now)) {
                return Ok(Reservation::Leased);
            }
        }
        let reservation = self.change(|ledger, now| ledger.reserve(call, now));
        if reservation != Reservation::Reserved {
            self.with(|all, _| all.leases.end(call.lease.as_ref()));
        }
        Ok(reservation)
    }

    async fn finish(&self, call: &Call, outcome: Outcome<'_>) -> Result<Vec<SystemTime>, Error> {
        self.note(|ledger, now| ledger.finish(call, outcome != Outcome::Counted, now));
        Ok(self.with(|all, now| {
            if let Outcome::Found(order, state) = outcome {
                all.put(&self.open_orders, order, state, now);
                all.leases.end(call.lease.as_ref());
            }
            all.ledger.spent(call.order_window(), now)
        }))
    }

    async fn cancel(&self, call: &Call) -> Result<(), Error> {
        self.note(|ledger, now| ledger.cancel(call, now));
        Ok(())
    }

    async fn pause(&self, account: &AccountKey, wait: Duration, probe: bool) -> Result<(), Error> {
        self.note(|_, now| Fact::paused(account, wait, probe, now));
        Ok(())
    }

    async fn spent(&self, window: &WindowKey) -> Result<Vec<SystemTime>, Error> {
        Ok(self.spent_now(Some(window)))
    }

    async fn ping(&self) -> Result<(), Error> {
        Ok(())
    }

    fn held(&self) -> Held {
        let cache = self.open_orders.bytes();
        self.with(|all, _| Held {
            cache,
            terminal: all.terminal_bytes,
            spent_calls: all.ledger.bytes(),
        })
    }

    fn is_shared(&self) -> bool {
        false
    }
}

#[async_trait]
impl TokenStore for Memory {
    async fn load(&self, identity: &str) -> Result<Option<Token>, Error> {
        Ok(self.with(|state, _| state.ledger.token(identity).cloned()))
    }

    async fn save(&self, identity: &str, token: &Token) -> Result<(), Error> {
        self.note(|_, _| Fact::token(identity, token));
        Ok(())
    }

    async fn remove_if(&self, identity: &str, token: &Token) -> Result<(), Error> {
        self.note(|ledger, _| ledger.drop_token(identity, token));
        Ok(())
    }

    async fn lease(&self, what: &str, owner: &str, life: Duration) -> Result<bool, Error> {
        Ok(self.with(|state, now| state.leases.lease(what, owner, life, now)))
    }

    async fn release(&self, what: &str, owner: &str) -> Result<(), Error> {
        self.with(|state, _| state.leases.release(what, owner));
        Ok(())
    }
}
