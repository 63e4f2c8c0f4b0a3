//! A real Redis server for one test, on a free port, initially empty, and stopped with the test. Used by
//! the tests of the shared store.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use crate::support::CACHE_BYTES;
use order_query::clock::{Clock, SystemClock};
use order_query::store::Redis;
use tempfile::TempDir;

/// How long a server may take to start; it usually takes 10 ms.
const START_LIMIT: Duration = Duration::from_secs(20);

/// How long a server may take to answer an operator; the longest command of a test takes a second.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// The stores' user, with exactly the documented rights.
const USER: &str = "order-query";
const PASSWORD: &str = "least";

/// That user's documented ACL rule.
pub fn rights() -> Vec<&'static str> {
    let document = include_str!("../../../docs/configuration.md");
    let (_, rest) = document.split_once("ACL SETUSER order-query on >PASSWORD ").unwrap();
    let (rule, _) = rest.split_once("```").unwrap();
    rule.split_whitespace().filter(|word| *word != "\\").collect()
}

/// A running server.
pub struct RedisServer {
    pub port: u16,
    /// Its certificate, where it uses TLS; it trusts no other.
    certificate: Option<PathBuf>,
    /// What its user may do beyond [the rights](rights) of a single server.
    more_rights: &'static [&'static str],
    directory: TempDir,
    process: Option<Child>,
}

impl RedisServer {
    /// A server on a port that is free.
    pub fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), None)
    }

    /// A cluster node without slots.
    pub fn start_cluster_node() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("more.conf"), "cluster-enabled yes\n").unwrap();
        Self::start_in(directory, None)
    }

    /// A server on this port, which the caller keeps free, with its `more.conf` in this directory.
    pub fn start_on(port: u16, directory: TempDir, more_rights: &'static [&'static str]) -> Self {
        let mut server = Self { port, certificate: None, more_rights, directory, process: None };
        assert!(server.try_start(), "redis-server does not start on port {port}");
        server
    }

    /// A copy of the server at this port.
    pub fn start_copy(primary: u16) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = format!("replicaof 127.0.0.1 {primary}\n");
        fs::write(directory.path().join("more.conf"), config).unwrap();
        Self::start_in(directory, None)
    }

    /// Removes its directory, so that it can no longer save.
    pub fn remove_directory(&self) {
        fs::remove_dir_all(self.directory.path()).unwrap();
    }

    /// Sets another rule for the stores' user.
    pub fn set_rights(&self, rule: &[&str]) {
        let words = [&["ACL", "SETUSER", USER, "reset", "on", ">least"], rule].concat();
        let _: redis::Value = self.say(&words);
    }

    /// A server with TLS only, as `localhost` and `127.0.0.1`, and the file of its certificate.
    pub fn start_tls() -> (Self, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let certificate = certify(directory.path());
        (Self::start_in(directory, Some(certificate.clone())), certificate)
    }

    fn start_in(directory: TempDir, certificate: Option<PathBuf>) -> Self {
        let mut server = Self { port: 0, certificate, more_rights: &[], directory, process: None };
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

    /// Restarts it on its port, without its data.
    pub fn restart(&mut self) {
        // Another program's outgoing connection may use the port for a moment.
        let started = (0..100).any(|_| {
            self.process.is_none() && self.try_start() || {
                std::thread::sleep(Duration::from_millis(100));
                false
            }
        });
        assert!(started, "redis-server did not get its port again");
    }

    /// Kills it.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Whether it has a process.
    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Suspends it: it keeps its connections, accepts new ones, and answers nothing.
    pub fn stop(&self) {
        self.signal("STOP");
    }

    /// Resumes it.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// The URL of its first database, for the user with the fewest rights.
    pub fn url(&self) -> String {
        Self::url_at(self.port)
    }

    /// The same, through another port.
    pub fn url_at(port: u16) -> String {
        format!("redis://{USER}:{PASSWORD}@127.0.0.1:{port}/0")
    }

    /// A store in it, using the system's clock.
    pub fn store(&self) -> Redis {
        self.store_at(Arc::new(SystemClock))
    }

    /// A store in it, using this clock for its own time; the server's time decides.
    pub fn store_at(&self, clock: Arc<dyn Clock>) -> Redis {
        Redis::open(&self.url(), CACHE_BYTES, clock).unwrap()
    }

    /// Waits until so many replicas hear each other's news.
    pub async fn until_heard_by(&self, replicas: usize) {
        let heard = async {
            let heard_by =
                || self.say::<(String, usize)>(&["PUBSUB", "NUMSUB", "order-query:news"]).1;
            while heard_by() != replicas {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(START_LIMIT, heard).await.expect("the replicas subscribe");
    }

    /// Makes it as it was when it started.
    pub fn clear(&self) {
        let () = self.say(&["FLUSHALL"]);
        let () = self.say(&["SCRIPT", "FLUSH"]);
    }

    /// Sends it a command, as an operator does.
    pub fn say<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        redis::from_redis_value(self.try_say(words).unwrap()).unwrap()
    }

    /// Sends a command that it may refuse.
    pub fn try_say(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        redis::cmd(words[0]).arg(&words[1..]).query(&mut self.operator()?)
    }

    /// Runs a command as the stores' user; an error is a value too.
    pub fn run(&self, command: &redis::Cmd) -> redis::Value {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_connection().unwrap();
        redis::ConnectionLike::req_packed_command(&mut connection, &command.get_packed_command())
            .unwrap()
    }

    /// Restores a key from a `DUMP`.
    pub fn restore(&self, key: &str, value: &[u8]) {
        let mut operator = self.operator().unwrap();
        redis::cmd("RESTORE").arg(key).arg(0).arg(value).exec(&mut operator).unwrap();
    }

    fn operator(&self) -> redis::RedisResult<redis::Connection> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}/0", self.port))?;
        let connection = client.get_connection_with_timeout(ANSWER_LIMIT)?;
        connection.set_read_timeout(Some(ANSWER_LIMIT))?;
        Ok(connection)
    }

    /// Whether it started; false if the port is in use.
    fn try_start(&mut self) -> bool {
        let port = self.port.to_string();
        let mut command = engine();
        let more = self.directory.path().join("more.conf");
        if more.exists() {
            command.arg(more);
        }
        command.arg("--dir").arg(self.directory.path()).args(["--bind", "127.0.0.1"]);
        command.args(["--save", "", "--appendonly", "no", "--daemonize", "no"]);
        let user = ["--user", USER, "on", &format!(">{PASSWORD}")].map(str::to_owned);
        command.args(user).args(rights()).args(self.more_rights);
        match &self.certificate {
            None => command.args(["--port", &port]),
            Some(certificate) => command
                .args(["--port", "0", "--tls-port", &port, "--tls-auth-clients", "no"])
                .args(["--tls-key-file", "key.pem", "--tls-cert-file"])
                .arg(certificate)
                .arg("--tls-ca-cert-file")
                .arg(certificate),
        };
        self.process = started(command, "Ready to accept connections");
        self.process.is_some()
    }

    fn signal(&self, signal: &str) {
        send(signal, self.process.as_ref().unwrap());
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

/// The command of Redis' server.
pub fn engine() -> Command {
    let mut command = Command::new("redis-server");
    // scripts/install puts programs here that it cannot install without a service.
    let installed = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/bin");
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:{installed}"));
    command
}

/// Starts the command, which logs this when it is ready; `None` if it ends before, because its port is in
/// use.
pub fn started(mut command: Command, ready_line: &'static str) -> Option<Child> {
    let mut process = command.stdout(Stdio::piped()).spawn().expect(
        "redis-server must be installed: Debian's package redis-server; see scripts/install",
    );
    let lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let (ready, is_ready) = mpsc::channel();
    // Reads to the end, so that the server never blocks on its log.
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if line.contains(ready_line) {
                let _ = ready.send(());
            }
        }
    });
    // The channel closes if the server exits instead.
    if is_ready.recv_timeout(START_LIMIT).is_ok() {
        return Some(process);
    }
    let _ = process.kill();
    let _ = process.wait();
    None
}

/// Sends a signal to a process.
pub fn send(signal: &str, process: &Child) {
    let command = format!("kill -{signal} {}", process.id());
    assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
}

/// Writes a certificate for this machine and its key into the directory. Returns the certificate's file.
pub fn certify(directory: &Path) -> PathBuf {
    let names = ["localhost", "127.0.0.1"].map(str::to_owned);
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let certificate = directory.join("certificate.pem");
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    certificate
}
