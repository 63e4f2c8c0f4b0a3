//! What leads to a server, and how a new connection is made. Used by the connection.

use std::io;

use ::redis::aio::{ConnectionLike as _, MultiplexedConnection};
use ::redis::cluster_async::ClusterConnection;
use ::redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, RedisError, RedisResult, Value};
use tokio::time::{Instant, timeout_at};

use super::super::refusals::Why;
use super::{Failure, cluster};

/// How many requests may wait to be written. Each waits no longer than an operation may take.
const QUEUE: usize = 1024;

/// What leads to the server.
#[derive(Clone)]
pub(super) enum Link {
    One(MultiplexedConnection),
    /// To all nodes of a cluster: the library renews each of them.
    Cluster(ClusterConnection),
}

impl Link {
    pub(super) async fn send(&mut self, command: &Cmd) -> RedisResult<Value> {
        let answer = match self {
            Self::One(connection) => connection.send_packed_command(command).await,
            Self::Cluster(connection) => connection.req_packed_command(command).await,
        };
        answer.and_then(Value::extract_error)
    }

    /// Sends a command to the server, or to every primary of the cluster.
    pub(super) async fn send_to_all(&mut self, command: &Cmd) -> RedisResult<Vec<Value>> {
        match self {
            Self::One(_) => Ok(vec![self.send(command).await?]),
            Self::Cluster(all) => {
                let mut answers = Vec::new();
                for tag in cluster::tags(all).await? {
                    answers.push(cluster::ask_at(all, tag, command).await?);
                }
                Ok(answers)
            }
        }
    }
}

/// Makes a new connection and sends the greeting on it.
pub(super) async fn open(
    client: &Client,
    greeting: &[Cmd],
    deadline: Instant,
) -> RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(deadline.saturating_duration_since(Instant::now())))
        // Bounded by the caller, together with the wait for a connection.
        .set_response_timeout(None)
        .set_pipeline_buffer_size(QUEUE);
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    for command in greeting {
        answer(&mut connection, command, deadline).await?;
    }
    Ok(connection)
}

/// Sends a command and waits for its answer.
pub(super) async fn answer(
    connection: &mut MultiplexedConnection,
    command: &Cmd,
    deadline: Instant,
) -> RedisResult<Value> {
    let answered = timeout_at(deadline, connection.send_packed_command(command)).await;
    let late = |_| RedisError::from(io::Error::from(io::ErrorKind::TimedOut));
    answered.map_err(late)??.extract_error()
}

/// Waits for an answer until then.
pub(super) async fn bounded<T>(
    deadline: Instant,
    answer: impl Future<Output = RedisResult<T>>,
) -> Result<T, Failure> {
    match timeout_at(deadline, answer).await {
        Ok(answer) => answer.map_err(|error| {
            let is_refusal = is_answer(&error);
            let why = Why::of(&error);
            if is_refusal { Failure::Refused(why) } else { Failure::Gone(why) }
        }),
        Err(_elapsed) => Err(Failure::Gone(Why::new("no answer in time"))),
    }
}

/// Whether the server itself returned this error, and so carried nothing out.
pub(super) fn is_answer(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension)
}
