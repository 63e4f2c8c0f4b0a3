//! Redis servers of their own, beside the load: they stand for other machines.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;

use crate::process::Process;
use crate::report::NotMeasured;
use crate::{Result, anywhere};

/// How many slots a cluster has.
const SLOTS: usize = 16_384;

/// How long an answer may take, and until a cluster serves.
const LONGEST_ANSWER: Duration = Duration::from_secs(5);
const START_LIMIT: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);

/// A server.
pub struct Redis {
    pub address: SocketAddr,
    _process: Process,
    _folder: TempDir,
}

impl Redis {
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    fn start_with(settings: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        // The port may be taken before Redis has it: then it ends at once.
        for _ in 0..20 {
            let address = TcpListener::bind(anywhere())?.local_addr()?;
            let mut command = Command::new(redis_server());
            command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port"]);
            command.arg(address.port().to_string()).arg("--dir").arg(folder.path()).args(settings);
            let mut process = Process(command.stdout(Stdio::piped()).spawn().map_err(|_| {
                NotMeasured("no redis-server, in PATH or where REDIS_SERVER says".to_owned())
            })?);
            let log = process.0.stdout.take().ok_or("Redis has no output")?;
            let mut lines = BufReader::new(log).lines().map_while(std::io::Result::ok);
            if lines.any(|line| line.contains("Ready to accept connections")) {
                // A log that nobody reads would fill up.
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(Self { address, _process: process, _folder: folder });
            }
        }
        Err("Redis found no free port".into())
    }

    /// Sends commands, and returns the first line of each answer.
    fn say(&self, commands: &[String]) -> Result<Vec<String>> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(LONGEST_ANSWER))?;
        let mut answers = BufReader::new(stream.try_clone()?).lines();
        let mut say = |command: &String| {
            stream.write_all(format!("{command}\r\n").as_bytes())?;
            Ok(answers.next().ok_or("Redis does not answer")??)
        };
        commands.iter().map(&mut say).collect()
    }
}

/// A cluster of three Redis primaries without copies.
pub struct RedisCluster(Vec<Redis>);

impl RedisCluster {
    pub fn start() -> Result<Self> {
        let nodes: Vec<(Redis, u16)> = (0..3).map(|_| Self::node()).collect::<Result<_>>()?;
        let mut first = 0;
        for (index, (node, _)) in nodes.iter().enumerate() {
            let end = SLOTS * (index + 1) / nodes.len();
            let mut commands = vec![format!("CLUSTER ADDSLOTSRANGE {first} {}", end - 1)];
            first = end;
            for (other, bus) in &nodes {
                commands.push(format!("CLUSTER MEET 127.0.0.1 {} {bus}", other.address.port()));
            }
            let answers = node.say(&commands)?;
            if let Some(refused) = answers.iter().find(|answer| *answer != "+OK") {
                return Err(format!("a node of the cluster says {refused}").into());
            }
        }
        let cluster = Self(nodes.into_iter().map(|(node, _)| node).collect());
        let end = Instant::now() + START_LIMIT;
        // A node serves once it knows who has each slot. Until then it refuses with CLUSTERDOWN.
        while !cluster.is_whole()? {
            if end < Instant::now() {
                return Err("the Redis cluster is not whole".into());
            }
            std::thread::sleep(LOOK);
        }
        Ok(cluster)
    }

    /// Starts a node. Returns the port on which nodes speak to it, too.
    fn node() -> Result<(Redis, u16)> {
        let bus = TcpListener::bind(anywhere())?.local_addr()?.port();
        let port = bus.to_string();
        Ok((Redis::start_with(&["--cluster-enabled", "yes", "--cluster-port", &port])?, bus))
    }

    fn is_whole(&self) -> Result<bool> {
        let mut whole = true;
        for Redis { address, .. } in &self.0 {
            let mut stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(LONGEST_ANSWER))?;
            stream.write_all(b"CLUSTER INFO\r\nQUIT\r\n")?;
            let mut info = String::new();
            stream.read_to_string(&mut info)?;
            whole &= info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3");
        }
        Ok(whole)
    }

    /// The addresses of all nodes, as the URL of a store has them.
    pub fn addresses(&self) -> String {
        let addresses: Vec<_> = self.0.iter().map(|node| node.address.to_string()).collect();
        addresses.join(",")
    }
}

/// The program: where the environment says, where scripts/install puts it, or in PATH.
fn redis_server() -> PathBuf {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin/redis-server");
    match std::env::var_os("REDIS_SERVER") {
        Some(path) => path.into(),
        None if installed.exists() => installed,
        None => "redis-server".into(),
    }
}
