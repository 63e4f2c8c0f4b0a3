//! Replays answers without a server. Built with `--cfg fuzzing` only, for the fuzz targets.

use std::cell::RefCell;

use ::redis::{RedisResult, Value, parse_redis_value};

thread_local! {
    static REPLY: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// From now on, every command of this thread gets this reply, in Redis' own protocol, and nothing is
/// sent.
pub fn answer(reply: &[u8]) {
    REPLY.set(Some(reply.to_vec()));
}

/// The replayed answer to a command, if there is one.
pub(super) fn played() -> Option<RedisResult<Value>> {
    REPLY.with_borrow(|reply| reply.as_deref().map(parse_redis_value))
}
