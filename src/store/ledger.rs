//! The state that the vendors' rules need besides orders: spent calls, paused accounts and tokens. Used
//! by the stores that hold this state in this process.
//!
//! Most methods only decide and change nothing: they return the facts to record, and [`Ledger::set`]
//! records one fact. So a store can write facts to a disk before anyone acts on them, and undo them if
//! the write fails.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use super::ends::{self, LONGEST_PERIOD, LONGEST_TOKEN};
use super::slots::{Pause, Slots};
use super::{AccountKey, Call, Reservation, Window, WindowKey};
use crate::providers::Token;

/// How many windows may be held before those without a slot are removed.
const SWEEP_AT: usize = 10_000;

/// The approximate size of a slot besides its window's key and its mark, in bytes: most windows belong
/// to single orders, and hold few slots.
const SLOT_OVERHEAD: usize = 600;

/// One recorded fact; `None` means that it does not exist, or no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fact {
    /// When the slot of the call with that mark becomes free.
    Slot { window: String, call: String, free_at: Option<SystemTime> },
    /// The pause of an account.
    Pause { account: String, pause: Option<Pause> },
    /// An identity's access token.
    Token { identity: String, token: Option<Token> },
}

impl Fact {
    /// The fact that an account is paused from now on.
    pub(super) fn paused(
        account: &AccountKey,
        wait: Duration,
        probe: bool,
        now: SystemTime,
    ) -> Vec<Self> {
        vec![Self::pause(account, Some(Pause::new(wait, probe, now)))]
    }

    /// The fact that an account is not paused.
    pub(super) fn resumed(account: &AccountKey) -> Vec<Self> {
        vec![Self::pause(account, None)]
    }

    fn pause(account: &AccountKey, pause: Option<Pause>) -> Self {
        Self::Pause { account: account.to_string(), pause }
    }

    /// The fact that this is the identity's token.
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
    /// Returns when each used slot in a window becomes free, earliest first.
    pub(super) fn spent(&self, window: Option<&WindowKey>, now: SystemTime) -> Vec<SystemTime> {
        window
            .and_then(|window| self.slots(window))
            .map(|slots| slots.spent(now))
            .unwrap_or_default()
    }

    fn slots(&self, window: &WindowKey) -> Option<&Slots> {
        self.windows.get(window.as_str())
    }

    /// Decides whether a call may be made.
    pub(super) fn reserve(&self, call: &Call, now: SystemTime) -> (Reservation, Vec<Fact>) {
        let (none, mark) = (Slots::default(), call.mark());
        let slots = |key: &WindowKey| self.slots(key).unwrap_or(&none);
        let full = call.windows.iter().enumerate().filter_map(|(index, window)| {
            Some((slots(&window.key).full_for(window, &mark, now)?, index, window.limit))
        });
        // Of several full windows, report the one that stays full longest: no call can be made before
        // that.
        if let Some((wait, _, limit)) = full.max() {
            return (Reservation::Full(limit, wait), Vec::new());
        }
        let mut facts = Vec::new();
        // A call that already holds its slots was admitted before, so it is not a second probe.
        let repeated = !call.windows.is_empty()
            && call.windows.iter().all(|window| slots(&window.key).holds(&mark, now));
        // Checked after the windows, because this admits a probe, and an admitted probe must be sent.
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

    /// The call's answer has arrived. If it `resumes` the account, a pause whose probe was admitted
    /// ends.
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

    /// The approximate size of all slots in bytes. Paused accounts and tokens do not count: there are
    /// as few of them as accounts.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The identity's token.
    pub(super) fn token(&self, identity: &str) -> Option<&Token> {
        self.tokens.get(identity)
    }

    /// Removes a token that is no longer valid, but only if it is still this one.
    pub(super) fn drop_token(&self, identity: &str, token: &Token) -> Vec<Fact> {
        let held = self.tokens.get(identity).is_some_and(|held| held.value == token.value);
        let gone = || Fact::Token { identity: identity.to_owned(), token: None };
        held.then(gone).into_iter().collect()
    }

    /// Cuts impossible times as far as a key alone allows: a slot gets the longest period of all
    /// windows. A token with an impossible time is removed, because its real end is unknown.
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

    /// Cuts impossible times in these windows.
    pub(super) fn beyond_windows(&self, windows: &[Window], now: SystemTime) -> Cut {
        let mut cut = Cut::default();
        for window in windows {
            if let Some(slots) = self.slots(&window.key) {
                cut.slots(window.key.as_str(), slots, window.period, now);
            }
        }
        cut
    }

    /// Everything that still applies.
    pub(super) fn facts(&self, now: SystemTime) -> Vec<Fact> {
        let slots = self.windows.iter().flat_map(|(window, slots)| {
            slots.used(now).map(move |(call, free_at)| slot(window, call, Some(free_at)))
        });
        let pauses = self
            .pauses
            .iter()
            .map(|(account, pause)| Fact::Pause { account: account.clone(), pause: Some(*pause) });
        let tokens = self.tokens.iter().map(|(identity, token)| Fact::Token {
            identity: identity.clone(),
            token: Some(token.clone()),
        });
        slots.chain(pauses).chain(tokens).collect()
    }

    /// The slots that have become free.
    pub(super) fn expired(&self, now: SystemTime) -> Vec<Fact> {
        let expired = self.windows.iter().flat_map(|(window, slots)| {
            slots.expired(now).map(move |call| slot(window, call, None))
        });
        expired.collect()
    }

    /// The slots that have become free, searched only when there are many windows: some belong to
    /// orders that nobody asks for any more.
    pub(super) fn sweep(&mut self, now: SystemTime) -> Vec<Fact> {
        if self.windows.len() < self.sweep_at {
            return Vec::new();
        }
        // Sweep again only when twice as many remain.
        let staying = self.windows.values().filter(|slots| !slots.is_expired(now)).count();
        self.sweep_at = SWEEP_AT.max(staying * 2);
        self.expired(now)
    }

    /// Records a fact. Returns the fact it replaced; recording that one again undoes the change.
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

/// Impossible times, cut to possible ones.
#[derive(Debug, Default)]
pub(super) struct Cut {
    pub(super) facts: Vec<Fact>,
    /// How far a clock was ahead, at least.
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
