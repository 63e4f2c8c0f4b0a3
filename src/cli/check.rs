//! `order-query check`

use std::sync::Arc;

use clap::Args;

use super::serve::open;
use super::{ConfigFile, Failure, print};
use crate::app::Setup;
use crate::clock::SystemClock;
use crate::config::Problem;

/// Says what is wrong with a configuration, all at once.
#[derive(Args)]
pub(super) struct Check {
    #[command(flatten)]
    config: ConfigFile,
}

impl Check {
    pub(super) fn run(self) -> Result<(), Failure> {
        let setup = Setup::read(open(&self.config, false)?, None, Arc::new(SystemClock))?;
        for Problem { path, text } in &setup.warnings {
            print(format_args!("warning: {path}: {text}"))?;
        }
        let clients = setup.callers.count().map(|count| format!(", clients: {count}"));
        print(format_args!(
            "the configuration is fine; accounts: {}{}",
            setup.accounts.len(),
            clients.unwrap_or_default()
        ))
    }
}
