//! What this replica itself knows of the shared store's data. It counts the calls that it has sent, and
//! it can publish all of this again where the server may have lost it. Used by the store and its fence.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::super::cache::{Cache, Encoded};
use super::super::ledger::Fact;
use super::super::slots::Pause;
use super::connection::Failure;
use super::scripts::{self, Input, Runner, Script, millis};
use crate::clock::Clock;
use crate::providers::Token;
use crate::store::{Call, Memory};

/// How many scripts publish at one time.
const CONCURRENCY: usize = 64;

/// How many slots one script publishes: the server answers nobody while it runs.
const BATCH: usize = 500;

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

    /// Publishes everything: slots that are in use, pauses, tokens and terminal orders. Publishing twice
    /// has the same effect as publishing once.
    ///
    /// # Errors
    /// The first failure; then the server may have a part of it.
    pub(super) async fn publish(&self, server: &Runner) -> Result<(), Failure> {
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
                inputs.push((LazyLock::force(&scripts::RESTORE), restored_slots(&window, batch)));
            }
        }
        let orders = self.recent.terminal();
        inputs.extend(
            orders.iter().map(|order| (LazyLock::force(&scripts::PUT), restored_order(order))),
        );
        // In the same order each time, whatever order the maps have: a simulated run repeats.
        inputs.sort_by(|(_, one), (_, other)| one.first_key().cmp(&other.first_key()));
        let run = |(script, input): (&'static Script, Input)| async move {
            let answer: Result<::redis::Value, _> = server.run(script, input).await;
            answer.map(drop)
        };
        let runs: Vec<_> = inputs.into_iter().map(run).collect();
        stream::iter(runs).buffer_unordered(CONCURRENCY).try_collect().await
    }
}

impl Drop for Undecided<'_> {
    fn drop(&mut self) {
        self.knowledge.lock().remove(&self.mark);
    }
}

fn restored_slots(window: &str, slots: &[(String, Duration)]) -> Input {
    let input = Input::default().key("slots", window);
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
