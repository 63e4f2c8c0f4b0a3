//! What the mapping tests share: a server that calls a scripted vendor, and outcomes as JSON, so that they
//! can be compared with files.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use axum::body::Bytes;
use order_query::clock::ManualClock;
use order_query::pb::{DESCRIPTORS, GetOrderRequest, Order};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::{Value, json};

use crate::support::facts::Vendor;
use crate::support::{Failed, Scripted, Server, manual_clock};

/// The contract's descriptors.
pub(super) static CONTRACT: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).unwrap());

/// The account's name in every test.
const ACCOUNT: &str = "main";

/// The outcome of that answer to the vendor's order call, on a new server: no
/// limit, token or earlier answer matters.
pub(super) async fn outcome(vendor: &Vendor, body: impl Into<Bytes>) -> Value {
    let bench = Bench::start(vendor).await;
    bench.scripted.answers(200, body);
    bench.finish(vendor.question()).await
}

/// A server with one account at a scripted vendor, at a time that stands still.
pub(super) struct Bench<'a> {
    pub(super) vendor: &'a Vendor,
    pub(super) scripted: Scripted,
    pub(super) clock: ManualClock,
    server: Server,
}

impl<'a> Bench<'a> {
    /// With the account of `vendor.toml`.
    pub(super) async fn start(vendor: &'a Vendor) -> Self {
        Self::start_with(vendor, |_| {}).await
    }

    /// With an account that is changed.
    pub(super) async fn start_with(
        vendor: &'a Vendor,
        change: impl FnOnce(&mut BTreeMap<String, String>),
    ) -> Self {
        let scripted = Scripted::start().await;
        let config = vendor.account(ACCOUNT, &scripted.url(), change);
        let clock = manual_clock();
        let server = Server::start_at(&config, Arc::new(clock.clone())).await;
        let bench = Self { vendor, scripted, clock, server };
        bench.reset();
        bench
    }

    /// Resets the vendor to its documented answers.
    pub(super) fn reset(&self) {
        self.scripted.answers(200, self.vendor.text("order.answer.json"));
        for call in self.vendor.sheet.calls.values() {
            self.scripted.answers_at(&call.path, 200, call.answer.clone());
        }
    }

    /// The outcome of a request: the order, or `{"failure": …}`.
    pub(super) async fn ask(&self, question: GetOrderRequest) -> Value {
        match self.server.get(question).await {
            Ok(answer) => canonical(&answer.order.unwrap()),
            Err(failed) => json!({ "failure": self.failure(&failed) }),
        }
    }

    /// The same, and stops the server.
    pub(super) async fn finish(self, question: GetOrderRequest) -> Value {
        let outcome = self.ask(question).await;
        self.server.app.stop().await;
        outcome
    }

    fn failure(&self, failed: &Failed) -> Value {
        assert_eq!(failed.domain, "orderquery", "{failed:?}");
        assert_eq!(failed.metadata["provider"], self.vendor.provider.word());
        assert_eq!(failed.metadata["account"], ACCOUNT);
        let retry = failed.retry_delay.inspect(|delay| assert_eq!(delay.subsec_nanos(), 0));
        let members = [
            ("code", Some(json!(code_name(failed.code)))),
            ("reason", Some(json!(failed.reason))),
            ("field", failed.field.as_ref().map(|field| json!(field))),
            ("retry_seconds", retry.map(|delay| json!(delay.as_secs()))),
            ("provider_code", failed.metadata.get("provider_code").map(|code| json!(code))),
            ("provider_message", failed.metadata.get("provider_message").map(|text| json!(text))),
        ];
        members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

/// A gRPC code in the contract's spelling: `NOT_FOUND`.
fn code_name(code: tonic::Code) -> String {
    let mut name = String::new();
    for c in format!("{code:?}").chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

/// The order as canonical protobuf JSON.
pub(super) fn canonical(order: &Order) -> Value {
    let message = CONTRACT.get_message_by_name("orderquery.v1.Order").unwrap();
    let message = DynamicMessage::decode(message, order.encode_to_vec().as_slice()).unwrap();
    serde_json::to_value(&message).unwrap()
}

/// The failure for an unreadable answer.
pub(super) fn unreadable() -> Value {
    json!({ "failure": { "code": "INTERNAL", "reason": "PROVIDER_RESPONSE_INVALID" } })
}
