//! A real Redis server for a test: its own, on a free port, empty, and gone with the test. Used by
//! the tests of the shared store.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use crate::support::CACHE_BYTES;
use order_query::clock::{Clock, SystemClock};
use order_query::store::Redis;
use tempfile::TempDir;

/// How long a server may take to start: it takes some 10 ms.
const START_LIMIT: Duration = Duration::from_secs(20);

/// The user that stores have, with the rights that the documentation names and no others.
const USER: &str = "order-query";
const PASSWORD: &str = "least";

/// That user's rule, as the documentation has it.
pub fn rights() -> Vec<&'static str> {
    let document = include_str!("../../../docs/configuration.md");
    let (_, rest) = document.split_once("ACL SETUSER order-query on >PASSWORD ").unwrap();
    let (rule, _) = rest.split_once("```").unwrap();
    rule.split_whitespace().filter(|word| *word != "\\").collect()
}

/// A running server.
pub struct RedisServer {
    pub port: u16,
    /// The certificate that it shows, where it speaks TLS; it trusts nobody else.
    certificate: Option<PathBuf>,
    directory: TempDir,
    process: Option<Child>,
}

impl RedisServer {
    /// A server on a port that is free.
    pub fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), None)
    }

    /// A node of a cluster that has no slots.
    pub fn start_cluster_node() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("more.conf"), "cluster-enabled yes\n").unwrap();
        Self::start_in(directory, None)
    }

    /// Takes its directory away: it can save nothing there any more.
    pub fn remove_directory(&self) {
        fs::remove_dir_all(self.directory.path()).unwrap();
    }

    /// Gives the stores' user another rule.
    pub fn set_rights(&self, rule: &[&str]) {
        let words = [&["ACL", "SETUSER", USER, "reset", "on", ">least"], rule].concat();
        let _: redis::Value = self.say(&words);
    }

    /// A server that speaks TLS alone, as `localhost`, and the file of its certificate.
    pub fn start_tls() -> (Self, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = directory.path().join("certificate.pem");
        fs::write(&certificate, made.cert.pem()).unwrap();
        fs::write(directory.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        (Self::start_in(directory, Some(certificate.clone())), certificate)
    }

    fn start_in(directory: TempDir, certificate: Option<PathBuf>) -> Self {
        let mut server = Self { port: 0, certificate, directory, process: None };
        for _ in 0..20 {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            server.port = free.local_addr().unwrap().port();
            drop(free);
            if server.try_start() {
                return server;
            }
        }
        panic!("redis-server found no free port");
    }

    /// Starts it again where it was, without its data.
    pub fn restart(&mut self) {
        // Another program may have the port for a moment: a connection that goes out from it.
        let started = (0..100).any(|_| {
            self.process.is_none() && self.try_start() || {
                std::thread::sleep(Duration::from_millis(100));
                false
            }
        });
        assert!(started, "redis-server did not get its port again");
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Lets it hang: it holds its connections, takes new ones, and answers nothing.
    pub fn stop(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.signal("CONT");
    }

    /// The address of its first database, for the user with the least rights.
    pub fn url(&self) -> String {
        Self::url_at(self.port)
    }

    /// The same, where something else leads to the server.
    pub fn url_at(port: u16) -> String {
        format!("redis://{USER}:{PASSWORD}@127.0.0.1:{port}/0")
    }

    /// A store in it, over the system's clock.
    pub fn store(&self) -> Redis {
        self.store_at(Arc::new(SystemClock))
    }

    /// A store in it, over a clock of its own; the server's own time counts.
    pub fn store_at(&self, clock: Arc<dyn Clock>) -> Redis {
        Redis::open(&self.url(), CACHE_BYTES, clock).unwrap()
    }

    /// Says something to it, as an operator does.
    pub fn say<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        redis::from_redis_value(self.try_say(words).unwrap()).unwrap()
    }

    /// Says something that it may turn down.
    pub fn try_say(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        redis::cmd(words[0]).arg(&words[1..]).query(&mut self.operator()?)
    }

    /// Puts a key there, as `DUMP` has it.
    pub fn restore(&self, key: &str, value: &[u8]) {
        let mut operator = self.operator().unwrap();
        redis::cmd("RESTORE").arg(key).arg(0).arg(value).exec(&mut operator).unwrap();
    }

    fn operator(&self) -> redis::RedisResult<redis::Connection> {
        redis::Client::open(format!("redis://127.0.0.1:{}/0", self.port))?.get_connection()
    }

    /// Whether it runs; not where the port is taken.
    fn try_start(&mut self) -> bool {
        let port = self.port.to_string();
        let mut command = Command::new("redis-server");
        // What scripts/install could not have without a service, it puts there.
        let installed = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/bin");
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:{installed}"));
        let more = self.directory.path().join("more.conf");
        if more.exists() {
            command.arg(more);
        }
        command.arg("--dir").arg(self.directory.path()).args(["--bind", "127.0.0.1"]);
        command.args(["--save", "", "--appendonly", "no", "--daemonize", "no"]);
        let user = ["--user", USER, "on", &format!(">{PASSWORD}")].map(str::to_owned);
        command.args(user).args(rights());
        match &self.certificate {
            None => command.args(["--port", &port]),
            Some(certificate) => command
                .args(["--port", "0", "--tls-port", &port, "--tls-auth-clients", "no"])
                .args(["--tls-key-file", "key.pem", "--tls-cert-file"])
                .arg(certificate)
                .arg("--tls-ca-cert-file")
                .arg(certificate),
        };
        let mut process = command.stdout(Stdio::piped()).spawn().expect(
            "redis-server must be installed: Debian's package redis-server; see scripts/install",
        );
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let (ready, is_ready) = mpsc::channel();
        // Reads to the end, so that the server never waits for someone to read its log.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if line.contains("Ready to accept connections") {
                    let _ = ready.send(());
                }
            }
        });
        // The channel closes where the server ended instead.
        let started = is_ready.recv_timeout(START_LIMIT).is_ok();
        self.process = Some(process);
        if !started {
            self.kill();
        }
        started
    }

    fn signal(&self, signal: &str) {
        let id = self.process.as_ref().unwrap().id();
        let status = Command::new("sh").args(["-c", &format!("kill -{signal} {id}")]).status();
        assert!(status.unwrap().success());
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
