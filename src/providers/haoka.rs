//! 172 Haoka SIM cards (`api/order/GetOrderInfo`). Facts marked *found* are not on the vendor's
//! page of that call but in its public clients; what is *assumed* is our reading.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use prost_types::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::wire::{self, Maybe, Refusal, Scalar, Words};
use super::{CLOCK_TOLERANCE, Means, Proof, Provider, Query, Rules, TokenStore};
use crate::clock::Clock;
use crate::config::{RotatingSecret, Secret, Section};
use crate::error::{Closing, Error};
use crate::outbound::{Answer, Body, Client, Request};
use crate::pb::{
    self, ActivationStatus, ErrorReason, Order, OrderStatus, Recipient, Shipment, SimCard,
};

const BASE_URL: &str = "https://haokaopenapi.lot-ml.com";

/// The documented limits, and how we ask within them. The time is longer than the other
/// vendors': a call that is given up still counts.
const RULES: Rules = Rules {
    freshness: Duration::from_mins(15),
    calls_per_minute: Some(200),
    calls_per_order_per_day: Some(10),
    longest_call: Duration::from_secs(10),
};

/// The vendor's times are of Asia/Shanghai (*assumed*), which is always UTC+8.
const HOURS_AHEAD: i8 = 8;

/// From how many seconds of difference between the vendor's clock and ours on it turns every call
/// down, as documented.
const CLOCK_LIMIT: u64 = 300;

/// `data.orderStatus`, and whether the vendor promises that it is the last; as documented but
/// for the last two (*found*).
static STATUS: Words<(OrderStatus, bool)> = Words::new(
    "haoka data.orderStatus",
    [(OrderStatus::Unspecified, false), (OrderStatus::Other, false)],
    &[
        ("待处理", (OrderStatus::Accepted, false)),
        ("已提运营商", (OrderStatus::Submitted, false)),
        ("已发货", (OrderStatus::Shipped, false)),
        ("已完成", (OrderStatus::Shipped, false)),
        ("已撤单", (OrderStatus::SubmissionFailed, true)),
        ("审核不通过", (OrderStatus::Rejected, true)),
        ("已取消", (OrderStatus::Canceled, true)),
        ("已结算", (OrderStatus::Settled, true)),
        ("无法结算", (OrderStatus::SettlementFailed, true)),
        ("正在进单", (OrderStatus::Accepted, false)),
        ("审核失败", (OrderStatus::Rejected, false)),
    ],
);

/// `data.cardStatus`: the first is documented, the second *found*.
static CARD_STATUS: Words<ActivationStatus> = Words::new(
    "haoka data.cardStatus",
    [ActivationStatus::Unspecified, ActivationStatus::Other],
    &[("未激活", ActivationStatus::NotActivated), ("已激活", ActivationStatus::Activated)],
);

/// The only error text that is documented.
const NOT_FOUND: &str = "订单不存在";

/// What other error texts hold; their meaning is *assumed*.
const ERROR_TEXTS: &[(&str, Refusal)] = {
    const REJECTED: Refusal = Refusal::new(ErrorReason::ProviderCredentialsRejected);
    const BLOCKED: Refusal = Refusal::too_often(Duration::from_mins(1), Closing::ForTheTime);
    &[("签名", REJECTED), ("时间戳", REJECTED), ("频繁", BLOCKED), ("拦截", BLOCKED)]
};

/// How the request's fields are sent; public clients do both (*found*).
#[derive(Debug, Clone, Copy)]
enum Encoding {
    Multipart,
    UrlEncoded,
}

/// Reads the settings of an account.
pub(super) fn configure(
    section: &mut Section,
    clock: &Arc<dyn Clock>,
) -> Option<Box<dyn Provider>> {
    STATUS.announce();
    CARD_STATUS.announce();
    let client = Client::configure(section, Some(BASE_URL), RULES.longest_call, clock);
    let user_id: Option<String> = section.require("user_id");
    let secret = section.require_secret("secret", |_| Ok(()));
    let encodings = [("multipart", Encoding::Multipart), ("urlencoded", Encoding::UrlEncoded)];
    let encoding = section.choice("body", &encodings).unwrap_or(Encoding::Multipart);
    Some(Box::new(Haoka {
        client: client?,
        user_id: user_id?,
        secret: secret?,
        encoding,
        clocks_differ: AtomicBool::new(false),
    }))
}

struct Haoka {
    client: Client,
    user_id: String,
    secret: RotatingSecret,
    encoding: Encoding,
    /// Whether the last answer's `Date` was far from our clock.
    clocks_differ: AtomicBool,
}

#[async_trait]
impl Provider for Haoka {
    fn identity(&self) -> String {
        format!("{} {}", self.client.base_url(), self.user_id)
    }

    fn secrets(&self) -> Vec<Secret> {
        vec![self.secret.current()]
    }

    fn check_id(&self, id: &str) -> Result<(), Error> {
        wire::check_word_id(id)
    }

    fn rules(&self) -> Rules {
        Rules { longest_call: self.client.timeout(), ..RULES }
    }

    async fn get_order(&self, query: &Query, means: Means<'_>) -> Result<Order, Error> {
        let answer = super::through(means.gate, self.send(query)).await?;
        self.compare_clocks(&answer);
        Self::read(query, &answer)
    }

    /// Every call of the vendor's that tells of credentials is one for an order, and counts as one.
    /// So only its clock is asked for, at a path where none of its calls is.
    async fn prove(&self, _: Option<&dyn TokenStore>) -> Result<Proof, Error> {
        let answer = self.client.send(Request { operation: "clock", ..Request::default() }).await?;
        let taken = match answer.check_status() {
            // No page need be there.
            Ok(()) | Err(Error { reason: ErrorReason::ProviderError, .. }) => {
                Ok("credentials not proved, because only a call for an order could")
            }
            Err(error) => Err(error),
        };
        Ok(Proof { clock_limit: Some(CLOCK_LIMIT), ..Proof::of(&answer, taken) })
    }
}

impl Haoka {
    async fn send(&self, query: &Query) -> Result<Answer, Error> {
        let timestamp = self.client.unix_time().to_string();
        let sign = sign(&query.id, &timestamp, &self.user_id, &self.secret.current());
        let fields = [
            ("user_id", self.user_id.as_str()),
            ("Timestamp", &timestamp),
            ("DownOrderID", &query.id),
            ("user_sign", &sign),
        ];
        let body = match self.encoding {
            Encoding::Multipart => Body::Multipart(&fields),
            Encoding::UrlEncoded => Body::UrlEncoded(&fields),
        };
        let path = &["api", "order", "GetOrderInfo"];
        let request = Request { operation: "order", path, body, ..Request::default() };
        self.client.send(request).await
    }

    fn read(query: &Query, answer: &Answer) -> Result<Order, Error> {
        let envelope: Envelope<'_> = wire::envelope(answer)?;
        match envelope.code.some() {
            Some("0") => {}
            Some(code) => {
                let text = envelope.text();
                let row = row(envelope.message.text(), &text);
                return Err(wire::refused(row, answer, code, &text));
            }
            // What is no envelope of the vendor's may come from a gateway before it.
            None => {
                return Err(answer
                    .check_status()
                    .err()
                    .unwrap_or_else(|| Error::unreadable("it holds no code")));
            }
        }
        answer.check_status()?;
        let data = envelope.data.0.filter(Data::is_an_order);
        let data = data.ok_or_else(|| Error::unreadable("it holds no order"))?;
        // The vendor masks numbers with "*".
        if data.down_order_no.some().is_some_and(|id| !id.contains('*') && id != query.id) {
            return Err(Error::unreadable("it is about another order"));
        }
        data.translate(query, answer.sent.into())
    }

    /// Warns when the vendor's clock and ours begin to differ.
    fn compare_clocks(&self, answer: &Answer) {
        let Some(seconds) = answer.clock_difference.map(i64::unsigned_abs) else { return };
        let differ = seconds >= CLOCK_TOLERANCE;
        if differ && !self.clocks_differ.swap(differ, Ordering::Relaxed) {
            tracing::warn!(
                seconds,
                "haoka's clock and ours differ; at 300 s the vendor turns every call down"
            );
        }
        self.clocks_differ.store(differ, Ordering::Relaxed);
    }
}

/// The signature: the fields in natural order, raw, and the secret at once behind them.
fn sign(id: &str, timestamp: &str, user_id: &str, secret: &Secret) -> String {
    let secret = secret.expose();
    wire::md5_hex(&format!("DownOrderID={id}&Timestamp={timestamp}&user_id={user_id}{secret}"))
}

/// What an error means: by its message alone, or by what it and `errs` hold together.
fn row(message: &str, text: &str) -> Option<Refusal> {
    if message == NOT_FOUND {
        return Some(Refusal::new(ErrorReason::OrderNotFound));
    }
    ERROR_TEXTS.iter().find(|(part, _)| text.contains(part)).map(|(_, row)| *row)
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(default)]
    code: Scalar,
    #[serde(default)]
    message: Scalar,
    #[serde(default)]
    data: Maybe<Data>,
    /// A list of texts, where there is one; a text alone is taken as well.
    #[serde(borrow)]
    errs: Option<&'a RawValue>,
}

impl Envelope<'_> {
    /// The message and the texts of `errs`.
    fn text(&self) -> String {
        let errs = self.errs.map_or("", RawValue::get);
        let errs = serde_json::from_str::<Vec<Scalar>>(errs)
            .or_else(|_| serde_json::from_str(errs).map(|text| vec![text]))
            .unwrap_or_default();
        let texts = [&self.message].into_iter().chain(&errs).filter_map(Scalar::some);
        texts.collect::<Vec<_>>().join("; ")
    }
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Data {
    order_no: Scalar,
    down_order_no: Scalar,
    name: Scalar,
    express_name: Scalar,
    express_code: Scalar,
    order_status: Scalar,
    create_time: Scalar,
    third_phone: Scalar,
    remark: Scalar,
    card_status: Scalar,
    activation_time: Scalar,
    is_first_charge: Scalar,
    first_charge: Scalar,
}

impl Data {
    fn is_an_order(&self) -> bool {
        [&self.order_no, &self.down_order_no, &self.order_status]
            .iter()
            .any(|field| field.some().is_some())
    }

    fn translate(&self, query: &Query, observe_time: Timestamp) -> Result<Order, Error> {
        let (status, terminal) = STATUS.meaning(self.order_status.text());
        let shipment = Shipment {
            carrier: self.express_name.text().to_owned(),
            tracking_number: self.express_code.text().to_owned(),
        };
        let recipient = Recipient {
            name: self.name.text().to_owned(),
            phone: self.third_phone.text().to_owned(),
        };
        let sim_card = SimCard {
            activation_status: CARD_STATUS.meaning(self.card_status.text()).into(),
            provider_status: self.card_status.text().to_owned(),
            activation_time: self.activation_time.civil_time("activationTime", HOURS_AHEAD)?,
            first_topped_up: self.is_first_charge.flag("isFirstCharge")?,
            first_top_up: self.first_charge.text().to_owned(),
        };
        Ok(Order {
            provider: pb::Provider::Haoka.into(),
            id: query.id.clone(),
            provider_order_id: self.order_no.text().to_owned(),
            status: status.into(),
            provider_status: self.order_status.text().to_owned(),
            terminal,
            observe_time: Some(observe_time),
            create_time: self.create_time.civil_time("createTime", HOURS_AHEAD)?,
            shipment: told(shipment),
            sim_card: told(sim_card),
            recipient: told(recipient),
            remark: self.remark.text().to_owned(),
            ..Order::default()
        })
    }
}

/// The message, unless the vendor told nothing of it.
fn told<M: Default + PartialEq>(message: M) -> Option<M> {
    Some(message).filter(|message| *message != M::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_the_documented_one() {
        let sign = sign("A1", "1700000000", "agent", &Secret::from("s3cret"));
        assert_eq!(sign, "12e4ac16d72b83a096ec0ac3e4095b14");
    }
}
