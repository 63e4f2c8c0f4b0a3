//! A Redis primary, its copy, and three sentinels that watch over them, for one test. Used by the tests
//! of the shared store.
//!
//! The sentinels know each other from the start, and ask more often than in real life: a failover takes
//! about two seconds.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use order_query::clock::SystemClock;
use order_query::store::Redis;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::CACHE_BYTES;
use crate::support::redis_server::{RedisServer, engine, rights, send, started};

/// The name under which the sentinels know the primary.
pub const MASTER: &str = "orders.main-1";

/// How many sentinels there are.
const COUNT: usize = 3;

/// How many sentinels must find the primary gone before each one begins a failover. Only the first one
/// ever does: when several begin at one time they may all lose the vote, and wait for ten seconds.
const QUORUM: [usize; COUNT] = [2, COUNT + 1, COUNT + 1];

/// How long a failover may take before the test fails.
const FAILOVER_LIMIT: Duration = Duration::from_secs(30);

/// The stores' user at the sentinels, where they have users.
const USER: &str = "order-query";
const PASSWORD: &str = "ask&only";

/// That user's documented ACL rule.
fn sentinel_rights() -> &'static str {
    let document = include_str!("../../../docs/configuration.md");
    let (_, rest) = document.split_once("ACL SETUSER order-query on >SENTINEL_PASSWORD ").unwrap();
    rest.split_once("\n```").unwrap().0
}

/// A running sentinel.
pub struct Sentinel {
    pub port: u16,
    /// The operators' password.
    password: Option<&'static str>,
    process: Child,
    _directory: TempDir,
}

impl Sentinel {
    fn start(port: u16, config: &str, password: Option<&'static str>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sentinel.conf");
        fs::write(&path, config).unwrap();
        let mut command = engine();
        command
            .arg(path)
            .args(["--sentinel", "--bind", "127.0.0.1", "--dir"])
            .arg(directory.path());
        let process = started(command, "+monitor master").expect("a sentinel starts");
        Self { port, password, process, _directory: directory }
    }

    /// One that uses TLS only, with the certificate of its primary.
    pub fn start_tls(primary: u16, certificate: &Path) -> Self {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = held.local_addr().unwrap().port();
        drop(held);
        let [certificate, key] = [certificate.to_owned(), certificate.with_file_name("key.pem")];
        let config = format!(
            "port 0\ntls-port {port}\ntls-auth-clients no\ntls-replication yes\n\
             tls-cert-file {certificate}\ntls-ca-cert-file {certificate}\ntls-key-file {key}\n\
             sentinel monitor {MASTER} 127.0.0.1 {primary} 1\n",
            certificate = certificate.display(),
            key = key.display(),
        );
        Self::start(port, &config, None)
    }

    /// Suspends it: it accepts connections and answers nothing.
    pub fn stop(&self) {
        send("STOP", &self.process);
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Sends it a command, as an operator does.
    pub fn say<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let password = self.password.map(|password| format!(":{password}@")).unwrap_or_default();
        let client = redis::Client::open(format!("redis://{password}127.0.0.1:{}/", self.port));
        let mut connection = client.unwrap().get_connection().unwrap();
        redis::cmd(words[0]).arg(&words[1..]).query(&mut connection).unwrap()
    }

    /// The port of the primary.
    pub fn named(&self) -> u16 {
        let (_, port): (String, u16) = self.say(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]);
        port
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The servers and their sentinels.
pub struct Watched {
    pub primary: RedisServer,
    pub copy: RedisServer,
    pub sentinels: Vec<Sentinel>,
}

impl Watched {
    /// Sentinels that anyone may ask.
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// Sentinels with a password, and with the documented user.
    pub fn start_secured() -> Self {
        Self::start_with(Some("operators"))
    }

    fn start_with(password: Option<&'static str>) -> Self {
        let primary = RedisServer::start();
        // It would wait 5 s for further copies.
        let () = primary.say(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]);
        let copy = RedisServer::start_copy(primary.port);
        for server in [&primary, &copy] {
            server.set_rights(&[&rights()[..], &["+role"]].concat());
        }
        until("the copy follows", || {
            let info: String = copy.say(&["INFO", "replication"]);
            info.contains("master_link_status:up")
        });
        let sentinels = Self::sentinels(&primary, &copy, password);
        let watched = Self { primary, copy, sentinels };
        for sentinel in &watched.sentinels {
            until("the sentinels know all", || {
                let copies: Vec<Vec<(String, String)>> =
                    sentinel.say(&["SENTINEL", "REPLICAS", MASTER]);
                let others: Vec<Vec<(String, String)>> =
                    sentinel.say(&["SENTINEL", "SENTINELS", MASTER]);
                let is = |one: &[(String, String)], key: &str, value: &str| {
                    one.iter().any(|(name, is)| name == key && is == value)
                };
                copies.len() == 1
                    && copies.iter().all(|copy| is(copy, "master-link-status", "ok"))
                    && others.len() == COUNT - 1
                    && others.iter().all(|other| is(other, "flags", "sentinel"))
            });
        }
        watched
    }

    fn sentinels(
        primary: &RedisServer,
        copy: &RedisServer,
        password: Option<&'static str>,
    ) -> Vec<Sentinel> {
        // Nobody else gets a port that is held, until its sentinel takes it.
        let held: Vec<_> = (0..COUNT).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<_> = held.iter().map(|held| held.local_addr().unwrap().port()).collect();
        let id = |index: usize| format!("{:040x}", index + 1);
        let mut sentinels = Vec::new();
        for (own, held) in held.into_iter().enumerate() {
            let mut config = format!(
                "port {}\nsentinel myid {}\n\
                 sentinel monitor {MASTER} 127.0.0.1 {} {}\n\
                 sentinel down-after-milliseconds {MASTER} 1000\n\
                 sentinel failover-timeout {MASTER} 5000\n\
                 sentinel known-replica {MASTER} 127.0.0.1 {}\n",
                ports[own],
                id(own),
                primary.port,
                QUORUM[own],
                copy.port,
            );
            for other in (0..COUNT).filter(|other| *other != own) {
                let (port, id) = (ports[other], id(other));
                writeln!(config, "sentinel known-sentinel {MASTER} 127.0.0.1 {port} {id}").unwrap();
            }
            if let Some(password) = password {
                let rights = sentinel_rights();
                writeln!(config, "requirepass {password}").unwrap();
                writeln!(config, "user {USER} on >{PASSWORD} {rights}").unwrap();
            }
            drop(held);
            let sentinel = Sentinel::start(ports[own], &config, password);
            // It asks the copy once a second when the primary is gone, and does not promote it if the
            // last answer is older than five pings.
            let () = sentinel.say(&[
                "SENTINEL",
                "DEBUG",
                "INFO-PERIOD",
                "200",
                "PING-PERIOD",
                "400",
                "PUBLISH-PERIOD",
                "300",
                "ASK-PERIOD",
                "200",
            ]);
            sentinels.push(sentinel);
        }
        sentinels
    }

    /// The URL of the store through all sentinels; `query` follows it.
    pub fn url(&self, query: &str) -> String {
        let sentinels =
            self.sentinels.iter().map(|sentinel| format!("localhost:{}", sentinel.port));
        let sentinels: Vec<_> = sentinels.collect();
        format!("redis-sentinel://order-query:least@{}/{MASTER}{query}", sentinels.join(","))
    }

    /// The documented parameters for [secured](Self::start_secured) sentinels.
    pub fn credentials() -> String {
        format!("?sentinel_user={USER}&sentinel_password={}", PASSWORD.replace('&', "%26"))
    }

    /// A store in it.
    pub fn store(&self) -> Redis {
        open(&self.url(""))
    }

    /// Waits until the copy has as many keys as the primary.
    pub fn until_copied(&self) {
        let keys: u64 = self.primary.say(&["DBSIZE"]);
        until("the copy has all", || self.copy.say::<u64>(&["DBSIZE"]) == keys);
    }

    /// Waits until the sentinel names the copy as the primary.
    pub async fn until_promoted(&self, sentinel: usize) {
        let deadline = Instant::now() + FAILOVER_LIMIT;
        while self.sentinels[sentinel].named() != self.copy.port {
            assert!(Instant::now() < deadline, "no failover");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A store at this URL.
pub fn open(url: &str) -> Redis {
    Redis::open(url, CACHE_BYTES, Arc::new(SystemClock)).unwrap()
}

/// Waits in the test's thread.
fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let deadline = Instant::now() + FAILOVER_LIMIT;
    while !happened() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
