//! Clients: who is accepted and who is not, which accounts each may use, and its share of vendor
//! calls.

mod accounts;
mod certificates;
mod commands;
mod rotation;
mod shares;
mod wrong;

use http::HeaderMap;
use order_query::clock::ManualClock;
use order_query::pb::{GetOrderRequest, OrderRef, Provider, WatchOrderRequest, WatchOrderResponse};
use tonic::metadata::MetadataMap;
use tonic::{Request, Streaming};

use crate::support::{Failed, Scripted, Server, manual_clock};

/// The tokens of two clients.
const BILLING: &str = "token-of-billing-0001";
const AUDIT: &str = "token-of-audit-000002";

/// Both clients as configuration.
fn two_clients() -> String {
    format!("clients.billing.token = \"{BILLING}\"\nclients.audit.token = \"{AUDIT}\"\n")
}

/// The message with these `authorization` headers.
fn with_headers<T>(message: T, values: &[&[u8]]) -> Request<T> {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append("authorization", http::HeaderValue::from_bytes(value).unwrap());
    }
    let metadata = MetadataMap::from_headers(headers);
    Request::from_parts(metadata, http::Extensions::new(), message)
}

/// The message with this token.
fn with_token<T>(message: T, token: &str) -> Request<T> {
    with_headers(message, &[format!("Bearer {token}").as_bytes()])
}

/// A server and the one vendor of its accounts: Haoka, unless the configuration differs.
struct Fixture {
    vendor: Scripted,
    clock: ManualClock,
    server: Server,
}

impl Fixture {
    /// With these lines, in which `VENDOR` stands for the vendor's address.
    async fn new(lines: &str) -> Self {
        let (vendor, clock) = (Scripted::start().await, manual_clock());
        vendor.answers(200, shipped());
        let lines = lines.replace("VENDOR", &format!("http://{}", vendor.address));
        let server = Server::start_at(&lines, std::sync::Arc::new(clock.clone())).await;
        Self { vendor, clock, server }
    }

    /// The source of the answer, or the reason of the failure.
    async fn get(&self, token: &str, order: &OrderRef) -> Result<&'static str, Failed> {
        self.get_as_old(token, order, None).await
    }

    async fn get_now(&self, token: &str, order: &OrderRef) -> Result<&'static str, Failed> {
        self.get_as_old(token, order, Some(prost_types::Duration::default())).await
    }

    async fn get_as_old(
        &self,
        token: &str,
        order: &OrderRef,
        max_age: Option<prost_types::Duration>,
    ) -> Result<&'static str, Failed> {
        let OrderRef { provider, id, account, machine_no } = order.clone();
        let request =
            GetOrderRequest { provider, id, account, machine_no, max_age, ..Default::default() };
        let answer = self.server.ask(with_token(request, token)).await?;
        Ok(answer.source().as_str_name())
    }

    async fn watch(
        &self,
        token: &str,
        order: &OrderRef,
    ) -> Result<Streaming<WatchOrderResponse>, Failed> {
        let request = with_token(
            WatchOrderRequest { order: Some(order.clone()), ..Default::default() },
            token,
        );
        let watch = self.server.client.clone().watch_order(request).await;
        watch.map(tonic::Response::into_inner).map_err(|status| Failed::from(&status))
    }
}

/// An account at Haoka of that name.
fn haoka(name: &str) -> String {
    format!(
        "[accounts.{name}]\nprovider = \"haoka\"\nuser_id = \"{name}\"\nsecret = \"s\"\n\
         base_url = \"VENDOR\"\n"
    )
}

/// What Haoka answers.
fn shipped() -> &'static str {
    "{\"code\":0,\"data\":{\"orderStatus\":\"已发货\"}}"
}

/// An order at Haoka.
fn order(id: &str) -> OrderRef {
    OrderRef { provider: Provider::Haoka.into(), id: id.to_owned(), ..OrderRef::default() }
}

/// An order, to be fetched with that account.
fn order_of(account: &str, id: &str) -> OrderRef {
    OrderRef { account: account.to_owned(), ..order(id) }
}
