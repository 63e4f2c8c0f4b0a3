//! A Redis cluster of primaries and their copies, on real servers, for one test. Used by the tests of the
//! shared store.
//!
//! Each node has the finished cluster in its `nodes.conf` when it starts, so nodes need not meet. A new
//! primary waits for two seconds before it serves: that is fixed in Redis, and most of the start. A dead
//! primary is replaced in about two seconds.

mod slots;
mod tests;
mod view;

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use tokio::net::TcpSocket;
use tokio::time::Instant;

use self::view::{Row, View};
use crate::support::redis_server::RedisServer;

/// How many slots a cluster has.
pub const SLOTS: u16 = 16_384;

/// How long a change of the cluster may take before the test fails.
const CHANGE_LIMIT: Duration = Duration::from_secs(30);

/// After this the nodes take a silent one for dead.
const NODE_TIMEOUT: Duration = Duration::from_secs(1);

/// What the stores' user needs to find the nodes of a cluster, and to follow a slot that moves.
const MORE_RIGHTS: &[&str] = &["+cluster|slots", "+asking"];

/// What a cluster is made of.
#[derive(Clone, Copy)]
pub struct Layout {
    /// Only more than half of them can replace one that is lost: it takes three.
    pub primaries: usize,
    /// How many copies each primary has.
    pub copies: usize,
    /// Whether a slot that nobody serves makes every node refuse, as is the default of Redis.
    pub full_coverage: bool,
}

impl Default for Layout {
    fn default() -> Self {
        Self { primaries: 3, copies: 1, full_coverage: true }
    }
}

/// How a copy becomes the primary.
#[derive(Clone, Copy)]
pub enum Failover {
    /// The primary waits for the copy; nothing is lost.
    Agreed,
    /// The other primaries agree; the primary is not asked.
    Force,
    /// Nobody is asked.
    Takeover,
}

struct Node {
    id: String,
    server: RedisServer,
    frozen: bool,
    /// Nobody else gets its ports, even while it is down.
    _held: [TcpSocket; 2],
}

impl Node {
    fn is_running(&self) -> bool {
        self.server.runs() && !self.frozen
    }
}

/// A running cluster. Its nodes are numbered: first the primaries, in the order of their slots, then the
/// first copy of each one, then the second.
pub struct RedisCluster {
    nodes: Vec<Node>,
}

impl RedisCluster {
    /// Three primaries with a copy each.
    pub async fn start() -> Self {
        Self::start_as(Layout::default()).await
    }

    /// A cluster of this layout.
    pub async fn start_as(layout: Layout) -> Self {
        let count = layout.primaries * (1 + layout.copies);
        let held: Vec<_> = (0..count).map(|_| [held(), held()]).collect();
        let rows = rows(&layout, &held);
        let starting: Vec<_> = held
            .into_iter()
            .enumerate()
            .map(|(own, held)| {
                let config = config(&layout, port(&held[1]));
                let rows = rows.clone();
                thread::spawn(move || start_node(own, held, &config, &rows))
            })
            .collect();
        let nodes = starting.into_iter().map(|node| node.join().unwrap()).collect();
        let cluster = Self { nodes };
        cluster.wait_whole().await;
        cluster
    }

    /// The URL of the store, which names all nodes, for the user with the fewest rights.
    pub fn url(&self) -> String {
        let at: Vec<_> = (0..self.nodes.len()).map(|node| self.address(node)).collect();
        format!("redis-cluster://order-query:least@{}", at.join(","))
    }

    /// The address of a node.
    pub fn address(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.port(node))
    }

    /// The port of a node.
    pub fn port(&self, node: usize) -> u16 {
        self.nodes[node].server.port
    }

    /// Sends a node a command, as an operator does.
    pub fn say<T: redis::FromRedisValue>(&self, node: usize, words: &[&str]) -> T {
        self.nodes[node].server.say(words)
    }

    /// Sends a node a command that it may refuse.
    pub fn ask(&self, node: usize, words: &[&str]) -> redis::RedisResult<redis::Value> {
        self.nodes[node].server.try_say(words)
    }

    /// Sets another rule for the stores' user, on the running nodes.
    pub fn set_rights(&self, rule: &[&str]) {
        for node in self.running() {
            self.set_rights_of(node, rule);
        }
    }

    /// Sets another rule for the stores' user on one node.
    pub fn set_rights_of(&self, node: usize, rule: &[&str]) {
        self.nodes[node].server.set_rights(rule);
    }

    /// Empties the running primaries, and removes the scripts of all running nodes.
    pub fn clear(&self) {
        for node in self.running() {
            if self.is_primary(node) {
                let () = self.say(node, &["FLUSHALL"]);
            }
            let () = self.say(node, &["SCRIPT", "FLUSH"]);
        }
    }

    /// Kills a node.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].server.kill();
        self.nodes[node].frozen = false;
    }

    /// Restarts a node that was killed, without its data. It knows the cluster as it was.
    pub fn restart(&mut self, node: usize) {
        self.nodes[node].server.restart();
    }

    /// Suspends a node: it keeps its connections, accepts new ones, and answers nothing.
    pub fn freeze(&mut self, node: usize) {
        self.nodes[node].server.stop();
        self.nodes[node].frozen = true;
    }

    /// Resumes it.
    pub fn thaw(&mut self, node: usize) {
        self.nodes[node].server.resume();
        self.nodes[node].frozen = false;
    }

    /// Suspends the copies of a primary, and cuts them off: what it writes from here on dies with it. Returns
    /// them.
    pub fn stall_copies(&mut self, primary: usize) -> Vec<usize> {
        let copies = self.copies_of(primary);
        for copy in &copies {
            self.freeze(*copy);
        }
        // What was sent to them already, they read when they are thawed.
        let _: u8 = self.say(primary, &["CLIENT", "KILL", "TYPE", "replica"]);
        copies
    }

    /// The node that has the keys with this pattern, all of one tag.
    pub fn owner_of(&self, pattern: &str) -> usize {
        let has = |node: &usize| {
            self.is_primary(*node) && !self.say::<Vec<String>>(*node, &["KEYS", pattern]).is_empty()
        };
        self.running().find(has).unwrap_or_else(|| panic!("no running primary has {pattern}"))
    }

    /// Makes a copy the primary, and waits until all running nodes know it.
    pub async fn failover(&self, copy: usize, how: Failover) {
        let words: &[&str] = match how {
            Failover::Agreed => &["CLUSTER", "FAILOVER"],
            Failover::Force => &["CLUSTER", "FAILOVER", "FORCE"],
            Failover::Takeover => &["CLUSTER", "FAILOVER", "TAKEOVER"],
        };
        let () = self.say(copy, words);
        self.wait_promoted(copy).await;
    }

    /// The running copies of a node.
    pub fn copies_of(&self, primary: usize) -> Vec<usize> {
        let follows = |node: &usize| self.own_row(*node).follows == self.nodes[primary].id;
        self.running().filter(follows).collect()
    }

    /// Whether a running node calls itself a primary.
    pub fn is_primary(&self, node: usize) -> bool {
        self.own_row(node).is_primary
    }

    /// Waits until all running nodes take this one for a primary with slots.
    pub async fn wait_promoted(&self, node: usize) {
        let leads = |row: &Row| row.is_primary && row.count() > 0;
        let named = |view: View| view.row(&self.nodes[node].id).is_some_and(leads);
        let all = || self.running().all(|from| self.view(from).is_some_and(named));
        self.until(&format!("node {node} is a primary"), all).await;
    }

    /// Waits until all running nodes take this one for dead.
    pub async fn wait_lost(&self, node: usize) {
        let is_lost = |view: View| view.row(&self.nodes[node].id).is_some_and(|row| row.is_dead);
        let all = || self.running().all(|from| self.view(from).is_some_and(is_lost));
        self.until(&format!("node {node} is lost"), all).await;
    }

    /// Waits until the copies have what their primaries have.
    pub async fn wait_copied(&self) {
        let all = || {
            self.running().filter(|node| self.is_primary(*node)).all(|primary| {
                let end = self.replication(primary, "master_repl_offset");
                let has_all = |copy| self.replication(copy, "slave_repl_offset") == end;
                self.copies_of(primary).into_iter().all(has_all)
            })
        };
        self.until("the copies have all", all).await;
    }

    /// Waits until the running nodes serve all slots, agree about each other, and copy.
    pub async fn wait_whole(&self) {
        self.until("the cluster is whole", || self.is_whole()).await;
    }

    fn is_whole(&self) -> bool {
        let Some(views) = self.running().map(|node| self.view(node)).collect::<Option<Vec<_>>>()
        else {
            return false;
        };
        let ids: Vec<_> = self.running().map(|node| &*self.nodes[node].id).collect();
        let first = views[0].about(&ids);
        let served: u16 = first.iter().map(Row::count).sum();
        served == SLOTS
            && first.len() == ids.len()
            && first.iter().all(|row| row.is_sound)
            && views.iter().all(|view| view.about(&ids) == first)
            && self.running().all(|node| self.is_up(node))
    }

    /// Whether the node serves, and copies if it is a copy.
    fn is_up(&self, node: usize) -> bool {
        let state =
            self.ask(node, &["CLUSTER", "INFO"]).ok().map(redis::from_redis_value::<String>);
        let serves = state.is_some_and(|state| state.unwrap().contains("cluster_state:ok"));
        serves && (self.is_primary(node) || self.replication(node, "master_link_status") == "up")
    }

    /// A field of a node's `INFO replication`; empty without it.
    fn replication(&self, node: usize, field: &str) -> String {
        let info: String = self.say(node, &["INFO", "replication"]);
        let fields = info.lines().filter_map(|line| line.split_once(':'));
        fields.filter(|(name, _)| *name == field).map(|(_, value)| value.to_owned()).collect()
    }

    fn running(&self) -> impl Iterator<Item = usize> {
        (0..self.nodes.len()).filter(|node| self.nodes[*node].is_running())
    }

    /// The cluster as a node sees it; `None` while it does not answer.
    fn view(&self, node: usize) -> Option<View> {
        let answer = self.ask(node, &["CLUSTER", "NODES"]).ok()?;
        Some(View::read(&redis::from_redis_value::<String>(answer).unwrap()))
    }

    /// What a running node says of itself.
    fn own_row(&self, node: usize) -> Row {
        let view = self.view(node).unwrap_or_else(|| panic!("node {node} does not answer"));
        view.row(&self.nodes[node].id).unwrap().clone()
    }

    /// Polls until it happened. The node's own tables are in the failure.
    async fn until(&self, what: &str, mut happened: impl FnMut() -> bool) {
        let deadline = Instant::now() + CHANGE_LIMIT;
        while !happened() {
            if Instant::now() > deadline {
                let mut tables = String::new();
                for node in self.running() {
                    let table: String = self.say(node, &["CLUSTER", "NODES"]);
                    write!(tables, "node {node}:\n{table}").unwrap();
                }
                panic!("not in time: {what}\n{tables}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A free port, which stays ours: the system gives it to nobody while this socket is bound to it, and a
/// server that names it can listen at it.
fn held() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    socket
}

fn port(held: &TcpSocket) -> u16 {
    held.local_addr().unwrap().port()
}

/// The settings of each node.
fn config(layout: &Layout, bus: u16) -> String {
    let coverage = if layout.full_coverage { "yes" } else { "no" };
    // A copy that lags takes over too, and nodes keep the roles that the test gave them. Copies need not
    // wait for others before they begin.
    format!(
        "cluster-enabled yes\ncluster-config-file nodes.conf\ncluster-port {bus}\n\
         cluster-node-timeout {}\ncluster-require-full-coverage {coverage}\n\
         cluster-replica-validity-factor 0\ncluster-allow-replica-migration no\n\
         repl-diskless-sync no\n",
        NODE_TIMEOUT.as_millis(),
    )
}

/// The lines of `nodes.conf`, each with its node's id and role first.
fn rows(layout: &Layout, held: &[[TcpSocket; 2]]) -> Vec<[String; 3]> {
    let first = |index: usize| index * usize::from(SLOTS) / layout.primaries;
    let id = |index: usize| format!("{:040x}", port(&held[index][0]));
    let row = |(own, [held, bus]): (usize, &[TcpSocket; 2])| {
        let at = format!("{} 127.0.0.1:{}@{}", id(own), port(held), port(bus));
        let lead = own % layout.primaries;
        let (role, rest) = if own == lead {
            let slots = format!("{}-{}", first(own), first(own + 1) - 1);
            ("master", format!("- 0 0 {} connected {slots}", own + 1))
        } else {
            ("slave", format!("{} 0 0 {} connected", id(lead), lead + 1))
        };
        [at, role.to_owned(), rest]
    };
    held.iter().enumerate().map(row).collect()
}

fn start_node(own: usize, held: [TcpSocket; 2], config: &str, rows: &[[String; 3]]) -> Node {
    let mut nodes = String::new();
    for (index, [at, role, rest]) in rows.iter().enumerate() {
        let myself = if index == own { "myself," } else { "" };
        writeln!(nodes, "{at} {myself}{role} {rest}").unwrap();
    }
    writeln!(nodes, "vars currentEpoch {} lastVoteEpoch 0", rows.len()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("more.conf"), config).unwrap();
    fs::write(directory.path().join("nodes.conf"), nodes).unwrap();
    let id = rows[own][0].split(' ').next().unwrap().to_owned();
    let server = RedisServer::start_on(port(&held[0]), directory, MORE_RIGHTS);
    Node { id, server, frozen: false, _held: held }
}
