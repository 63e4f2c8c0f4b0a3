//! The real binary as a child process: arguments in, lines out. Every wait for it is bounded, and
//! dropping it kills it.

use std::ffi::OsStr;
use std::io::{self, BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::process::{self, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

/// How long a child may take to do what a test waits for.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The binary with these arguments, and none of the settings in the environment.
pub fn command<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    // `make siege` uses a release build.
    let built = env!("CARGO_BIN_EXE_order-query").to_owned();
    let mut command = Command::new(std::env::var("SIEGE_BINARY").unwrap_or(built));
    command.args(arguments).env_remove("ORDER_QUERY_CONFIG").env_remove("ORDER_QUERY_LOG");
    command
}

/// The name of a test, given its `module_path!()`, as `--exact` requires it.
pub fn exact(module_path: &str, test: &str) -> String {
    let (_, module) = module_path.split_once("::").unwrap();
    format!("{module}::{test}")
}

/// The exit code and output of a child.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs the binary with these arguments to its end.
pub fn run<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Ended {
    Child::start(command(arguments)).end()
}

/// A running child.
pub struct Child {
    process: process::Child,
    pub out: Lines,
    pub err: Lines,
}

impl Child {
    pub fn start(command: Command) -> Self {
        Self::start_into(command, Stdio::piped(), Stdio::piped())
    }

    /// Starts one with these streams; those that are not pipes yield no lines.
    pub fn start_into(mut command: Command, out: Stdio, err: Stdio) -> Self {
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let mut process = command.spawn().unwrap();
        let out = process.stdout.take().map_or_else(|| Lines::of(io::empty()), Lines::of);
        let err = process.stderr.take().map_or_else(|| Lines::of(io::empty()), Lines::of);
        Self { process, out, err }
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends a signal: `TERM` or `INT`.
    pub fn signal(&self, name: &str) {
        // The shell's builtin `kill` is always available.
        let kill = format!("kill -{name} {}", self.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// Waits for it to exit.
    pub fn end(mut self) -> Ended {
        let out = self.out.rest().to_owned();
        let err = self.err.rest().to_owned();
        // Both pipes are closed, so it has exited or is about to.
        let code = self.process.wait().unwrap().code();
        Ended { code, out, err }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Fails if it has exited, which is fine.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a child writes, line by line.
pub struct Lines {
    incoming: Receiver<String>,
    seen: String,
}

impl Lines {
    pub fn of(pipe: impl Read + Send + 'static) -> Self {
        let (sender, incoming) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
            }
        });
        Self { incoming, seen: String::new() }
    }

    /// The next line; `None` at the end.
    pub fn next(&mut self) -> Option<String> {
        match self.incoming.recv_timeout(PATIENCE) {
            Ok(line) => {
                self.seen += &line;
                self.seen.push('\n');
                Some(line)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("nothing more came after:\n{}", self.seen),
        }
    }

    /// Waits for a line that contains this.
    pub fn with(&mut self, text: &str) -> String {
        while let Some(line) = self.next() {
            if line.contains(text) {
                return line;
            }
        }
        panic!("{text:?} was never written, but:\n{}", self.seen)
    }

    /// The line that contains this: an earlier one, or else the next one.
    pub fn ever(&mut self, text: &str) -> String {
        let before = self.seen.lines().find(|line| line.contains(text)).map(str::to_owned);
        before.unwrap_or_else(|| self.with(text))
    }

    /// Everything, once the child has closed its end.
    pub fn rest(&mut self) -> &str {
        while self.next().is_some() {}
        &self.seen
    }
}

/// `order-query serve`, listening.
pub struct Serving {
    pub child: Child,
    pub address: SocketAddr,
    pub admin_address: SocketAddr,
    _directory: TempDir,
}

/// The listeners of a test: free ports.
pub const LISTEN: &str = "server.listen = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\n";

/// These tables and the listeners, for a server that stops without a delay unless they set one.
pub fn with_listeners(config: &str) -> String {
    let at_once = if config.contains("drain_delay") { "" } else { "server.drain_delay = \"0s\"\n" };
    format!("{LISTEN}{at_once}{config}")
}

impl Serving {
    /// Serves with these tables and the listeners.
    pub fn start(config: &str) -> Self {
        Self::start_with(config, |_| {})
    }

    /// The same, with more arguments or another environment.
    pub fn start_with(config: &str, change: impl FnOnce(&mut Command)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = write(&directory, &with_listeners(config));
        let mut command = command(["serve", "--config", &path]);
        change(&mut command);
        let mut child = Child::start(command);
        let line = child.err.with("listening");
        let [address, admin_address] = ["address", "admin_address"].map(|name| at(&line, name));
        Self { child, address, admin_address, _directory: directory }
    }

    /// The URL of the callers' listener.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Runs `order-query get` against this server.
    pub fn get(&self, arguments: &[&str]) -> Ended {
        Child::start(self.get_command(arguments)).end()
    }

    pub fn get_command(&self, arguments: &[&str]) -> Command {
        let mut command = command(["get", "--endpoint", &self.url()]);
        command.args(arguments);
        command
    }

    /// Stops it gracefully and waits for it to exit.
    pub fn stop(self) -> Ended {
        self.child.signal("TERM");
        self.child.end()
    }
}

/// Writes a configuration into the directory. Returns its path.
pub fn write(directory: &TempDir, config: &str) -> String {
    let path = directory.path().join("order-query.toml");
    std::fs::write(&path, config).unwrap();
    path.to_str().unwrap().to_owned()
}

/// An address from a log line, in either format.
fn at(line: &str, name: &str) -> SocketAddr {
    let text = if let Ok(line) = serde_json::from_str::<Value>(line) {
        line[name].as_str().map(str::to_owned)
    } else {
        let mut words = line.split(' ').filter_map(|word| word.split_once('='));
        words.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
    };
    text.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no {name} in {line}"))
}
