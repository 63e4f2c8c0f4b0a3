//! Remembers for the life of the process. Terminal orders and spent calls stay until then; of
//! the other orders only the latest ones, within a bound.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use moka::sync::Cache;

use super::slots::{Closure, Slots};
use super::{Call, Known, Store, Take, newer};
use crate::clock::Clock;
use crate::error::Error;
use crate::pb::Order;
use crate::providers::{Token, TokenStore};

/// How many orders are remembered that are not terminal.
const ORDER_LIMIT: u64 = 100_000;

/// How many windows may be held before those without a slot are looked for and dropped.
const SWEEP_AT: usize = 10_000;

/// A store in memory.
pub struct Memory {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    open_orders: Cache<String, Order>,
}

#[derive(Default)]
struct State {
    terminal_orders: HashMap<String, Order>,
    windows: HashMap<String, Slots>,
    sweep_at: usize,
    closures: HashMap<String, Closure>,
    tokens: HashMap<String, Token>,
    leases: HashMap<String, (String, SystemTime)>,
}

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let state = State { sweep_at: SWEEP_AT, ..State::default() };
        Self { clock, state: Mutex::new(state), open_orders: Cache::new(ORDER_LIMIT) }
    }

    fn with<T>(&self, work: impl FnOnce(&mut State, SystemTime) -> T) -> T {
        let now = self.clock.now();
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner), now)
    }

    fn state_of(&self, order: &str) -> Option<Order> {
        let terminal = self.with(|state, _| state.terminal_orders.get(order).cloned());
        terminal.or_else(|| self.open_orders.get(order))
    }

    /// What is known of an order, with what is spent of its window.
    fn known(&self, order: &str, window: Option<&str>) -> Option<Known> {
        let state = self.state_of(order);
        let spent = window.map(|window| {
            self.with(|state, now| {
                let slots = state.windows.get(window).map(Slots::freed).unwrap_or_default();
                slots.into_iter().filter(|free_at| *free_at > now).collect()
            })
        });
        let known = Known { state, spent: spent.unwrap_or_default() };
        Some(known).filter(|known| *known != Known::default())
    }
}

impl State {
    /// Drops windows in which nothing is taken, once there are many.
    fn sweep(&mut self, now: SystemTime) {
        if self.windows.len() >= self.sweep_at {
            self.windows.retain(|_, slots| {
                slots.forget_free(now);
                !slots.is_empty()
            });
            self.sweep_at = SWEEP_AT.max(self.windows.len() * 2);
        }
    }

    fn take(&mut self, call: &Call, now: SystemTime) -> Take {
        for (index, window) in call.windows.iter().enumerate() {
            let slots = self.windows.entry(window.key.clone()).or_default();
            if let Some(wait) = slots.full_for(window, now) {
                return Take::Full(index, wait);
            }
        }
        // Last, because it lets a probe through: whoever is let through must also call.
        let closure = self.closures.get_mut(&call.account);
        if let Some(wait) = closure.and_then(|closure| closure.closed_for(now)) {
            return Take::Closed(wait);
        }
        for window in &call.windows {
            self.windows.entry(window.key.clone()).or_default().take(call, window, now);
        }
        self.sweep(now);
        Take::Taken
    }
}

#[async_trait]
impl Store for Memory {
    fn glance(&self, order: &str, window: Option<&str>) -> Option<Known> {
        self.known(order, window)
    }

    async fn recall(&self, order: &str, window: Option<&str>) -> Result<Option<Known>, Error> {
        Ok(self.known(order, window))
    }

    async fn keep(&self, order: &str, state: &Order) -> Result<(), Error> {
        self.with(|all, _| {
            let terminal = all.terminal_orders.contains_key(order);
            let known = self.open_orders.get(order);
            if terminal || !known.is_none_or(|known| newer(state, &known)) {
            } else if state.terminal {
                all.terminal_orders.insert(order.to_owned(), state.clone());
                self.open_orders.invalidate(order);
            } else {
                self.open_orders.insert(order.to_owned(), state.clone());
            }
        });
        Ok(())
    }

    async fn take(&self, call: &Call) -> Result<Take, Error> {
        Ok(self.with(|state, now| state.take(call, now)))
    }

    async fn settle(&self, call: &Call) -> Result<(), Error> {
        self.with(|state, now| {
            for window in &call.windows {
                if let Some(slots) = state.windows.get_mut(&window.key) {
                    slots.settle(call, window, now);
                }
            }
        });
        Ok(())
    }

    async fn give_back(&self, call: &Call) -> Result<(), Error> {
        self.with(|state, _| {
            for window in &call.windows {
                if let Some(slots) = state.windows.get_mut(&window.key) {
                    slots.give_back(call);
                }
            }
        });
        Ok(())
    }

    async fn close(&self, account: &str, wait: Duration, probe: bool) -> Result<(), Error> {
        self.with(|state, now| {
            state.closures.insert(account.to_owned(), Closure::new(wait, probe, now))
        });
        Ok(())
    }

    async fn reopen(&self, account: &str) -> Result<(), Error> {
        self.with(|state, _| {
            if state.closures.get(account).is_some_and(|closure| closure.probing) {
                state.closures.remove(account);
            }
        });
        Ok(())
    }

    fn is_shared(&self) -> bool {
        false
    }
}

#[async_trait]
impl TokenStore for Memory {
    async fn load(&self, identity: &str) -> Result<Option<Token>, Error> {
        Ok(self.with(|state, _| state.tokens.get(identity).cloned()))
    }

    async fn save(&self, identity: &str, token: &Token) -> Result<(), Error> {
        self.with(|state, _| state.tokens.insert(identity.to_owned(), token.clone()));
        Ok(())
    }

    async fn drop_if(&self, identity: &str, token: &Token) -> Result<(), Error> {
        self.with(|state, _| {
            if state.tokens.get(identity).is_some_and(|kept| kept.value == token.value) {
                state.tokens.remove(identity);
            }
        });
        Ok(())
    }

    async fn lease(&self, what: &str, owner: &str, life: Duration) -> Result<bool, Error> {
        Ok(self.with(|state, now| {
            let held = state.leases.get(what).filter(|(_, until)| *until > now);
            if held.is_some_and(|(holder, _)| holder != owner) {
                return false;
            }
            state.leases.insert(what.to_owned(), (owner.to_owned(), now + life));
            true
        }))
    }

    async fn release(&self, what: &str, owner: &str) -> Result<(), Error> {
        self.with(|state, _| {
            if state.leases.get(what).is_some_and(|(holder, _)| holder == owner) {
                state.leases.remove(what);
            }
        });
        Ok(())
    }
}
