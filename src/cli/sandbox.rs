//! `order-query sandbox`

use std::net::SocketAddr;
use std::sync::Arc;

use clap::Args;

use super::{Failure, print, stop_signal};
use crate::clock::SystemClock;

/// Runs the sandbox vendors until SIGTERM or Ctrl-C.
#[derive(Args)]
pub(super) struct Sandbox {
    /// Where: the first vendor on this port, the next one on the next, in the order in which their
    /// accounts are printed; port 0 takes free ones
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

impl Sandbox {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let stop = stop_signal()?;
        let sandbox = crate::sandbox::Sandbox::start(self.listen, Arc::new(SystemClock)).await?;
        print("# The sandbox vendors are running. Accounts for a configuration:\n")?;
        print(sandbox.accounts())?;
        stop.await;
        Ok(())
    }
}
