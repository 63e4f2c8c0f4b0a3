//! A server that is no Redis process, for tests that decide what it does and when. `scripts` sends to it
//! in place of a connection.

use std::fmt;

use ::redis::{Cmd, ErrorKind, ServerErrorKind, Value};
use async_trait::async_trait;
use tokio::time::Instant;

use super::connection::{Failure, Operation};
use super::refusals::Why;

/// A server that the scripts are sent to.
#[async_trait]
pub trait Server: Send + Sync {
    /// Whether it stands for a cluster.
    fn is_cluster(&self) -> bool {
        false
    }

    /// Sends `EVALSHA` or `EVAL`, and waits for the answer until `deadline`. What a server refuses is a
    /// [`Value::ServerError`].
    ///
    /// # Errors
    /// No answer has come by then.
    async fn send(&self, command: &Cmd, deadline: Instant) -> Result<Value, Silence>;
}

/// No answer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silence {
    /// Whether the command was sent, so that it may have run.
    pub was_sent: bool,
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no answer in time")
    }
}

impl std::error::Error for Silence {}

/// Sends a command as a connection does.
pub(super) async fn send(
    server: &dyn Server,
    command: &Cmd,
    operation: &mut Operation,
) -> Result<Value, Failure> {
    match server.send(command, operation.deadline).await {
        Ok(answer) => answer.extract_error().map_err(|error| match error.kind() {
            ErrorKind::Server(ServerErrorKind::NoScript) => Failure::NoScript,
            _ => Failure::Refused(Why::of(&error)),
        }),
        Err(silence) => {
            operation.in_doubt |= silence.was_sent;
            Err(Failure::Gone(Why::new("no answer in time")))
        }
    }
}
