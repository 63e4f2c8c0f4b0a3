//! Dingshang vending machines (`api/openapi/v1/orders`). Facts marked *found* come from the vendor's
//! other public pages and clients, not from its page on that call; *assumed* marks our own reading.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use iso_currency::Currency;
use serde::Serialize;

use super::wire::{self, Object, Read, Refusal, Scalar, Words};
use super::{LiveCheck, Provider, Query, Resources, Rules, TokenStore};
use crate::clock::Clock;
use crate::config::{RotatingSecret, Secret, Section};
use crate::error::Error;
use crate::outbound::{Answer, Body, Client, Counting, Permit, Request, Uncounted};
use crate::pb::{ErrorReason, FulfillmentStatus, Money, Order, OrderItem, OrderStatus};
use crate::telemetry::metrics::Metrics;

/// The vendor's name in metrics and logs.
const VENDOR: &str = "dingshang";

/// The vendor states no limits.
const RULES: Rules = Rules {
    freshness: Duration::from_secs(5),
    calls_per_minute: None,
    calls_per_order_per_day: None,
    longest_call: Duration::from_secs(3),
};

/// The currency of amounts if the account sets none (*assumed*).
const CURRENCY: Currency = Currency::CNY;

/// `data.status`, as documented. No status is documented as final. `TESTPAY` must never read as paid:
/// someone would count the money.
static STATUS: Words<OrderStatus> = Words::new(
    "data.status",
    [OrderStatus::Unspecified, OrderStatus::Other],
    &[
        ("SUCCESS", OrderStatus::Paid),
        ("REFUND", OrderStatus::Refunding),
        ("CLOSED", OrderStatus::Closed),
        ("REVOKED", OrderStatus::Canceled),
        ("USERPAYING", OrderStatus::PaymentInProgress),
        ("PAYERROR", OrderStatus::PaymentFailed),
        ("PICKUPCODE", OrderStatus::PickupCode),
        ("NOTPAY", OrderStatus::AwaitingPayment),
        ("TESTPAY", OrderStatus::Test),
    ],
);

/// `data.records[].status`, as documented; the Chinese words come from older servers (*found*).
static RECORD_STATUS: Words<FulfillmentStatus> = Words::new(
    "data.records.status",
    [FulfillmentStatus::Unspecified, FulfillmentStatus::Other],
    &[
        ("WAITING_PICKED_UP", FulfillmentStatus::AwaitingDispense),
        ("IS_DELIVERING", FulfillmentStatus::Dispensing),
        ("IS_SUCCESS", FulfillmentStatus::Dispensed),
        ("IS_PICKED_UP", FulfillmentStatus::PickedUp),
        ("IS_FAILED", FulfillmentStatus::Failed),
        ("IS_TIMEOUT", FulfillmentStatus::TimedOut),
        ("IS_REFUND", FulfillmentStatus::Returned),
        ("未取货", FulfillmentStatus::AwaitingDispense),
        ("已取货", FulfillmentStatus::PickedUp),
        ("订单取消", FulfillmentStatus::Returned),
    ],
);

/// `code`; only 40005 is documented, the others are *found*. Some have other meanings elsewhere, so the
/// vendor's text is always passed on with them.
const ERRORS: &[(&str, Refusal)] = {
    const EXPIRED: Refusal = Refusal::new(ErrorReason::OrderExpired);
    const NOT_FOUND: Refusal = Refusal::new(ErrorReason::OrderNotFound);
    const MALFORMED: Refusal = Refusal::new(ErrorReason::InvalidRequest);
    const REJECTED: Refusal = Refusal::rejected(
        "check app_id, app_secret and app_key, and the merchant's status at the vendor",
    );
    const NO_MACHINE: Refusal = Refusal::of_field(MACHINE_NO);
    &[
        ("40005", EXPIRED),
        ("6042", EXPIRED),
        ("80002", NOT_FOUND),
        ("4004", NOT_FOUND),
        ("10001", MALFORMED),
        ("4003", MALFORMED),
        ("1000", REJECTED),
        ("4000", REJECTED),
        ("4001", REJECTED),
        ("4002", REJECTED),
        ("4006", REJECTED),
        ("4009", REJECTED),
        ("10008", REJECTED),
        ("10009", REJECTED),
        ("10010", REJECTED),
        ("10013", REJECTED),
        ("10014", REJECTED),
        ("6017", REJECTED),
        ("6018", REJECTED),
        ("6020", REJECTED),
        ("30003", NO_MACHINE),
        ("6026", NO_MACHINE),
    ]
};

const MACHINE_NO: &str = "machine_no";

/// Reads the settings of an account.
pub(super) fn configure(
    section: &mut Section,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
) -> Option<Box<dyn Provider>> {
    let vendor = wire::Vendor::new(VENDOR, metrics);
    STATUS.announce(&vendor);
    RECORD_STATUS.announce(&vendor);
    let client = Client::configure(section, None, RULES.longest_call, clock, metrics);
    let app_id: Option<String> = section.require("app_id");
    let app_secret = section.require_secret("app_secret", wire::fits_a_header);
    let app_key = section.secret("app_key", |_| Ok(()));
    let machine_no: Option<String> = section.take(MACHINE_NO);
    let currency = section.take::<String>("currency").map_or(Some(CURRENCY), |code| {
        let currency = Currency::from_code(&code);
        if currency.is_none() {
            section.problem("currency", "must be an ISO 4217 code such as \"CNY\"");
        }
        currency
    });
    if let Some(Err(text)) = app_id.as_deref().map(wire::fits_a_header) {
        section.problem("app_id", text);
    }
    if machine_no.as_deref().is_some_and(|number| !is_machine_no(number)) {
        section.problem(MACHINE_NO, MACHINE_NO_FORM);
    }
    if app_key.is_none() {
        section.warn("app_key", "is not set, so requests to the vendor are unsigned");
    }
    let currency = currency?;
    let dingshang = Dingshang {
        vendor,
        client: client?,
        app_id: app_id?,
        app_secret: app_secret?,
        app_key,
        machine_no,
        currency: currency.code(),
        // Currencies without a smaller unit (gold, for example) have no exponent.
        digits: currency.exponent().unwrap_or(0).into(),
    };
    // Creates the counters of all fields. It cannot fail: every field of a blank order is readable.
    let blank = Object::blank(&dingshang.vendor);
    let _ = blank.must_object("data").and_then(|data| dingshang.order(&data));
    Some(Box::new(dingshang))
}

struct Dingshang {
    vendor: wire::Vendor,
    client: Client,
    app_id: String,
    app_secret: RotatingSecret,
    app_key: Option<RotatingSecret>,
    machine_no: Option<String>,
    currency: &'static str,
    /// How many decimal places the currency has.
    digits: u32,
}

const MACHINE_NO_FORM: &str = "must be 8 to 20 decimal digits";

/// Usually eight digits; longer numbers exist (*found*).
fn is_machine_no(text: &str) -> bool {
    (8..=20).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
}

#[async_trait]
impl Provider for Dingshang {
    fn identity(&self) -> String {
        format!("{} {}", self.client.base_url(), self.app_id)
    }

    fn secrets(&self) -> Vec<Secret> {
        let secrets = [Some(&self.app_secret), self.app_key.as_ref()];
        secrets.into_iter().flatten().map(RotatingSecret::current).collect()
    }

    fn check_id(&self, id: &str) -> Result<(), Error> {
        // Rust's parser would also accept a "+" and leading zeros.
        if id.starts_with(|first: char| matches!(first, '1'..='9')) && id.parse::<u64>().is_ok() {
            Ok(())
        } else {
            let form = "the id must be a decimal number of at most 64 bits, without leading zeros";
            Err(Error::invalid("id", form))
        }
    }

    fn machine_no(&self, given: &str) -> Result<String, Error> {
        match (given, &self.machine_no) {
            ("", Some(default)) => Ok(default.clone()),
            ("", None) => Err(Error::invalid(
                MACHINE_NO,
                "machine_no is missing, and the account has no default",
            )),
            (given, _) if is_machine_no(given) => Ok(given.to_owned()),
            _ => Err(Error::invalid(MACHINE_NO, format!("machine_no {MACHINE_NO_FORM}"))),
        }
    }

    fn rules(&self) -> Rules {
        Rules { longest_call: self.client.timeout(), ..RULES }
    }

    async fn get_order(&self, query: &Query, resources: Resources<'_>) -> Result<Order, Error> {
        let answer = super::counted(resources.gate, |permit| self.send(query, permit)).await?;
        self.read(query, &answer)
    }

    /// The vendor's own test of `Appid` and `AppSecret` (*found*). It has no payload, and therefore no
    /// signature.
    async fn live_check(&self, _: Option<&dyn TokenStore>) -> Result<LiveCheck, Error> {
        let answer = self
            .post("ping", &["api", "openapi", "v1", "ping"], Body::EmptyPost, Uncounted)
            .await?;
        let credentials =
            accepted(&self.vendor, &answer).and_then(|envelope| match &self.app_key {
                _ if !envelope.has("data") => Err(Error::unreadable("it holds no data")),
                Some(_) => Ok("app_id and app_secret accepted, app_key not verified"),
                None => Ok("app_id and app_secret accepted"),
            });
        Ok(LiveCheck::of(&answer, credentials))
    }
}

impl Dingshang {
    async fn send(&self, query: &Query, permit: Permit) -> Result<Answer, Error> {
        let payload = self.payload(&query.machine_no, self.client.unix_time())?;
        let body = Body::Json(format!("{{\"payload\":\"{payload}\"}}"));
        self.post("order", &["api", "openapi", "v1", "orders", &query.id], body, permit).await
    }

    async fn post(
        &self,
        operation: &'static str,
        path: &[&str],
        body: Body<'_>,
        counting: impl Into<Counting>,
    ) -> Result<Answer, Error> {
        let app_secret = self.app_secret.current();
        let headers = &[("Appid", self.app_id.as_str()), ("AppSecret", app_secret.expose())];
        let request = Request { operation, path, headers, body, ..Request::default() };
        self.client.send(request, counting).await
    }

    fn read(&self, query: &Query, answer: &Answer) -> Result<Order, Error> {
        let envelope = accepted(&self.vendor, answer)?;
        let data = envelope.must_object("data")?;
        match data.must_whole("order_id")?.some() {
            None => Err(Error::unreadable("it holds no order")),
            Some(id) if id != query.id => Err(Error::unreadable("it is about another order")),
            Some(_) => Ok(Order {
                id: query.id.clone(),
                machine_no: query.machine_no.clone(),
                observe_time: Some(answer.sent.into()),
                ..self.order(&data)?
            }),
        }
    }

    /// The signed question, in base64.
    fn payload(&self, machine_no: &str, timestamp: u64) -> Result<String, Error> {
        #[derive(Serialize)]
        struct Payload<'a> {
            machine_no: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            sign: Option<String>,
            timestamp: &'a str,
        }
        let timestamp = timestamp.to_string();
        let signed = [(MACHINE_NO, machine_no), ("timestamp", &timestamp)];
        let sign = self.app_key.as_ref().map(|key| sign(&signed, &key.current()));
        let payload = Payload { machine_no, sign, timestamp: &timestamp };
        let json = serde_json::to_string(&payload);
        json.map(|json| BASE64.encode(json)).map_err(|error| Error::internal(error.to_string()))
    }

    /// Reads the order in `data`.
    fn order(&self, data: &Object) -> Result<Order, Error> {
        let status = data.must_whole("status")?;
        let total = data.must("amount", |it| it.amount(self.digits))?;
        let items = data.list("records", |record| self.item(record))?;
        Ok(Order {
            merchant_order_id: data.id("trade_id"),
            status: data.meaning(&STATUS, &status).into(),
            provider_status: status.text().to_owned(),
            total: self.money(total),
            create_date: data.side("date", Scalar::day).unwrap_or_default(),
            items,
            pickup_code_id: nonzero(data.id("pickup_code_id")),
            dispense_notice_count: data.side("notify_send_count", count),
            ..Order::default()
        })
    }

    /// Reads a line of the order. An unreadable line still shows that it exists.
    fn item(&self, record: Option<&Object>) -> OrderItem {
        let Some(record) = record else { return OrderItem::default() };
        let (fulfillment_status, provider_status) = record.word("status", &RECORD_STATUS);
        OrderItem {
            id: nonzero(record.id("id")),
            product_id: nonzero(record.id("product_id")),
            quantity: record.side("quantity", count),
            // The price of the whole line.
            total: self.money(record.side("price", |it| it.amount(self.digits))),
            fulfillment_status: fulfillment_status.into(),
            provider_status,
            dispense_notified: record
                .side("notify_sent", |it| it.flag().map(|sent| sent.or(Some(false)))),
            ..OrderItem::default()
        }
    }

    /// An absent amount is not 0 (*assumed*): amounts are texts, and only zero numbers and false
    /// booleans are left out.
    fn money(&self, minor_units: Option<i64>) -> Option<Money> {
        let currency_code = self.currency.to_owned();
        minor_units.map(|minor_units| Money { currency_code, minor_units })
    }
}

/// The envelope of an answer that is not an error.
fn accepted<'a>(vendor: &'a wire::Vendor, answer: &'a Answer) -> Result<Object<'a>, Error> {
    let (envelope, code) = wire::envelope(vendor, answer, "code")?;
    // Zero fields are left out, including the code.
    if code.nonzero().is_some() {
        let row = wire::row(&[ERRORS], code.value());
        return Err(wire::refused(row, answer, &code, &envelope.said(&["message"])));
    }
    answer.check_status()?;
    Ok(envelope)
}

/// A number that the vendor leaves out when it is 0.
fn count(number: &Scalar) -> Read<i64> {
    number.integer().map(|count| count.or(Some(0)))
}

/// An id, if there is one: 0 is protobuf's default for no id (*assumed*).
fn nonzero(id: String) -> String {
    if id == "0" { String::new() } else { id }
}

/// The signature (*found*): the non-empty fields, sorted, followed by the key.
fn sign(fields: &[(&str, &str)], key: &Secret) -> String {
    let mut fields: Vec<_> = fields.iter().filter(|(_, value)| !value.is_empty()).collect();
    fields.sort_unstable();
    let mut text = String::new();
    for (name, value) in fields {
        text = format!("{text}{name}={value}&");
    }
    wire::md5_hex(&format!("{text}key={}", key.expose())).to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_match_the_vendors_examples() {
        let key = Secret::from("kva");
        let machine = ("machine_no", "16327129");
        let time = ("timestamp", "1714115742");
        assert_eq!(sign(&[machine, time], &key), "B3C0E42739CBA66CDE7A5A59FAEEF82E");
        let sample = [time, ("status", "2"), ("empty", ""), machine];
        assert_eq!(sign(&sample, &key), "2FB6EF8110914E9C4F716551652E150A");
    }
}
