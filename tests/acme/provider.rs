//! Acme's shops (`shops/SHOP/orders/ID`). Invented: the facts are those of `docs/adding-a-vendor.md`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use prost_types::Timestamp;

use super::wire::{self, Object, Read, Refusal, Scalar, Words};
use super::{LiveCheck, Provider, Query, Resources, Rules, TokenStore};
use crate::clock::Clock;
use crate::config::{RotatingSecret, Secret, Section};
use crate::error::Error;
use crate::outbound::{Answer, Client, Counting, Request, Uncounted};
use crate::pb::{ErrorReason, Money, Order, OrderStatus};
use crate::telemetry::metrics::Metrics;

/// What metrics and logs know the vendor by.
const VENDOR: &str = "acme";

const BASE_URL: &str = "https://api.acme.example";

/// The documented limit, and how we ask within it.
const RULES: Rules = Rules {
    freshness: Duration::from_secs(30),
    calls_per_minute: Some(60),
    calls_per_order_per_day: None,
    longest_call: Duration::from_secs(5),
};

/// Amounts are in cents, as documented; that they are in euros is *assumed*.
const CURRENCY: &str = "EUR";

/// `state`, and whether the vendor promises that it is the last.
static STATUS: Words<(OrderStatus, bool)> = Words::new(
    "state",
    [(OrderStatus::Unspecified, false), (OrderStatus::Other, false)],
    &[
        ("open", (OrderStatus::AwaitingPayment, false)),
        ("paid", (OrderStatus::Paid, false)),
        ("sent", (OrderStatus::Shipped, false)),
        ("canceled", (OrderStatus::Canceled, true)),
    ],
);

/// What an HTTP status means in an answer that has a `code`: the codes themselves are not documented.
const STATUSES: &[(u16, Refusal)] = &[
    (400, Refusal::of_field("id")),
    (401, Refusal::rejected("check shop and api_key")),
    (404, Refusal::new(ErrorReason::OrderNotFound)),
];

/// Reads the settings of an account.
pub(super) fn configure(
    section: &mut Section,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
) -> Option<Box<dyn Provider>> {
    let vendor = wire::Vendor::new(VENDOR, metrics);
    STATUS.announce(&vendor);
    // Every field of a blank order can be read.
    let _ = translated(&Object::blank(&vendor));
    let client = Client::configure(section, Some(BASE_URL), RULES.longest_call, clock, metrics);
    let shop: Option<String> = section.require("shop");
    let api_key = section.require_secret("api_key", wire::fits_a_header);
    Some(Box::new(Acme { vendor, client: client?, shop: shop?, api_key: api_key? }))
}

struct Acme {
    vendor: wire::Vendor,
    client: Client,
    shop: String,
    api_key: RotatingSecret,
}

#[async_trait]
impl Provider for Acme {
    fn identity(&self) -> String {
        format!("{} {}", self.client.base_url(), self.shop)
    }

    fn secrets(&self) -> Vec<Secret> {
        vec![self.api_key.current()]
    }

    fn check_id(&self, id: &str) -> Result<(), Error> {
        wire::check_word_id(id)
    }

    fn rules(&self) -> Rules {
        Rules { longest_call: self.client.timeout(), ..RULES }
    }

    async fn get_order(&self, query: &Query, resources: Resources<'_>) -> Result<Order, Error> {
        let path = ["shops", &self.shop, "orders", &query.id];
        let call = super::counted(resources.gate, |permit| self.get("order", &path, permit));
        let answer = call.await?;
        let order = accepted(&self.vendor, &answer)?;
        if order.must_whole("id")?.value() != query.id {
            return Err(Error::unreadable("it is about another order"));
        }
        let (id, observe_time) = (query.id.clone(), Some(answer.sent.into()));
        Ok(Order { id, observe_time, ..translated(&order)? })
    }

    /// The shop itself, which is no order: its calls do not count.
    async fn live_check(&self, _: Option<&dyn TokenStore>) -> Result<LiveCheck, Error> {
        let answer = self.get("shop", &["shops", &self.shop], Uncounted).await?;
        let credentials = accepted(&self.vendor, &answer).map(|_| "shop and api_key accepted");
        Ok(LiveCheck::of(&answer, credentials))
    }
}

impl Acme {
    async fn get(
        &self,
        operation: &'static str,
        path: &[&str],
        counting: impl Into<Counting>,
    ) -> Result<Answer, Error> {
        let bearer = format!("Bearer {}", self.api_key.current().expose());
        let headers = &[("authorization", bearer.as_str())];
        let request = Request { operation, path, headers, ..Request::default() };
        self.client.send(request, counting).await
    }
}

/// What the vendor answers with, unless that is a failure: those have a `code`.
fn accepted<'a>(vendor: &'a wire::Vendor, answer: &'a Answer) -> Result<Object<'a>, Error> {
    let (envelope, code) = wire::envelope(vendor, answer, "code")?;
    if code.nonzero().is_some() {
        let row = wire::row(&[STATUSES], answer.status());
        return Err(wire::refused(row, answer, &code, &envelope.said(&["message"])));
    }
    answer.check_status()?;
    Ok(envelope)
}

/// The order that the answer tells of.
fn translated(order: &Object) -> Result<Order, Error> {
    let state = order.must_whole("state")?;
    let (status, terminal) = order.meaning(&STATUS, &state);
    let total = order.must("amount_cents", Scalar::integer)?;
    Ok(Order {
        status: status.into(),
        provider_status: state.text().to_owned(),
        terminal,
        total: total.map(|minor_units| Money { currency_code: CURRENCY.to_owned(), minor_units }),
        create_time: order.side("created_at", seconds),
        remark: order.text("note"),
        ..Order::default()
    })
}

fn seconds(it: &Scalar) -> Read<Timestamp> {
    it.unix_time(Duration::from_secs(1))
}
