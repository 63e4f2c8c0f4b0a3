//! What the vendors' rules need remembered besides orders: spent calls, paused accounts and
//! tokens. Used by the stores that hold them in this process.
//!
//! A method decides and changes nothing: it returns the facts that are to be noted, and
//! [`Ledger::set`] notes one. So a store can write facts to a disk before anyone acts on them, and
//! take them back where that fails.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use super::ends::{self, LONGEST_PERIOD, LONGEST_TOKEN};
use super::slots::{Pause, Slots};
use super::{AccountKey, Call, Reservation, Window, WindowKey};
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
    /// That an account is paused.
    Pause { account: String, pause: Option<Pause> },
    /// An identity's access token.
    Token { identity: String, token: Option<Token> },
}

impl Fact {
    /// That an account is paused from now on.
    pub(super) fn paused(
        account: &AccountKey,
        wait: Duration,
        probe: bool,
        now: SystemTime,
    ) -> Vec<Self> {
        vec![Self::pause(account, Some(Pause::new(wait, probe, now)))]
    }

    fn pause(account: &AccountKey, pause: Option<Pause>) -> Self {
        Self::Pause { account: account.to_string(), pause }
    }

    /// That this is the identity's token.
    pub(super) fn token(identity: &str, token: &Token) -> Vec<Self> {
        vec![Self::Token { identity: identity.to_owned(), token: Some(token.clone()) }]
    }
}

/// Spent calls, paused accounts and tokens.
#[derive(Debug)]
pub(super) struct Ledger {
    windows: HashMap<String, Slots>,
    pauses: HashMap<String, Pause>,
    tokens: HashMap<String, Token>,
    sweep_at: usize,
    bytes: usize,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            windows: HashMap::new(),
            pauses: HashMap::new(),
            tokens: HashMap::new(),
            sweep_at: SWEEP_AT,
            bytes: 0,
        }
    }
}

impl Ledger {
    /// When each slot that is taken in a window is free again, earliest first.
    pub(super) fn spent(&self, window: &WindowKey, now: SystemTime) -> Vec<SystemTime> {
        self.slots(window).map(|slots| slots.spent(now)).unwrap_or_default()
    }

    fn slots(&self, window: &WindowKey) -> Option<&Slots> {
        self.windows.get(window.as_str())
    }

    /// Whether a call may be made.
    pub(super) fn reserve(&self, call: &Call, now: SystemTime) -> (Reservation, Vec<Fact>) {
        let (none, mark) = (Slots::default(), call.mark());
        let slots = |key: &WindowKey| self.slots(key).unwrap_or(&none);
        let full = call.windows.iter().enumerate().filter_map(|(index, window)| {
            Some((slots(&window.key).full_for(window, &mark, now)?, index, window.limit))
        });
        // Of several full windows the one that is full for longest: before, no call can be made.
        if let Some((wait, _, limit)) = full.max() {
            return (Reservation::Full(limit, wait), Vec::new());
        }
        let mut facts = Vec::new();
        // A call that holds its slots was admitted before, and is no second probe.
        let repeated = !call.windows.is_empty()
            && call.windows.iter().all(|window| slots(&window.key).holds(&mark, now));
        // After the windows, because it admits a probe: that call must also be made.
        if let Some(pause) = self.pauses.get(call.account.as_str()).filter(|_| !repeated) {
            match pause.admit(now) {
                Err(wait) => return (Reservation::Paused(wait), Vec::new()),
                Ok(left) => facts.push(Fact::pause(&call.account, left)),
            }
        }
        for window in &call.windows {
            let slots = slots(&window.key);
            facts
                .extend(slots.expired(now).map(|expired| slot(window.key.as_str(), expired, None)));
            let free_at = slots.taken_until(window, call, now);
            facts.push(slot(window.key.as_str(), &mark, Some(free_at)));
        }
        (Reservation::Reserved, facts)
    }

    /// The call's answer has come. Where it `resumes` the account, a pause ends whose probe was admitted.
    pub(super) fn finish(&self, call: &Call, resumes: bool, now: SystemTime) -> Vec<Fact> {
        let mark = call.mark();
        let mut facts = Vec::new();
        for window in &call.windows {
            let slots = self.slots(&window.key);
            if let Some(free_at) = slots.and_then(|slots| slots.settled(window, &mark, now)) {
                facts.push(slot(window.key.as_str(), &mark, Some(free_at)));
            }
        }
        let pause = self.pauses.get(call.account.as_str());
        if resumes && pause.is_some_and(|pause| pause.probing) {
            facts.push(Fact::pause(&call.account, None));
        }
        facts
    }

    /// The call was never sent.
    pub(super) fn cancel(&self, call: &Call, now: SystemTime) -> Vec<Fact> {
        let mark = call.mark();
        let held = call
            .windows
            .iter()
            .filter(|window| self.slots(&window.key).is_some_and(|slots| slots.holds(&mark, now)));
        held.map(|window| slot(window.key.as_str(), &mark, None)).collect()
    }

    /// How many bytes the slots take, about. Paused accounts and tokens are as few as accounts are.
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
        for (account, pause) in &self.pauses {
            if let Some(beyond) = ends::beyond(pause.until, pause.longest(), now) {
                let pause = Some(Pause { until: now + pause.longest(), ..*pause });
                cut.add(Fact::Pause { account: account.clone(), pause }, beyond);
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
            if let Some(slots) = self.slots(&window.key) {
                cut.slots(window.key.as_str(), slots, window.period, now);
            }
        }
        cut
    }

    /// The slots that are free again.
    pub(super) fn expired(&self, now: SystemTime) -> Vec<Fact> {
        let expired = self.windows.iter().flat_map(|(window, slots)| {
            slots.expired(now).map(move |call| slot(window, call, None))
        });
        expired.collect()
    }

    /// The slots that are free again, looked for once there are many windows: some belong to
    /// orders that nobody asks for any more.
    pub(super) fn sweep(&mut self, now: SystemTime) -> Vec<Fact> {
        if self.windows.len() < self.sweep_at {
            return Vec::new();
        }
        // Whatever stays is looked at again when there is twice as much.
        let staying = self.windows.values().filter(|slots| !slots.is_expired(now)).count();
        self.sweep_at = SWEEP_AT.max(staying * 2);
        self.expired(now)
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
            Fact::Pause { account, pause } => {
                let before = put(&mut self.pauses, &account, pause);
                Fact::Pause { account, pause: before }
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
