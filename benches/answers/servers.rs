//! The servers that are measured: processes of their own, on the first core where there are two.

use std::fs::read_to_string;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

/// The kernel's clock of CPU times, on every platform that Linux has today.
const TICK: Duration = Duration::from_millis(10);

/// A server under test. It is killed when it is dropped.
pub struct Server {
    pub address: SocketAddr,
    process: Child,
    _folder: TempDir,
}

/// Moves this process to the second core, if there is one; servers start on the first one.
pub fn share_cores() -> bool {
    let process = std::process::id().to_string();
    let moved =
        Command::new("taskset").args(["-acp", "1", &process]).stdout(Stdio::null()).status();
    moved.is_ok_and(|status| status.success())
}

fn on_first_core(program: &str) -> Command {
    if Command::new("taskset")
        .args(["-c", "0", "true"])
        .status()
        .is_ok_and(|status| status.success())
    {
        let mut command = Command::new("taskset");
        command.args(["-c", "0", program]);
        command
    } else {
        Command::new(program)
    }
}

impl Server {
    pub fn bare(vendor: SocketAddr) -> Self {
        let program = std::env::current_exe().unwrap();
        let mut command = on_first_core(program.to_str().unwrap());
        command.args(["bare", &vendor.to_string()]).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().parse().unwrap();
        Self { address, process, _folder: tempfile::tempdir().unwrap() }
    }

    /// The service with that vendor, and with these settings. `FOLDER` stands for a new folder.
    pub fn ours(vendor: SocketAddr, settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings.replace("FOLDER", folder.path().to_str().unwrap());
        let config = format!(
            "server.listen = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\n{settings}\
             [accounts.benched]\nprovider = \"wechat\"\nbase_url = \"http://{vendor}\"\n\
             app_id = \"wx0123456789abcdef\"\napp_secret = \"secret\"\nfreshness = \"1h\"\n"
        );
        let path = folder.path().join("order-query.toml");
        std::fs::write(&path, config).unwrap();
        let mut command = on_first_core(env!("CARGO_BIN_EXE_order-query"));
        command.args(["serve", "--config", path.to_str().unwrap()]).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = loop {
            let line: Value = serde_json::from_str(&log.next().unwrap().unwrap()).unwrap();
            if line["message"] == "listening" {
                break line["address"].as_str().unwrap().parse().unwrap();
            }
        };
        // A log that nobody reads would fill up.
        std::thread::spawn(move || log.for_each(drop));
        Self { address, process, _folder: folder }
    }

    /// The CPU time that the process has used.
    pub fn cpu(&self) -> Duration {
        let stat = read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        // The second field is the program's name, in parentheses; user and system time are 14 and 15.
        let fields = stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2);
        TICK * fields.map(|ticks| ticks.parse::<u32>().unwrap()).sum::<u32>()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
