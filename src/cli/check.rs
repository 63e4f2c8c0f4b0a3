//! `order-query check`

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::render::plain;
use super::serve::open;
use super::{ConfigFile, Failure, print};
use crate::app::Setup;
use crate::clock::SystemClock;
use crate::config::Problem;
use crate::live_check;

/// Reports all problems of a configuration at once.
#[derive(Args)]
pub(super) struct Check {
    #[command(flatten)]
    config: ConfigFile,
    /// Also asks each vendor whether it accepts the credentials, whether the clocks agree, and how long
    /// its certificate is valid. Makes no call for an order
    #[arg(long)]
    live: bool,
    /// The folder that replaces the root of the server's file system: absolute paths of the
    /// configuration are resolved below it, and the store's file is not checked
    #[arg(long, value_name = "DIR", conflicts_with = "live")]
    root: Option<PathBuf>,
}

impl Check {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let configuration = open(&self.config, false)?;
        if let Some(root) = self.root {
            configuration.set_root(root);
        }
        let setup = Setup::read(configuration, None, Arc::new(SystemClock))?;
        for Problem { path, text } in &setup.warnings {
            print(format_args!("warning: {path}: {text}"))?;
        }
        let findings = if self.live { live_check::run(&setup).await } else { Vec::new() };
        for finding in &findings {
            print(plain(&finding.to_string()))?;
        }
        let clients = setup.callers.count().map(|count| format!(", clients: {count}"));
        print(format_args!(
            "the configuration is valid; accounts: {}{}",
            setup.accounts.len(),
            clients.unwrap_or_default()
        ))?;
        match findings.iter().filter(|finding| finding.is_failure()).count() {
            0 => Ok(()),
            failed => Err(Failure::Failed(format!("failed checks: {failed}"))),
        }
    }
}
