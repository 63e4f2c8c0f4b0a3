//! The command line, one file per command: parses the arguments, runs the command, returns the exit code.

mod check;
mod client;
mod demo;
mod get;
mod health;
mod render;
mod sandbox;
mod serve;
mod watch;

use std::env;
use std::fmt;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::Problems;

/// How long a failed command waits for its error message to be written.
const ERROR_TIMEOUT: Duration = Duration::from_secs(1);

/// Looks up orders of several vendors through one gRPC contract.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts sandbox vendors and a server, asks for one order of each vendor, and keeps serving
    Demo(demo::Demo),
    /// Runs the server
    Serve(serve::Serve),
    /// Runs sandbox vendors on loopback, for tests
    Sandbox(sandbox::Sandbox),
    /// Asks a running server for an order and prints it
    Get(get::Get),
    /// Prints an order now, and again each time that it changes
    Watch(watch::Watch),
    /// Checks a configuration and reports its problems
    Check(check::Check),
    /// Asks a running server for its health: exit code 0 while it is SERVING
    Health(health::Health),
}

/// The argument that names the configuration file.
#[derive(Args)]
struct ConfigFile {
    /// The configuration, a TOML file
    // Accepts any text: an empty variable, such as Compose's `${X:-}`, must not be a usage error.
    #[arg(
        long = "config",
        value_name = "FILE",
        env = "ORDER_QUERY_CONFIG",
        value_parser = OsStringValueParser::new().map(PathBuf::from)
    )]
    path: Option<PathBuf>,
}

impl ConfigFile {
    /// The file, if one is named; an empty variable counts as unset.
    fn path(&self) -> Option<&Path> {
        self.path.as_deref().filter(|path| !path.as_os_str().is_empty())
    }
}

/// Why a command failed; decides the exit code.
enum Failure {
    /// Exit code 1.
    Failed(String),
    /// Exit code 78.
    Configuration(Problems),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Self::Configuration(problems)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(text) => write!(f, "error: {text}"),
            Self::Configuration(problems) => {
                write!(f, "error: the configuration is invalid:\n{problems}")
            }
        }
    }
}

/// Runs the command that the arguments name. Exit codes: 0 success, 1 failure, 2 usage error, 78 wrong
/// configuration.
pub async fn run() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Demo(demo) => demo.run().await,
        Command::Serve(serve) => serve.run().await,
        Command::Sandbox(sandbox) => sandbox.run().await,
        Command::Get(get) => get.run().await,
        Command::Watch(watch) => watch.run().await,
        Command::Check(check) => check.run().await,
        Command::Health(health) => health.run().await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let code = match failure {
                Failure::Failed(_) => 1,
                Failure::Configuration(_) => 78,
            };
            print_error(failure.to_string());
            ExitCode::from(code)
        }
    }
}

/// Writes why a command failed. A blocked standard error must not keep the command from ending, so a
/// thread writes and the wait is limited. The exit code reports the failure even if the text is lost.
fn print_error(text: String) {
    let (done, written) = mpsc::channel();
    let writer = thread::Builder::new().spawn(move || {
        let _ = writeln!(io::stderr(), "{text}");
        let _ = done.send(());
    });
    if writer.is_ok() {
        let _ = written.recv_timeout(ERROR_TIMEOUT);
    }
}

/// Reports that no command can run, because the async runtime cannot start.
#[must_use]
pub fn no_runtime(error: &io::Error) -> ExitCode {
    // The exit code reports the failure even if the text is lost.
    let _ = writeln!(io::stderr(), "error: cannot start threads: {error}");
    ExitCode::FAILURE
}

/// Writes a line to standard output. `println!` would panic if the reader has closed the pipe.
fn print(line: impl fmt::Display) -> Result<(), Failure> {
    writeln!(io::stdout(), "{line}")
        .map_err(|error| Failure::Failed(format!("cannot write to standard output: {error}")))
}

/// This program's name for a shell command to copy: as it was invoked, because it need not be on the
/// PATH.
fn invoked() -> String {
    let name = env::args_os().next().unwrap_or_default();
    let name = render::plain(&name.to_string_lossy());
    if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+".contains(&byte)) {
        name
    } else {
        format!("'{}'", name.replace('\'', r"'\''"))
    }
}

/// Resolves on SIGTERM or Ctrl-C.
///
/// # Errors
/// If the signal handlers cannot be installed.
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
