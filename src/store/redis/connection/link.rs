//! What leads to the server, or to all nodes of a cluster. Used by the connection.

use ::redis::aio::{ConnectionLike as _, MultiplexedConnection};
use ::redis::cluster_async::ClusterConnection;
use ::redis::{Cmd, RedisResult, Value};

use super::cluster;

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
