//! `order-query health`
#![allow(clippy::disallowed_types, reason = "reads a tonic::Status")]

use std::time::Duration;

use clap::Args;
use tonic::transport::Endpoint;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::client::{Server, Tls};
use super::render::plain;
use super::{Failure, print};

/// Probes run every few seconds, so a slower answer counts as none.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Lists the fixed names; the account names depend on the server's configuration.
const UNKNOWN: &str = "the server has no health service of that name\n  try: readiness, liveness, \
                       orderquery.v1.OrderService, account/NAME with an account of its \
                       configuration, or nothing for the whole server";

/// Asks a running server for its health.
#[derive(Args)]
pub(super) struct Health {
    /// What to ask for: nothing for the whole server, or a name such as `liveness` or
    /// `account/NAME`
    #[arg(default_value = "")]
    service: String,
    /// The server; either listener answers
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9090")]
    endpoint: Endpoint,
    #[command(flatten)]
    tls: Tls,
}

impl Health {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let server = Server { endpoint: &self.endpoint, tls: &self.tls };
        let mut client = HealthClient::new(server.connect().await?);
        let mut request = Request::new(HealthCheckRequest { service: self.service });
        request.set_timeout(TIMEOUT);
        let answer = tokio::time::timeout(TIMEOUT, client.check(request)).await;
        let status = match answer {
            Err(_elapsed) => return Err(Failure::Failed(format!("no answer within {TIMEOUT:?}"))),
            Ok(Err(status)) if status.code() == Code::NotFound => ServingStatus::ServiceUnknown,
            Ok(Err(status)) => {
                let server_error = || Failure::Failed(plain(status.message()));
                return Err(server.lost(&status).await.unwrap_or_else(server_error));
            }
            Ok(Ok(response)) => response.get_ref().status(),
        };
        print(status.as_str_name())?;
        match status {
            ServingStatus::Serving => Ok(()),
            ServingStatus::ServiceUnknown => Err(Failure::Failed(UNKNOWN.to_owned())),
            _ => Err(Failure::Failed("the server is not serving".to_owned())),
        }
    }
}
