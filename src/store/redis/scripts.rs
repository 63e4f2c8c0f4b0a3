//! The scripts that run in the server, each of them whole or not at all. Used by the store; a
//! script's own file says what it takes and answers.
//!
//! The server forgets scripts when it restarts, or is told to: they are sent again then.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::redis::{Cmd, FromRedisValue, ToRedisArgs, cmd};

use super::link::{Errand, Failure, Link};
use crate::clock::Clock;

/// A script, and the name that the server gives it.
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
    TAKE "take.lua",
    SETTLE "settle.lua",
    GIVE_BACK "give_back.lua",
    CLOSE "close.lua",
    REOPEN "reopen.lua",
    KEEP "snapshot.lua" "keep.lua",
    RECALL "snapshot.lua" "recall.lua",
    LEASE "lease.lua",
    SAVE "save.lua",
    LOAD "load.lua",
    DELETE_IF "delete_if.lua",
}

impl Script {
    fn new(code: &'static str) -> Self {
        Self { code, hash: ::redis::Script::new(code).get_hash().to_owned() }
    }
}

/// What a script works on.
#[derive(Default)]
pub(super) struct Input {
    keys: Vec<String>,
    arguments: Vec<Vec<u8>>,
}

impl Input {
    pub(super) fn key(mut self, kind: &str, name: &str) -> Self {
        self.keys.push(format!("order-query:{kind}:{name}"));
        self
    }

    pub(super) fn argument(mut self, argument: impl ToRedisArgs) -> Self {
        self.arguments.extend(argument.to_redis_args());
        self
    }

    /// The command of that name for a script.
    fn command(&self, name: &str, script: &str) -> Cmd {
        let mut command = cmd(name);
        command.arg(script).arg(self.keys.len()).arg(&self.keys).arg(&self.arguments);
        command
    }
}

/// Runs scripts.
pub(super) struct Runner {
    pub(super) link: Arc<Link>,
    /// For tests: whose time counts in place of the server's.
    pub(super) time: Option<Arc<dyn Clock>>,
}

impl Runner {
    /// Runs a script.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        input: Input,
    ) -> Result<T, Failure> {
        self.run_noting(script, input, &mut Errand::new()).await
    }

    /// Runs a script, for someone who must know whether it may have run when it failed.
    pub(super) async fn run_noting<T: FromRedisValue>(
        &self,
        script: &Script,
        mut input: Input,
        errand: &mut Errand,
    ) -> Result<T, Failure> {
        let time = self.time.as_ref().map(|clock| millis_since_1970(clock.now()).to_string());
        input.arguments.insert(0, time.unwrap_or_default().into_bytes());
        let known = input.command("EVALSHA", &script.hash);
        let answer = match self.link.send(&known, errand).await {
            Err(Failure::NoScript) => {
                let whole = input.command("EVAL", script.code);
                self.link.send(&whole, errand).await
            }
            answer => answer,
        };
        T::from_redis_value(answer?).map_err(|_| {
            errand.in_doubt = true;
            Failure::Refused("the answer cannot be read".to_owned())
        })
    }
}

/// Whole milliseconds, rounded up: a limit is never shorter than it must be. At most a century,
/// so that the scripts' sums stay exact.
pub(super) fn millis(span: Duration) -> u64 {
    const CENTURY: u64 = 100 * 365 * 24 * 60 * 60 * 1000;
    let whole = u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    whole.min(CENTURY)
}

fn millis_since_1970(time: SystemTime) -> u128 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}
