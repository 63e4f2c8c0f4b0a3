//! Remembers for the life of the process. Terminal orders and spent calls stay until then; of
//! the other orders only the latest ones, within a bound of bytes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use prost::Message as _;

use super::cache::{self, Cache, Encoded, encoded};
use super::leases::Leases;
use super::ledger::{Fact, Ledger};
use super::{Call, Held, Known, Store, Take, newer};
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
    /// An empty store, for `cache_bytes` of orders that are not terminal.
    #[must_use]
    pub fn new(cache_bytes: usize, clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::default(), open_orders: Cache::new(cache_bytes) }
    }

    fn with<T>(&self, work: impl FnOnce(&mut State, SystemTime) -> T) -> T {
        let now = self.clock.now();
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner), now)
    }

    /// Decides, and notes what that changes.
    fn change<T>(&self, decide: impl FnOnce(&Ledger, SystemTime) -> (T, Vec<Fact>)) -> T {
        self.with(|State { ledger, .. }, now| {
            let (outcome, facts) = decide(ledger, now);
            for fact in facts.into_iter().chain(ledger.sweep(now)) {
                ledger.set(fact);
            }
            outcome
        })
    }

    /// Notes what happened.
    fn note(&self, happened: impl FnOnce(&Ledger, SystemTime) -> Vec<Fact>) {
        self.change(|ledger, now| ((), happened(ledger, now)));
    }
}

#[async_trait]
impl Store for Memory {
    fn glance(&self, order: &str, window: Option<&str>) -> Option<Known> {
        self.with(|all, now| {
            // Only what was encoded here is held.
            let terminal = all.terminal_orders.get(order);
            let terminal = terminal.and_then(|order| Order::decode(&**order).ok());
            let state = terminal.or_else(|| self.open_orders.get(order));
            all.ledger.known(state, window, now)
        })
    }

    async fn recall(&self, order: &str, window: Option<&str>) -> Result<Option<Known>, Error> {
        Ok(self.glance(order, window))
    }

    async fn keep(&self, order: &str, state: &Order) -> Result<(), Error> {
        self.with(|all, now| {
            let terminal = all.terminal_orders.contains_key(order);
            let known = self.open_orders.get(order);
            if terminal || !known.is_none_or(|known| newer(state, &known, now)) {
                return;
            }
            let state_bytes = encoded(state);
            if state.terminal {
                all.terminal_bytes += cache::size(order, &state_bytes);
                all.terminal_orders.insert(order.into(), state_bytes);
                self.open_orders.remove(order);
            } else {
                self.open_orders.put(order, state_bytes);
            }
        });
        Ok(())
    }

    async fn take(&self, call: &Call) -> Result<Take, Error> {
        Ok(self.change(|ledger, now| ledger.take(call, now)))
    }

    async fn settle(&self, call: &Call) -> Result<(), Error> {
        self.note(|ledger, now| ledger.settle(call, now));
        Ok(())
    }

    async fn give_back(&self, call: &Call) -> Result<(), Error> {
        self.note(|ledger, now| ledger.give_back(call, now));
        Ok(())
    }

    async fn close(&self, account: &str, wait: Duration, probe: bool) -> Result<(), Error> {
        self.note(|_, now| Fact::closed(account, wait, probe, now));
        Ok(())
    }

    async fn reopen(&self, account: &str) -> Result<(), Error> {
        self.note(|ledger, _| ledger.reopen(account));
        Ok(())
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

    async fn drop_if(&self, identity: &str, token: &Token) -> Result<(), Error> {
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
