//! `order-query watch`

use clap::Args;

use super::client::{Which, json, told};
use super::{Failure, print, sheet};
use crate::pb::order_service_client::OrderServiceClient;
use crate::pb::{GetOrderResponse, WatchOrderRequest};

/// Prints an order until it will not change any more.
#[derive(Args)]
pub(super) struct Watch {
    #[command(flatten)]
    which: Which,
}

impl Watch {
    /// Bounded by the order's own life, and by Ctrl-C.
    pub(super) async fn run(self) -> Result<(), Failure> {
        let failed = |status| Failure::Failed(told(&status));
        let mut client = OrderServiceClient::new(self.which.connect().await?);
        let request = WatchOrderRequest { order: Some(self.which.order()) };
        let request = self.which.request(request)?;
        let mut news = client.watch_order(request).await.map_err(failed)?.into_inner();
        while let Some(change) = news.message().await.map_err(failed)? {
            if self.which.json {
                print(json("WatchOrderResponse", &change)?)?;
            } else {
                let (order, source) = (change.order, change.source);
                let answer = GetOrderResponse { order, source, refresh_time: None };
                print(sheet::order(&answer))?;
            }
        }
        Ok(())
    }
}
