//! What a reachable server refuses, and what to do about it: logged once for each change, by the first
//! word of the server's errors. Used by the connection and by the script runner.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ::redis::RedisError;
use tokio::time::Instant;

/// The longest error word accepted from a server; the server's own words are shorter.
const LONGEST_WORD: usize = 32;

/// What to do about each error word.
const ADVICE: &[(&str, &str)] = &[
    (
        "READONLY",
        "the server is a read-only replica: set store.url to the primary; with Sentinel, wait for \
         the end of the failover",
    ),
    ("NOPERM", "its user lacks a permission: docs/configuration.md lists the required ones"),
    ("NOAUTH", "put the user and the password into store.url"),
    ("WRONGPASS", "check the user and the password in store.url"),
    (
        "DENIED",
        "the server answers its own machine only: set a password on it, or turn protected-mode \
         off",
    ),
    (
        "NOREPLICAS",
        "the server has fewer replicas than min-replicas-to-write requires: restore them",
    ),
    ("MISCONF", "the server cannot save to its disk: its own log has the reason"),
    ("OOM", "the server's memory is full: raise maxmemory"),
    ("LOADING", "the server is still loading its data: wait"),
    (
        "MASTERDOWN",
        "the server is a replica that has lost its primary: set store.url to the primary",
    ),
    (
        "CLUSTERDOWN",
        "nodes of the cluster are lost: restore them, or wait until copies have replaced them",
    ),
    ("CROSSSLOT", CLUSTER),
    ("MOVED", CLUSTER),
    ("ASK", CLUSTER),
    ("TRYAGAIN", MOVING),
    ("BUSY", "another program's script blocks the server: SCRIPT KILL ends it"),
];

const CLUSTER: &str = "the server is a node of a cluster: write redis-cluster:// in store.url";

const MOVING: &str = "keys are moving to another node of the cluster: wait until they have moved";

/// How long a refusal stands if it is neither repeated nor withdrawn: its script may run rarely.
const STANDS_FOR: Duration = Duration::from_mins(1);

/// The start of Redis 7.0's error for a script that uses a command its user may not run; later versions
/// use the word `NOPERM`.
const UNWORDED_NOPERM: &str = "The user executing the script can't run this command";

/// Words about the value of one key, and not about the server.
const OF_A_KEY: [&str; 2] = ["GARBAGE", "WRONGTYPE"];

/// Why something failed, in a text that contains none of our data, and what to do if that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Why {
    pub(super) text: String,
    pub(super) advice: Option<&'static str>,
}

impl Why {
    /// Creates a failure for which the server has no word.
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), advice: None }
    }

    /// Creates a failure for which the server has no word, with what to do.
    pub(super) fn advised(text: impl Into<String>, advice: &'static str) -> Self {
        Self { text: text.into(), advice: Some(advice) }
    }

    /// Describes the library's error by its kind, or by the server's word. The server's full text may
    /// quote the data we sent.
    pub(super) fn of(error: &RedisError) -> Self {
        let unworded = |text: &str| text.starts_with(UNWORDED_NOPERM);
        let is_noperm = error.detail().is_some_and(unworded);
        match error.code().map(|code| if is_noperm { "NOPERM" } else { code }) {
            Some(code) => {
                let letters = code.chars().filter(char::is_ascii_uppercase);
                let word: String = letters.take(LONGEST_WORD).collect();
                let row = ADVICE.iter().find(|(known, _)| *known == word);
                Self { text: word, advice: row.map(|(_, advice)| *advice) }
            }
            None if error.is_connection_refusal() => Self::new("connection refused"),
            None if error.is_timeout() => Self::new("no answer in time"),
            None => Self::new(error.category()),
        }
    }

    /// The address is already that of a cluster.
    pub(super) fn in_cluster(self) -> Self {
        let advice = self.advice.map(|advice| if advice == CLUSTER { MOVING } else { advice });
        Self { advice, ..self }
    }

    /// Adds which step failed.
    pub(super) fn at(self, what: &str) -> Self {
        Self { text: format!("{what}: {}", self.text), ..self }
    }
}

/// The scripts that the server refuses now, by hash: with the error word, and the time of the last
/// refusal.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    any: AtomicBool,
    now: Mutex<HashMap<&'static str, (String, Instant)>>,
}

impl Refusals {
    /// Records that the server refused a script. Logs it, unless that word is already logged for
    /// another script.
    pub(super) fn refused(&self, script: &'static str, why: &Why) {
        if OF_A_KEY.contains(&why.text.as_str()) {
            return;
        }
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.retain(|_, (_, last)| last.elapsed() < STANDS_FOR);
        let said = now.values().any(|(word, _)| *word == why.text);
        now.insert(script, (why.text.clone(), Instant::now()));
        self.any.store(true, Ordering::Relaxed);
        if !said {
            let Why { text: why, advice } = why;
            tracing::warn!(why, advice, "the shared store refuses commands");
        }
    }

    /// Records that the server ran a script. Logs it if that was the last refused one.
    pub(super) fn ran(&self, script: &'static str) {
        if !self.any.load(Ordering::Relaxed) {
            return;
        }
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let was_refused = now.remove(script).is_some();
        now.retain(|_, (_, last)| last.elapsed() < STANDS_FOR);
        if was_refused && now.is_empty() {
            self.any.store(false, Ordering::Relaxed);
            tracing::info!("the shared store accepts commands again");
        }
    }
}
