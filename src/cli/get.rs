//! `order-query get`

use std::time::Duration;

use clap::Args;
use tonic::Request;

use super::client::{OrderArgs, Server, json};
use super::{Failure, print, render};
use crate::pb::order_service_client::OrderServiceClient;
use crate::pb::{GetOrderRequest, GetOrderResponse, OrderRef};

/// How long to wait for an answer; servers have a shorter limit.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(2);

/// Asks a running server for an order.
#[derive(Args)]
pub(super) struct Get {
    #[command(flatten)]
    which: OrderArgs,
    /// The maximum age of the answer, such as 10m; 0 asks the vendor now
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    max_age: Option<prost_types::Duration>,
}

fn duration(text: &str) -> Result<prost_types::Duration, String> {
    // Zero needs no unit.
    let text = if text == "0" { "0s" } else { text };
    let parsed = jiff::fmt::friendly::SpanParser::new().parse_unsigned_duration(text).ok();
    parsed
        .and_then(|duration| duration.try_into().ok())
        .ok_or_else(|| "must be a duration such as 0s, 30s or 10m".to_owned())
}

impl Get {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let OrderRef { provider, id, account, machine_no } = self.which.order();
        let (max_age, min_observe_time) = (self.max_age, self.which.min_observe_time);
        let request =
            GetOrderRequest { provider, id, account, machine_no, max_age, min_observe_time };
        let request = self.which.request(request)?;
        let answer = ask(self.which.server(), request).await?;
        if self.which.json {
            print(json("GetOrderResponse", &answer)?)?;
        } else {
            print(render::order(&answer).trim_end())?;
        }
        Ok(())
    }
}

/// Makes one `GetOrder` call.
pub(super) async fn ask(
    server: Server<'_>,
    mut request: Request<GetOrderRequest>,
) -> Result<GetOrderResponse, Failure> {
    request.set_timeout(ANSWER_TIMEOUT);
    let mut client = OrderServiceClient::new(server.connect().await?);
    match tokio::time::timeout(ANSWER_TIMEOUT, client.get_order(request)).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(server.failed(&status).await),
        Err(_elapsed) => Err(Failure::Failed(format!("no answer within {ANSWER_TIMEOUT:?}"))),
    }
}
