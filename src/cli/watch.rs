//! `order-query watch`

use clap::Args;

use super::client::{OrderArgs, call_failure, json};
use super::{Failure, print, render};
use crate::pb::order_service_client::OrderServiceClient;
use crate::pb::{GetOrderResponse, WatchOrderRequest};

/// Prints an order at each change until its status is final.
#[derive(Args)]
pub(super) struct Watch {
    #[command(flatten)]
    which: OrderArgs,
}

impl Watch {
    /// Has no timeout: runs until the server ends the stream, which it does when the order is final, or
    /// until Ctrl-C.
    pub(super) async fn run(self) -> Result<(), Failure> {
        let server = self.which.server();
        let (order, min_observe_time) = (Some(self.which.order()), self.which.min_observe_time);
        let request = WatchOrderRequest { order, min_observe_time };
        let request = self.which.request(request)?;
        let mut client = OrderServiceClient::new(server.connect().await?);
        let mut news = match client.watch_order(request).await {
            Ok(news) => news.into_inner(),
            Err(status) => return Err(server.failed(&status).await),
        };
        let mut heard = false;
        loop {
            let change = match news.message().await {
                Ok(Some(change)) => change,
                Ok(None) => return Ok(()),
                Err(status) if heard => return Err(call_failure(&status)),
                Err(status) => return Err(server.failed(&status).await),
            };
            heard = true;
            if self.which.json {
                print(json("WatchOrderResponse", &change)?)?;
            } else {
                let (order, source) = (change.order, change.source);
                let answer = GetOrderResponse { order, source, refresh_time: None };
                print(render::order(&answer))?;
            }
        }
    }
}
