//! What this replica itself knows of the shared store's data. It counts the calls that it has sent, and
//! it can publish all of this again where the server may have lost it. Used by the store and its fence.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::future::ready;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use prost::Message as _;

use super::super::cache::{Cache, Encoded};
use super::super::ledger::Fact;
use super::super::slots::Pause;
use super::connection::Failure;
use super::scripts::{self, Input, Runner, Script, millis};
use crate::clock::Clock;
use crate::pb::Order;
use crate::providers::Token;
use crate::store::{Call, Memory, OrderKey, newer};

/// How many scripts publish at one time.
const CONCURRENCY: usize = 64;

/// How many slots one script publishes: the server answers nobody while it runs.
const BATCH: usize = 500;

/// How a script reports a value that it read: missing, found, or garbage. Only a found value in its
/// answer is valid.
pub(super) const NOTHING: u8 = 0;
/// See [`NOTHING`].
pub(super) const FOUND: u8 = 1;

/// What this replica knows.
pub(super) struct Knowledge {
    /// The calls that this replica has sent, by its own clock.
    pub(super) own: Memory,
    /// The marks of calls that the server has not decided yet: their slots are not published, or the
    /// server would take them for calls that it has admitted.
    undecided: Mutex<HashSet<String>>,
    /// The pauses that it has stored and the tokens that it has used. They decide nothing here: another
    /// replica may have changed them since.
    pub(super) noted: Memory,
    /// Orders that it has put or got recently: they are known without asking the server, and while it is
    /// unreachable.
    pub(super) recent: Cache,
    garbage_seen: AtomicBool,
    clock: Arc<dyn Clock>,
}

/// A call that the server has not decided yet.
pub(super) struct Undecided<'a> {
    knowledge: &'a Knowledge,
    mark: String,
}

impl Knowledge {
    /// Knows nothing yet; up to `cache_bytes` of orders are held.
    pub(super) fn new(cache_bytes: usize, clock: Arc<dyn Clock>) -> Self {
        Self {
            own: Memory::new(0, Arc::clone(&clock)),
            undecided: Mutex::default(),
            noted: Memory::new(0, Arc::clone(&clock)),
            recent: Cache::new(cache_bytes),
            garbage_seen: AtomicBool::default(),
            clock,
        }
    }

    /// The server is about to decide on a call, until the result is dropped.
    pub(super) fn undecided(&self, call: &Call) -> Undecided<'_> {
        let mark = call.mark();
        self.lock().insert(mark.clone());
        Undecided { knowledge: self, mark }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.undecided.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the state that the server holds, if there is one. A terminal state from the server always
    /// wins; its other states may be out of date, or it may have lost a state known here. Returns the state
    /// that is known afterwards; `None` if the server holds none.
    pub(super) fn learn(&self, order: &OrderKey, found: u8, bytes: Option<&[u8]>) -> Option<Order> {
        let state = self.read(found, bytes)?;
        let now = self.clock.now();
        Some(self.recent.update(order.as_str(), state, |state, known| {
            newer(state, known, now) || state.terminal && !known.terminal
        }))
    }

    /// Decodes the bytes of a snapshot. Garbage counts as unknown; the next state replaces it.
    fn read(&self, found: u8, bytes: Option<&[u8]>) -> Option<Order> {
        let there = bytes.filter(|_| found == FOUND);
        let state = there.and_then(|bytes| Order::decode(bytes).ok());
        if !matches!(found, NOTHING | FOUND) || there.is_some() && state.is_none() {
            self.log_garbage("order");
        }
        state
    }

    pub(super) fn log_garbage(&self, what: &str) {
        if !self.garbage_seen.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                what,
                "the shared store holds a value that order-query did not write; it is ignored"
            );
        }
    }

    /// Publishes everything for that epoch: slots that are in use, pauses, tokens and terminal orders.
    /// Publishing twice has the same effect as publishing once. Returns whether the epoch's servers have all
    /// slots: this replica may still speak to another one.
    ///
    /// # Errors
    /// The first failure; then the server may have a part of it.
    pub(super) async fn publish(&self, server: &Runner, epoch: &str) -> Result<bool, Failure> {
        let now = self.clock.now();
        let left = |at: SystemTime| at.duration_since(now).unwrap_or_default();
        let mut inputs: Vec<(&'static Script, Input)> = Vec::new();
        let mut windows: HashMap<String, Vec<(String, Duration)>> = HashMap::new();
        let facts = self.own.facts().into_iter().chain(self.noted.facts());
        // Read after the facts: a call that begins in between is in neither.
        let undecided = self.lock().clone();
        for fact in facts {
            match fact {
                Fact::Slot { window, call, free_at: Some(free_at) }
                    if !undecided.contains(&call) =>
                {
                    windows.entry(window).or_default().push((call, left(free_at)));
                }
                Fact::Pause { account, pause: Some(pause) } => {
                    inputs.push((
                        LazyLock::force(&scripts::PAUSE),
                        restored_pause(&account, pause, left(pause.until)),
                    ));
                }
                Fact::Token { identity, token: Some(token) } if token.renew_at > now => {
                    let input = restored_token(&identity, &token, left(token.renew_at));
                    inputs.push((LazyLock::force(&scripts::SAVE), input));
                }
                Fact::Slot { .. } | Fact::Pause { .. } | Fact::Token { .. } => {}
            }
        }
        for (window, slots) in windows {
            for batch in slots.chunks(BATCH) {
                let input = restored_slots(&window, epoch, batch);
                inputs.push((LazyLock::force(&scripts::RESTORE), input));
            }
        }
        let orders = self.recent.terminal();
        inputs.extend(
            orders.iter().map(|order| (LazyLock::force(&scripts::PUT), restored_order(order))),
        );
        // In the same order each time, whatever order the maps have: a simulated run repeats.
        inputs.sort_by(|(_, one), (_, other)| one.first_key().cmp(&other.first_key()));
        let run = |(script, input): (&'static Script, Input)| async move {
            let is_restored = std::ptr::eq(script, LazyLock::force(&scripts::RESTORE));
            let answer: ::redis::Value = server.run(script, input).await?;
            Ok::<_, Failure>(!is_restored || answer == ::redis::Value::Int(1))
        };
        let runs: Vec<_> = inputs.into_iter().map(run).collect();
        stream::iter(runs).buffer_unordered(CONCURRENCY).try_all(ready).await
    }
}

impl Drop for Undecided<'_> {
    fn drop(&mut self) {
        self.knowledge.lock().remove(&self.mark);
    }
}

fn restored_slots(window: &str, epoch: &str, slots: &[(String, Duration)]) -> Input {
    let input = Input::default().key("slots", window).fence().argument(epoch);
    slots.iter().fold(input, |input, (call, left)| input.argument(call).argument(millis(*left)))
}

fn restored_pause(account: &str, pause: Pause, left: Duration) -> Input {
    let input = Input::default().key("closed", account).argument(millis(left));
    input.argument(millis(pause.probe_every)).argument(1)
}

fn restored_token(identity: &str, token: &Token, left: Duration) -> Input {
    let input = Input::default().key("token", identity).argument(token.value.expose());
    input.argument(millis(left)).argument(1)
}

fn restored_order((order, state): &(Box<str>, Encoded)) -> Input {
    Input::default().key("order", order).state(Some(&state.decode()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn only_a_found_reply_is_decoded_as_an_order() {
        let knowledge = Knowledge::new(0, Arc::new(SystemClock));
        let order = Order { terminal: true, ..Order::default() };
        let bytes = order.encode_to_vec();
        for (found, read) in [(0, None), (FOUND, Some(order)), (2, None), (255, None)] {
            assert_eq!(knowledge.read(found, Some(&bytes)), read, "{found}");
            assert_eq!(knowledge.read(found, None), None, "{found}");
        }
    }
}
