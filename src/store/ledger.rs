//! What the vendors' rules need remembered besides orders: spent calls, closed accounts and
//! tokens. Used by the stores that hold them in this process.
//!
//! A method decides and changes nothing: it returns the facts that are to be noted, and
//! [`Ledger::set`] notes one. So a store can write facts to a disk before anyone acts on them, and
//! take them back where that fails.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use super::ends::{self, LONGEST_PERIOD, LONGEST_TOKEN};
use super::slots::{Closure, Slots};
use super::{Call, Known, Take, Window};
use crate::pb::Order;
use crate::providers::Token;

/// How many windows may be held before those without a slot are looked for and dropped.
const SWEEP_AT: usize = 10_000;

/// What a slot takes besides its window's key and its mark, in bytes, about: most windows are those of
/// single orders, and hold few.
const SLOT_OVERHEAD: usize = 600;

/// One thing that is remembered; `None` where it is not, or no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fact {
    /// When the slot of the call of that mark is free again.
    Slot { window: String, call: String, free_at: Option<SystemTime> },
    /// That an account is closed.
    Closure { account: String, closure: Option<Closure> },
    /// An identity's access token.
    Token { identity: String, token: Option<Token> },
}

impl Fact {
    /// That an account is closed from now on.
    pub(super) fn closed(account: &str, wait: Duration, probe: bool, now: SystemTime) -> Vec<Self> {
        let closure = Some(Closure::new(wait, probe, now));
        vec![Self::Closure { account: account.to_owned(), closure }]
    }

    /// That this is the identity's token.
    pub(super) fn token(identity: &str, token: &Token) -> Vec<Self> {
        vec![Self::Token { identity: identity.to_owned(), token: Some(token.clone()) }]
    }
}

/// Spent calls, closed accounts and tokens.
#[derive(Debug)]
pub(super) struct Ledger {
    windows: HashMap<String, Slots>,
    closures: HashMap<String, Closure>,
    tokens: HashMap<String, Token>,
    sweep_at: usize,
    bytes: usize,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            windows: HashMap::new(),
            closures: HashMap::new(),
            tokens: HashMap::new(),
            sweep_at: SWEEP_AT,
            bytes: 0,
        }
    }
}

impl Ledger {
    /// What is known of an order, with what is spent of its window.
    pub(super) fn known(
        &self,
        state: Option<Order>,
        window: Option<&str>,
        now: SystemTime,
    ) -> Option<Known> {
        let slots = window.and_then(|window| self.windows.get(window));
        let known = Known { state, spent: slots.map(|s| s.spent(now)).unwrap_or_default() };
        Some(known).filter(|known| *known != Known::default())
    }

    /// Whether a call may be made.
    pub(super) fn take(&self, call: &Call, now: SystemTime) -> (Take, Vec<Fact>) {
        let (none, mark) = (Slots::default(), call.mark());
        let slots = |key: &String| self.windows.get(key).unwrap_or(&none);
        let full = call.windows.iter().enumerate().filter_map(|(index, window)| {
            Some((slots(&window.key).full_for(window, &mark, now)?, index))
        });
        // Of several full windows the one that is full for longest: before, no call can be made.
        if let Some((wait, index)) = full.max() {
            return (Take::Full(index, wait), Vec::new());
        }
        let mut facts = Vec::new();
        // A call that holds its slots was let through before, and is no second probe.
        let repeated = !call.windows.is_empty()
            && call.windows.iter().all(|window| slots(&window.key).holds(&mark, now));
        // After the windows, because it lets a probe through: that call must also be made.
        if let Some(closure) = self.closures.get(&call.account).filter(|_| !repeated) {
            match closure.knock(now) {
                Err(wait) => return (Take::Closed(wait), Vec::new()),
                Ok(left) => {
                    facts.push(Fact::Closure { account: call.account.clone(), closure: left });
                }
            }
        }
        for window in &call.windows {
            let slots = slots(&window.key);
            facts.extend(slots.over(now).map(|over| slot(&window.key, over, None)));
            let free_at = slots.taken_until(window, call, now);
            facts.push(slot(&window.key, &mark, Some(free_at)));
        }
        (Take::Taken, facts)
    }

    /// The call's answer has come.
    pub(super) fn settle(&self, call: &Call, now: SystemTime) -> Vec<Fact> {
        let mark = call.mark();
        let settled = call.windows.iter().filter_map(|window| {
            let free_at = self.windows.get(&window.key)?.settled(window, &mark, now)?;
            Some(slot(&window.key, &mark, Some(free_at)))
        });
        settled.collect()
    }

    /// The call was never sent.
    pub(super) fn give_back(&self, call: &Call, now: SystemTime) -> Vec<Fact> {
        let mark = call.mark();
        let held = call.windows.iter().filter(|window| {
            self.windows.get(&window.key).is_some_and(|slots| slots.holds(&mark, now))
        });
        held.map(|window| slot(&window.key, &mark, None)).collect()
    }

    /// An account is open, if a probe was let through.
    pub(super) fn reopen(&self, account: &str) -> Vec<Fact> {
        let probing = self.closures.get(account).is_some_and(|closure| closure.probing);
        let open = || Fact::Closure { account: account.to_owned(), closure: None };
        probing.then(open).into_iter().collect()
    }

    /// How many bytes the slots take, about. Closed accounts and tokens are as few as accounts are.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The identity's token.
    pub(super) fn token(&self, identity: &str) -> Option<&Token> {
        self.tokens.get(identity)
    }

    /// A token is no longer good, if it is still this one.
    pub(super) fn drop_token(&self, identity: &str, token: &Token) -> Vec<Fact> {
        let held = self.tokens.get(identity).is_some_and(|held| held.value == token.value);
        let gone = || Fact::Token { identity: identity.to_owned(), token: None };
        held.then(gone).into_iter().collect()
    }

    /// What cannot be true, cut to what can, as far as a key alone tells it: a slot is of the longest
    /// window that there is. Of a token nobody knows when it ends, so it is none.
    pub(super) fn beyond(&self, now: SystemTime) -> Cut {
        let mut cut = Cut::default();
        for (window, slots) in &self.windows {
            cut.slots(window, slots, LONGEST_PERIOD, now);
        }
        for (account, closure) in &self.closures {
            if let Some(beyond) = ends::beyond(closure.until, closure.longest(), now) {
                let closure = Some(Closure { until: now + closure.longest(), ..*closure });
                cut.add(Fact::Closure { account: account.clone(), closure }, beyond);
            }
        }
        for (identity, token) in &self.tokens {
            if let Some(beyond) = ends::beyond(token.renew_at, LONGEST_TOKEN, now) {
                cut.add(Fact::Token { identity: identity.clone(), token: None }, beyond);
            }
        }
        cut
    }

    /// What cannot be true of these windows, cut to what can.
    pub(super) fn beyond_windows(&self, windows: &[Window], now: SystemTime) -> Cut {
        let mut cut = Cut::default();
        for window in windows {
            if let Some(slots) = self.windows.get(&window.key) {
                cut.slots(&window.key, slots, window.period, now);
            }
        }
        cut
    }

    /// The slots that are free again.
    pub(super) fn over(&self, now: SystemTime) -> Vec<Fact> {
        let over = self
            .windows
            .iter()
            .flat_map(|(window, slots)| slots.over(now).map(move |call| slot(window, call, None)));
        over.collect()
    }

    /// The slots that are free again, looked for once there are many windows: some belong to
    /// orders that nobody asks for any more.
    pub(super) fn sweep(&mut self, now: SystemTime) -> Vec<Fact> {
        if self.windows.len() < self.sweep_at {
            return Vec::new();
        }
        // Whatever stays is looked at again when there is twice as much.
        let staying = self.windows.values().filter(|slots| !slots.is_over(now)).count();
        self.sweep_at = SWEEP_AT.max(staying * 2);
        self.over(now)
    }

    /// Notes a fact. What it takes the place of: noting that again undoes it.
    pub(super) fn set(&mut self, fact: Fact) -> Fact {
        match fact {
            Fact::Slot { window, call, free_at } => {
                let slots = self.windows.entry(window.clone()).or_default();
                let before = slots.set(call.clone(), free_at);
                let size = window.len() + call.len() + SLOT_OVERHEAD;
                match (before, free_at) {
                    (None, Some(_)) => self.bytes += size,
                    (Some(_), None) => self.bytes -= size,
                    _ => {}
                }
                if slots.is_empty() {
                    self.windows.remove(&window);
                }
                Fact::Slot { window, call, free_at: before }
            }
            Fact::Closure { account, closure } => {
                let before = put(&mut self.closures, &account, closure);
                Fact::Closure { account, closure: before }
            }
            Fact::Token { identity, token } => {
                let before = put(&mut self.tokens, &identity, token);
                Fact::Token { identity, token: before }
            }
        }
    }
}

/// Times that cannot be true, cut to what can.
#[derive(Debug, Default)]
pub(super) struct Cut {
    pub(super) facts: Vec<Fact>,
    /// By how much a clock was ahead, at least.
    pub(super) ahead: Duration,
}

impl Cut {
    fn add(&mut self, fact: Fact, beyond: Duration) {
        self.facts.push(fact);
        self.ahead = self.ahead.max(beyond);
    }

    fn slots(&mut self, window: &str, slots: &Slots, period: Duration, now: SystemTime) {
        for (call, latest, beyond) in slots.beyond(period, now) {
            self.add(slot(window, call, Some(latest)), beyond);
        }
    }
}

fn slot(window: &str, call: &str, free_at: Option<SystemTime>) -> Fact {
    Fact::Slot { window: window.to_owned(), call: call.to_owned(), free_at }
}

fn put<T>(map: &mut HashMap<String, T>, key: &str, value: Option<T>) -> Option<T> {
    match value {
        Some(value) => map.insert(key.to_owned(), value),
        None => map.remove(key),
    }
}
