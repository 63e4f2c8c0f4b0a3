//! A Redis Cluster. The library finds the node for each command by its keys, follows redirections, and
//! connects again to nodes that were lost. Used by the connection.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::redis::aio::ConnectionLike as _;
use ::redis::cluster::{ClusterClient, ClusterClientBuilder};
use ::redis::cluster_async::ClusterConnection;
use ::redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};
use ::redis::{
    Client, Cmd, ConnectionAddr, RedisConnectionInfo, RedisError, RedisResult, TlsMode, Value, cmd,
    from_redis_value,
};
use tokio::time::{Instant, timeout_at};

use super::super::keys::HashTag;
use super::super::refusals::Why;
use super::OPERATION_LIMIT;
use super::handshake::{answer, is_answer, open};

/// How long a connection to one node may take: meanwhile commands to all nodes wait, and so it is shorter than
/// an operation.
const NODE_LIMIT: Duration = Duration::from_millis(200);

/// How often a command is sent again where keys move or a node is replaced.
const RETRIES: u32 = 4;

/// The shortest and the longest wait before a command is sent again, in milliseconds: all of them together are
/// shorter than an operation, which then tells why.
const RETRY_WAIT: (u64, u64) = (10, 50);

const NOT_A_CLUSTER: &str =
    "write redis:// or rediss:// in store.url for a server that is no cluster";

/// The nodes of a cluster.
pub(super) struct Cluster {
    pub(super) nodes: Vec<Client>,
    client: ClusterClient,
    /// Which node [`any_node`](Self::any_node) gives next.
    next: AtomicUsize,
}

impl Cluster {
    /// `None` if the library refuses the addresses.
    pub(super) fn new(nodes: Vec<Client>, settings: &RedisConnectionInfo) -> Option<Self> {
        let infos: Vec<_> = nodes.iter().map(|node| node.get_connection_info().clone()).collect();
        let is_tls = infos.iter().any(|info| matches!(info.addr(), ConnectionAddr::TcpTls { .. }));
        let infos = infos.into_iter().map(|info| info.set_redis_settings(settings.clone()));
        let (shortest, longest) = RETRY_WAIT;
        let mut builder = ClusterClientBuilder::new(infos)
            .connection_timeout(NODE_LIMIT)
            .response_timeout(OPERATION_LIMIT)
            .overall_response_timeout(None)
            .retries(RETRIES)
            .min_retry_wait(shortest)
            .max_retry_wait(longest);
        if is_tls {
            builder = builder.tls(TlsMode::Secure);
        }
        Some(Self { nodes, client: builder.build().ok()?, next: AtomicUsize::default() })
    }

    /// One of the listed nodes, each in its turn.
    pub(super) fn any_node(&self) -> Option<&Client> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        self.nodes.get(next % self.nodes.len().max(1))
    }

    /// Connects. First one node is asked: the library hides what a node refuses.
    pub(super) async fn connect(
        &self,
        greeting: &[Cmd],
        deadline: Instant,
    ) -> Result<ClusterConnection, Why> {
        let mut problem = Why::default();
        for node in &self.nodes {
            let until = deadline.min(Instant::now() + NODE_LIMIT);
            match asked(node, greeting, until).await {
                Ok(_) => {
                    let connected = timeout_at(deadline, self.client.get_async_connection()).await;
                    let connected = connected.map_err(|_| Why::new("no answer in time"))?;
                    return connected.map_err(|error| Why::of(&error));
                }
                Err(error) => {
                    let is_single = is_single(node, greeting, &error, until).await;
                    problem = if is_single {
                        Why::advised("the server is no cluster", NOT_A_CLUSTER)
                    } else {
                        Why::of(&error)
                    };
                    if is_answer(&error) && !is_single {
                        return Err(problem);
                    }
                }
            }
        }
        Err(problem)
    }
}

/// Asks a node for the slots.
async fn asked(node: &Client, greeting: &[Cmd], deadline: Instant) -> RedisResult<Value> {
    let mut connection = open(node, greeting, deadline).await?;
    answer(&mut connection, &slots(), deadline).await
}

/// Whether a node that gave this error is a server that is no cluster.
async fn is_single(node: &Client, greeting: &[Cmd], error: &RedisError, deadline: Instant) -> bool {
    if error.detail().is_some_and(|detail| detail.contains("cluster support")) {
        return true;
    }
    // The rights that a single server needs do not include the question.
    if error.code() != Some("NOPERM") {
        return false;
    }
    let Ok(mut connection) = open(node, greeting, deadline).await else { return false };
    let mut command = cmd("INFO");
    command.arg("cluster");
    let info =
        answer(&mut connection, &command, deadline).await.and_then(|it| Ok(from_redis_value(it)?));
    info.is_ok_and(|info: String| info.contains("cluster_enabled:0"))
}

fn slots() -> Cmd {
    let mut command = cmd("CLUSTER");
    command.arg("SLOTS");
    command
}

/// One hash tag for each primary that has one.
pub(super) async fn tags(connection: &mut ClusterConnection) -> RedisResult<Vec<HashTag>> {
    let ranges: Vec<(u16, u16, Value)> =
        connection.req_packed_command(&slots()).await.and_then(rows)?;
    let mut primaries: Vec<(Value, HashTag)> = Vec::new();
    for tag in HashTag::all() {
        let slot = slot_of(tag);
        let range = ranges.iter().find(|(first, last, _)| (*first..=*last).contains(&slot));
        if let Some((_, _, primary)) = range
            && primaries.iter().all(|(known, _)| known != primary)
        {
            primaries.push((primary.clone(), tag));
        }
    }
    Ok(primaries.into_iter().map(|(_, tag)| tag).collect())
}

/// The ranges of slots, each with its primary.
fn rows(answer: Value) -> RedisResult<Vec<(u16, u16, Value)>> {
    let rows: Vec<Vec<Value>> = from_redis_value(answer.extract_error()?)?;
    let row = |row: Vec<Value>| {
        let mut row = row.into_iter();
        let (first, last, primary) = (row.next()?, row.next()?, row.next()?);
        Some((from_redis_value(first).ok()?, from_redis_value(last).ok()?, primary))
    };
    Ok(rows.into_iter().filter_map(row).collect())
}

/// Sends a command to the primary that has this tag.
pub(super) async fn ask_at(
    connection: &mut ClusterConnection,
    tag: HashTag,
    command: &Cmd,
) -> RedisResult<Value> {
    let route = Route::with_key(tag.to_string(), SlotAddr::Master);
    let node = RoutingInfo::SingleNode(SingleNodeRoutingInfo::SpecificNode(route));
    connection.route_command(command.clone(), node).await.and_then(Value::extract_error)
}

/// The slot of keys with this tag, of 16,384.
fn slot_of(tag: HashTag) -> u16 {
    let tag = tag.to_string();
    crc16::State::<crc16::XMODEM>::calculate(tag.trim_matches(['{', '}']).as_bytes()) % 16_384
}

#[cfg(test)]
mod tests {
    use ::redis::cluster_routing::Slot;

    use super::*;

    #[test]
    fn a_slot_is_the_one_that_the_library_uses() {
        for tag in HashTag::all() {
            assert_eq!(Slot::new(slot_of(tag)), Some(Slot::for_key(tag.to_string())), "{tag}");
        }
    }
}
