//! Processes that end with their owner, and what the kernel knows of them. The servers run on the first
//! core, where there are two.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::Result;

/// The kernel's clock of CPU times, on every platform that Linux has today.
const TICK: Duration = Duration::from_millis(10);

/// A process. It is killed when it is dropped.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    /// The CPU time that it has used.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        // The second field is the program's name, in parentheses; user and system time are 14 and 15.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: u32 = fields.skip(11).take(2).map(str::parse::<u32>).sum::<Result<_, _>>()?;
        Ok(TICK * ticks)
    }

    /// The bytes of a line of its `status`: `VmRSS` is what it has in memory, `VmHWM` the most that it had.
    pub fn memory(&self, line: &str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let mut words = status.lines().filter_map(|text| text.split_once(':'));
        let (_, value) = words.find(|(name, _)| *name == line).ok_or("no such line of memory")?;
        Ok(value.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }

    /// Sends it a signal, and waits for its end.
    pub fn end(mut self, signal: &str) -> Result<()> {
        Command::new("kill").args(["-s", signal, &self.0.id().to_string()]).status()?;
        self.0.wait()?;
        Ok(())
    }
}

/// How long the machine is looked at, and how often, before a measurement begins all the same.
const LOOK: Duration = Duration::from_millis(100);
const LOOKS: usize = 40;

/// The part of the machine's time that may be in use when nothing is measured.
const QUIET: f64 = 0.2;

/// Waits until little of the machine is in use. Returns false where that does not happen in time.
pub async fn quiet() -> Result<bool> {
    let mut before = machine()?;
    for _ in 0..LOOKS {
        tokio::time::sleep(LOOK).await;
        let after = machine()?;
        if (after.0 - before.0) / (after.1 - before.1).max(1.0) < QUIET {
            return Ok(true);
        }
        before = after;
    }
    Ok(false)
}

/// The time of all cores since the start: in use, and in all.
fn machine() -> Result<(f64, f64)> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8);
    let times: Vec<f64> = line.map(str::parse).collect::<Result<_, _>>()?;
    let all: f64 = times.iter().sum();
    // The fourth and the fifth are idle.
    Ok((all - times[3..5].iter().sum::<f64>(), all))
}

/// Moves this process to the second core, if there is one; servers start on the first one.
pub fn share_cores() -> bool {
    let process = std::process::id().to_string();
    let moved =
        Command::new("taskset").args(["-acp", "1", &process]).stdout(Stdio::null()).status();
    moved.is_ok_and(|status| status.success())
}

/// A command that runs on the first core.
pub fn on_first_core(program: &Path) -> Command {
    let can = Command::new("taskset").args(["-c", "0", "true"]).status();
    if can.is_ok_and(|status| status.success()) {
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}
