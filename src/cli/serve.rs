//! `order-query serve`

use std::io::{self, IsTerminal as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{ConfigFile, Failure, invoked, print, stop_signal};
use crate::app::{App, Setup};
use crate::clock::SystemClock;
use crate::config::{Problem, Problems, Section, read_file};
use crate::sandbox::Sandbox;
use crate::telemetry;

/// The largest configuration that is read, in bytes.
const CONFIG_LIMIT: u64 = 1024 * 1024;

/// Serves until SIGTERM or Ctrl-C.
#[derive(Args)]
pub(super) struct Serve {
    #[command(flatten)]
    config: ConfigFile,
    /// Adds a sandbox account for each vendor, on loopback only and with reflection
    #[arg(long)]
    dev: bool,
}

impl Serve {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let sandbox = if self.dev { Some(start_sandbox().await?) } else { None };
        let root = open(&self.config, self.dev)?;
        let accounts = sandbox.as_ref().map(accounts).transpose()?;
        let mut setup = Setup::read(root, accounts, Arc::new(SystemClock))?;
        if self.dev {
            allow_loopback_only(setup.config.server.listen)?;
            setup.config.server.reflection = true;
            // With `--dev` no load balancer needs time to notice the shutdown.
            setup.config.server.drain_delay = Duration::ZERO;
            if self.config.path.is_none() && io::stderr().is_terminal() {
                setup.config.telemetry.log_format = telemetry::LogFormat::Text;
            }
        }
        let scheme = if setup.is_encrypted() { "https" } else { "http" };
        let _outgoing = telemetry::init(&setup.config.telemetry, &setup.metrics)?;
        if !self.dev {
            outlive_hangups()?;
        }
        let stop = stop_signal()?;
        let app = App::start(setup).await?;
        if self.dev && io::stdout().is_terminal() {
            print(greeting(&app, scheme))?;
        }
        stop.await;
        let at_once = stop_signal()?;
        tokio::select! {
            () = app.stop() => Ok(()),
            () = at_once => Err(Failure::Failed("a second signal stopped the server at once".to_owned())),
        }
    }
}

/// Keeps SIGHUP from ending the server: operators send it to other servers to make them reload files.
/// With `--dev`, SIGHUP means that the terminal has closed, and ends the server.
fn outlive_hangups() -> io::Result<()> {
    let mut hangups = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            tracing::info!(
                "SIGHUP has no effect: files are reloaded when they change, and the configuration \
                 is read only at a restart"
            );
        }
    });
    Ok(())
}

/// For a person at a terminal: the addresses, and a command to try next.
fn greeting(App { address, admin_address, .. }: &App, scheme: &str) -> String {
    let program = invoked();
    format!(
        "Serving until Ctrl-C, with sandbox vendors (docs/sandbox.md lists their orders):\n  \
         orders              {scheme}://{address}\n  \
         health and metrics  http://{admin_address}\n\
         In another terminal: {program} get haoka shipped --endpoint {scheme}://{address}"
    )
}

/// Starts the sandbox vendors on free ports.
pub(super) async fn start_sandbox() -> Result<Sandbox, Failure> {
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    Ok(Sandbox::start(anywhere, Arc::new(SystemClock)).await?)
}

/// The sandbox's accounts, as a configuration.
pub(super) fn accounts(sandbox: &Sandbox) -> Result<Section, Problems> {
    Section::parse(&sandbox.accounts(), Path::new(""))
}

/// Reads the configuration that the arguments name. Without one it is empty, if it `may_be_absent`.
pub(super) fn open(file: &ConfigFile, may_be_absent: bool) -> Result<Section, Problems> {
    let problem =
        |path: &str, text: String| Problems(vec![Problem { path: path.to_owned(), text }]);
    match file.path() {
        None if may_be_absent => Section::parse("", Path::new("")),
        None => Err(problem(
            "--config",
            "is missing; ORDER_QUERY_CONFIG can also name the file".to_owned(),
        )),
        Some(path) => {
            let text = read_file(path, CONFIG_LIMIT).map_err(|text| problem("--config", text))?;
            Section::parse(&text, path.parent().unwrap_or(Path::new("")))
        }
    }
}

fn allow_loopback_only(listen: SocketAddr) -> Result<(), Problems> {
    if listen.ip().is_loopback() {
        return Ok(());
    }
    let text = "must be a loopback address with --dev: the sandbox answers every caller".to_owned();
    Err(Problems(vec![Problem { path: "server.listen".to_owned(), text }]))
}
