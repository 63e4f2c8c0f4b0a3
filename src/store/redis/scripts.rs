//! The scripts that run in the server, each one atomically. Used by the store; each script's own file
//! describes its arguments and its answer.
//!
//! The server forgets scripts when it restarts or its script cache is flushed; they are then sent
//! again.

use std::fmt::Display;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::redis::{Cmd, FromRedisValue, ToRedisArgs, Value, cmd};

use super::connection::{Connection, Failure, Operation};
use super::keys::{self, FENCE, HashTag};
use super::refusals::Refusals;
use super::server::{self, Server};
use crate::clock::Clock;

/// A script, and the hash that the server knows it by.
pub(super) struct Script {
    code: &'static str,
    hash: String,
}

macro_rules! scripts {
    ($($name:ident $($file:literal)+),+ $(,)?) => {$(
        pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(concat!(include_str!("now.lua"), $(include_str!($file)),+)));
    )+};
}

scripts! {
    PING "ping.lua",
    GET "slots.lua" "snapshot.lua" "get.lua",
    PUT "snapshot.lua" "put.lua",
    RESERVE "slots.lua" "snapshot.lua" "leases.lua" "fence.lua" "reserve.lua",
    FINISH "slots.lua" "snapshot.lua" "leases.lua" "finish.lua",
    CANCEL "leases.lua" "cancel.lua",
    PAUSE "pause.lua",
    SPENT "slots.lua" "spent.lua",
    LEASE "leases.lua" "lease.lua",
    SAVE "save.lua",
    LOAD "load.lua",
    DELETE_IF "delete_if.lua",
    BEAT "fence.lua" "beat.lua",
    LEAVE "fence.lua" "leave.lua",
    RESTORE "fence.lua" "restore.lua",
    SURVEY "fence.lua" "survey.lua",
    STAMP "fence.lua" "stamp.lua",
}

impl Script {
    fn new(code: &'static str) -> Self {
        Self { code, hash: ::redis::Script::new(code).get_hash().to_owned() }
    }
}

/// The keys and arguments of a script.
#[derive(Default)]
pub(super) struct Input {
    keys: Vec<(&'static str, String)>,
    /// The hash tag of all keys; `None`: that of the first one.
    tag: Option<HashTag>,
    arguments: Vec<Vec<u8>>,
    /// Which argument [`was_run`](Self::was_run) is.
    was_run: Option<usize>,
}

impl Input {
    /// For keys that a cluster keeps together with that tag.
    pub(super) fn at(tag: Option<HashTag>) -> Self {
        Self { tag, ..Self::default() }
    }

    pub(super) fn key(mut self, kind: &'static str, name: &(impl Display + ?Sized)) -> Self {
        self.keys.push((kind, name.to_string()));
        self
    }

    /// Adds the key of the [fence](super::fence), or of its stamp at the tag of this input.
    pub(super) fn fence(self) -> Self {
        self.key(FENCE, "")
    }

    pub(super) fn argument(mut self, argument: impl ToRedisArgs) -> Self {
        self.arguments.extend(argument.to_redis_args());
        self
    }

    pub(super) fn first_key(&self) -> Option<&(&'static str, String)> {
        self.keys.first()
    }

    /// Adds whether the server has run this script before: 1, and 0 if it does not know the script.
    pub(super) fn was_run(mut self) -> Self {
        self.was_run = Some(self.arguments.len());
        self.argument(1)
    }

    /// The server does not know the script.
    fn is_first(&mut self) {
        if let Some(argument) = self.was_run.and_then(|at| self.arguments.get_mut(at)) {
            *argument = b"0".to_vec();
        }
    }

    /// Builds the command `name` for a script.
    fn command(&self, name: &str, script: &str, is_cluster: bool) -> Cmd {
        let first = || self.keys.first().and_then(|(kind, name)| HashTag::of(kind, name));
        let tag = if is_cluster { self.tag.or_else(first) } else { None };
        let mut command = cmd(name);
        command.arg(script).arg(self.keys.len());
        for (kind, name) in &self.keys {
            command.arg(keys::named(kind, name, tag, is_cluster));
        }
        command.arg(&self.arguments);
        command
    }
}

/// Where the scripts go.
pub(super) enum Line {
    /// To the server at a URL.
    Connected(Arc<Connection>),
    /// To a server that is no Redis process.
    Given(Arc<dyn Server>),
}

impl Line {
    pub(super) fn is_cluster(&self) -> bool {
        match self {
            Self::Connected(connection) => connection.is_cluster(),
            Self::Given(given) => given.is_cluster(),
        }
    }

    /// One hash tag for each primary of a cluster; `None` stands for a single server.
    ///
    /// # Errors
    /// The cluster does not tell its primaries.
    pub(super) async fn tags(&self) -> Result<Vec<Option<HashTag>>, Failure> {
        match self {
            Self::Connected(connection) if connection.is_cluster() => {
                connection.tags().await.map(|tags| tags.into_iter().map(Some).collect())
            }
            _ => Ok(vec![None]),
        }
    }

    /// Every primary has answered.
    pub(super) fn answered(&self) {
        if let Self::Connected(connection) = self {
            connection.answered();
        }
    }

    async fn send(&self, command: &Cmd, operation: &mut Operation) -> Result<Value, Failure> {
        match self {
            Self::Connected(connection) => connection.send(command, operation).await,
            Self::Given(given) => server::send(given.as_ref(), command, operation).await,
        }
    }
}

/// Runs scripts.
pub(super) struct Runner {
    pub(super) line: Line,
    /// Whether the keys are spread over the primaries of a cluster.
    pub(super) is_cluster: bool,
    /// For tests: the clock that replaces the server's.
    pub(super) time: OnceLock<Arc<dyn Clock>>,
    pub(super) refusals: Refusals,
}

impl Runner {
    /// Runs a script.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        script: &'static Script,
        input: Input,
    ) -> Result<T, Failure> {
        self.run_noting(script, input, &mut Operation::new()).await
    }

    /// Runs a script, and notes in `operation` whether it may have run if it fails.
    pub(super) async fn run_noting<T: FromRedisValue>(
        &self,
        script: &'static Script,
        mut input: Input,
        operation: &mut Operation,
    ) -> Result<T, Failure> {
        let time = self.time.get().map(|clock| millis_since_1970(clock.now()).to_string());
        input.arguments.insert(0, time.unwrap_or_default().into_bytes());
        input.was_run = input.was_run.map(|at| at + 1);
        let known = input.command("EVALSHA", &script.hash, self.is_cluster);
        let answer = match self.line.send(&known, operation).await {
            Err(Failure::NoScript) => {
                input.is_first();
                let whole = input.command("EVAL", script.code, self.is_cluster);
                self.line.send(&whole, operation).await
            }
            answer => answer,
        };
        match &answer {
            Ok(_) => self.refusals.ran(&script.hash),
            Err(Failure::Refused(why)) => self.refusals.refused(&script.hash, why),
            Err(_) => {}
        }
        T::from_redis_value(answer?).map_err(|_| {
            operation.in_doubt = true;
            Failure::Unreadable
        })
    }
}

/// Whole milliseconds, rounded up: a limit is never shorter than required. Capped at a century, so that
/// the scripts' sums stay exact.
pub(super) fn millis(span: Duration) -> u64 {
    const CENTURY: u64 = 100 * 365 * 24 * 60 * 60 * 1000;
    let whole = u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    whole.min(CENTURY)
}

fn millis_since_1970(time: SystemTime) -> u128 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::news::CHANNEL;
    use super::*;

    /// The commands that a script must be allowed to use.
    fn commands(script: &Script) -> BTreeSet<&'static str> {
        commands_after("redis.call('", script)
    }

    /// The commands that a script tries, and can do without.
    fn tried(script: &Script) -> BTreeSet<&'static str> {
        commands_after("redis.pcall('", script)
    }

    fn commands_after(start: &str, script: &Script) -> BTreeSet<&'static str> {
        let calls = script.code.split(start).skip(1);
        calls.map(|rest| rest.split('\'').next().unwrap()).collect()
    }

    #[test]
    fn the_ping_uses_every_documented_right() {
        let scripts = [
            &GET, &PUT, &RESERVE, &FINISH, &CANCEL, &PAUSE, &SPENT, &LEASE, &SAVE, &LOAD,
            &DELETE_IF, &BEAT, &LEAVE, &RESTORE, &SURVEY, &STAMP,
        ];
        let used: BTreeSet<_> = scripts.iter().flat_map(|script| commands(script)).collect();
        assert_eq!(commands(&PING), used);
        let tried: BTreeSet<_> = scripts.iter().flat_map(|script| tried(script)).collect();
        assert_eq!(&tried - &used, ["INFO", "PUBLISH"].into());
        let document = include_str!("../../../docs/configuration.md");
        let rule = document.split("ACL SETUSER order-query ").nth(1).unwrap();
        let rule = rule.split("```").next().unwrap().replace("\\\n", " ");
        let rights = rule.split_whitespace().filter_map(|word| word.strip_prefix('+'));
        let rights: BTreeSet<_> = rights.map(str::to_uppercase).collect();
        // What is sent without a script.
        let sent = ["EVAL", "EVALSHA", "INFO", "PUBLISH", "SUBSCRIBE"];
        let expected = used.into_iter().chain(tried).chain(sent).map(str::to_owned);
        assert_eq!(rights, expected.collect());
        assert!(rule.split_whitespace().any(|word| word.strip_prefix('&') == Some(CHANNEL)));
        assert!(include_str!("snapshot.lua").contains(&format!("'PUBLISH', '{CHANNEL}'")));
    }
}
