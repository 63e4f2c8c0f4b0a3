//! `order-query demo`

use std::path::Path;
use std::sync::Arc;

use clap::Args;
use tonic::Request;
use tonic::transport::Endpoint;

use super::client::{Server, Tls};
use super::{Failure, get, invoked, print, render, serve, stop_signal};
use crate::app::{App, Setup};
use crate::clock::SystemClock;
use crate::config::Section;
use crate::pb::{GetOrderRequest, Provider};
use crate::sandbox::Sandbox;
use crate::telemetry;

/// The configuration of the demo's server: free ports, and few log lines.
const CONFIG: &str = r#"
[server]
listen = "127.0.0.1:0"
reflection = true
drain_delay = "0s"

[admin]
listen = "127.0.0.1:0"

[telemetry]
log_format = "text"
log_level = "warn"
"#;

/// Prints one order of each vendor, through the real server and the sandbox vendors.
#[derive(Args)]
pub(super) struct Demo {
    /// Exits after the orders instead of continuing to serve
    #[arg(long)]
    once: bool,
}

impl Demo {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let stop = stop_signal()?;
        let sandbox = serve::start_sandbox().await?;
        let root = Section::parse(CONFIG, Path::new(""))?;
        let accounts = serve::accounts(&sandbox)?;
        let setup = Setup::read(root, Some(accounts), Arc::new(SystemClock))?;
        let _outgoing = telemetry::init(&setup.config.telemetry, &setup.metrics)?;
        let app = App::start(setup).await?;

        let url = format!("http://{}", app.address);
        let endpoint = Endpoint::from_shared(url.clone())
            .map_err(|error| Failure::Failed(error.to_string()))?;
        let server = Server { endpoint: &endpoint, tls: &Tls::default() };
        let program = invoked();
        for provider in Provider::all() {
            let word = provider.word();
            let id = Sandbox::sample(&word).unwrap_or_default().to_owned();
            print(format_args!("$ {program} get {word} {id} --endpoint {url}"))?;
            let request =
                GetOrderRequest { provider: provider.into(), id, ..GetOrderRequest::default() };
            print(render::order(&get::ask(server, Request::new(request)).await?))?;
        }
        if !self.once {
            print(format_args!(
                "Serving on {url} until Ctrl-C. All orders of the sandbox: docs/sandbox.md\n\
                 In another terminal: {program} get haoka settled --endpoint {url}"
            ))?;
            stop.await;
        }
        app.stop().await;
        Ok(())
    }
}
