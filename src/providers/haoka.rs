//! 172 Haoka SIM cards (`api/order/GetOrderInfo`). Facts marked *found* come from the vendor's public
//! clients, not from its page on that call; *assumed* marks our own reading.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use super::wire::{self, Object, Refusal, Scalar, Words};
use super::{CLOCK_TOLERANCE, LiveCheck, Provider, Query, Resources, Rules, TokenStore};
use crate::clock::Clock;
use crate::config::{RotatingSecret, Secret, Section};
use crate::error::Error;
use crate::outbound::{Answer, Body, Client, Permit, Request, Uncounted};
use crate::pb::{ActivationStatus, ErrorReason, Order, OrderStatus, Recipient, Shipment, SimCard};
use crate::telemetry::metrics::Metrics;

/// The vendor's name in metrics and logs.
const VENDOR: &str = "haoka";

const BASE_URL: &str = "https://haokaopenapi.lot-ml.com";

/// The documented limits, and our settings within them. The timeout is longer than for other vendors: a
/// call that is abandoned still counts.
const RULES: Rules = Rules {
    freshness: Duration::from_mins(15),
    calls_per_minute: Some(200),
    calls_per_order_per_day: Some(10),
    longest_call: Duration::from_secs(10),
};

/// The vendor's times are in Asia/Shanghai (*assumed*), which is always UTC+8.
const HOURS_AHEAD: i8 = 8;

/// The documented clock difference, in seconds, from which the vendor rejects every call.
const CLOCK_LIMIT: u64 = 300;

/// `data.orderStatus`, and whether the vendor promises that it is final. All as documented, except the
/// last two (*found*).
static STATUS: Words<(OrderStatus, bool)> = Words::new(
    "data.orderStatus",
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
    "data.cardStatus",
    [ActivationStatus::Unspecified, ActivationStatus::Other],
    &[("未激活", ActivationStatus::NotActivated), ("已激活", ActivationStatus::Activated)],
);

/// The only documented error text.
const NOT_FOUND: &str = "订单不存在";

/// How long the vendor is not asked once it blocks us (*assumed*).
const BLOCKED_WAIT: Duration = Duration::from_mins(1);

/// Parts of other error texts; their meaning is *assumed*.
const ERROR_TEXTS: &[(&str, Refusal)] = {
    const REJECTED: Refusal = Refusal::new(ErrorReason::ProviderCredentialsRejected);
    const BLOCKED: Refusal = Refusal::too_often(BLOCKED_WAIT);
    &[("签名", REJECTED), ("时间戳", REJECTED), ("频繁", BLOCKED), ("拦截", BLOCKED)]
};

/// The HTTP statuses with which a firewall answers instead of the vendor when it blocks (*assumed*).
/// 404 is not among them: it comes from a wrong `base_url`.
const BLOCK_PAGE_STATUSES: &[u16] = &[200, 302, 403, 405, 418, 444, 493];

/// How many such pages in a row mean a block (*assumed*): one alone may concern a single request, or
/// come from a gateway.
const BLOCK_PAGES: u32 = 3;

/// How the request's fields are encoded; public clients use both ways (*found*).
#[derive(Debug, Clone, Copy)]
enum Encoding {
    Multipart,
    UrlEncoded,
}

/// Reads the settings of an account.
pub(super) fn configure(
    section: &mut Section,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
) -> Option<Box<dyn Provider>> {
    let vendor = wire::Vendor::new(VENDOR, metrics);
    STATUS.announce(&vendor);
    CARD_STATUS.announce(&vendor);
    // Creates the counters of all fields. It cannot fail: every field of a blank order is readable.
    let _ = Object::blank(&vendor).must_object("data").and_then(|data| order(&data));
    let client = Client::configure(section, Some(BASE_URL), RULES.longest_call, clock, metrics);
    let user_id: Option<String> = section.require("user_id");
    let secret = section.require_secret("secret", |_| Ok(()));
    let encodings = [("multipart", Encoding::Multipart), ("urlencoded", Encoding::UrlEncoded)];
    let encoding = section.choice("body", &encodings).unwrap_or(Encoding::Multipart);
    Some(Box::new(Haoka {
        vendor,
        client: client?,
        user_id: user_id?,
        secret: secret?,
        encoding,
        clocks_differ: AtomicBool::new(false),
        pages: AtomicU32::new(0),
    }))
}

struct Haoka {
    vendor: wire::Vendor,
    client: Client,
    user_id: String,
    secret: RotatingSecret,
    encoding: Encoding,
    /// Whether the last answer's `Date` differed much from our clock.
    clocks_differ: AtomicBool,
    /// How many firewall pages arrived since the vendor's own last answer.
    pages: AtomicU32,
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

    async fn get_order(&self, query: &Query, resources: Resources<'_>) -> Result<Order, Error> {
        let answer = super::counted(resources.gate, |permit| self.send(query, permit)).await?;
        self.compare_clocks(&answer);
        self.read(query, &answer)
    }

    /// Every vendor call that checks credentials is a call for an order, and counts as one. So this
    /// only compares the clocks, at a path that belongs to none of the vendor's calls.
    async fn live_check(&self, _: Option<&dyn TokenStore>) -> Result<LiveCheck, Error> {
        let request = Request { operation: "clock", ..Request::default() };
        let answer = self.client.send(request, Uncounted).await?;
        let credentials = match answer.check_status() {
            // The path may have no page.
            Ok(()) | Err(Error { reason: ErrorReason::ProviderError, .. }) => {
                Ok("credentials not verified, because only a call for an order can verify them")
            }
            Err(error) => Err(error),
        };
        Ok(LiveCheck { clock_limit: Some(CLOCK_LIMIT), ..LiveCheck::of(&answer, credentials) })
    }
}

impl Haoka {
    async fn send(&self, query: &Query, permit: Permit) -> Result<Answer, Error> {
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
        self.client.send(request, permit).await
    }

    fn read(&self, query: &Query, answer: &Answer) -> Result<Order, Error> {
        let (envelope, code) = match wire::envelope(&self.vendor, answer, "code") {
            // An answer without the vendor's envelope may come from a gateway in front of it.
            Ok((_, code)) if code.some().is_none() => {
                return Err(answer
                    .check_status()
                    .err()
                    .unwrap_or_else(|| Error::unreadable("it holds no code")));
            }
            Ok(read) => read,
            Err(error) => return Err(self.block(answer).unwrap_or(error)),
        };
        self.pages.store(0, Ordering::Relaxed);
        if code.nonzero().is_some() {
            let (row, text) = refusal(&envelope);
            return Err(wire::refused(row, answer, &code, &text));
        }
        answer.check_status()?;
        let data = envelope.must_object("data")?;
        let fields = ["orderNo", "downOrderNo", "orderStatus"];
        if fields.iter().all(|name| data.scalar(name).some().is_none()) {
            // If one of them is present but unreadable, that error is returned instead.
            data.must_whole("downOrderNo")?;
            data.must_whole("orderStatus")?;
            return Err(Error::unreadable("it holds no order"));
        }
        // The vendor masks numbers with "*".
        let id = data.must_whole("downOrderNo")?;
        if id.some().is_some_and(|id| !id.contains('*') && id != query.id) {
            return Err(Error::unreadable("it is about another order"));
        }
        let order = order(&data)?;
        Ok(Order { id: query.id.clone(), observe_time: Some(answer.sent.into()), ..order })
    }

    /// Returns the error for a page that a firewall sent instead of the vendor, once enough pages in a
    /// row mean that it blocks us: each further request prolongs the block.
    fn block(&self, answer: &Answer) -> Option<Error> {
        if !(BLOCK_PAGE_STATUSES.contains(&answer.status()) && answer.is_page()) {
            return None;
        }
        let pages = self.pages.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        (pages >= BLOCK_PAGES).then(|| {
            let message = "a firewall answers in place of the vendor, so requests to the vendor \
                           are suspended; the operator should ask the vendor about a block, and \
                           check the account's base_url";
            Error::too_often(BLOCKED_WAIT, true, message)
        })
    }

    /// Warns when the vendor's clock starts to differ from ours.
    fn compare_clocks(&self, answer: &Answer) {
        let Some(seconds) = answer.clock_difference.map(i64::unsigned_abs) else { return };
        let differ = seconds >= CLOCK_TOLERANCE;
        if differ && !self.clocks_differ.swap(differ, Ordering::Relaxed) {
            tracing::warn!(
                seconds,
                "the clocks of haoka and this machine differ; from 300 s on the vendor rejects \
                 every call"
            );
        }
        self.clocks_differ.store(differ, Ordering::Relaxed);
    }
}

/// The signature: the fields in natural order, unencoded, directly followed by the secret.
fn sign(id: &str, timestamp: &str, user_id: &str, secret: &Secret) -> String {
    let secret = secret.expose();
    wire::md5_hex(&format!("DownOrderID={id}&Timestamp={timestamp}&user_id={user_id}{secret}"))
}

/// What an error means, by its message alone or else by all its texts; and the text.
fn refusal(envelope: &Object) -> (Option<Refusal>, String) {
    let text = envelope.said(&["message", "errs"]);
    let is_not_found = match envelope.texts("message").as_slice() {
        [message] => message.whole().is_ok() && message.text() == NOT_FOUND,
        _ => false,
    };
    if is_not_found {
        return (Some(Refusal::new(ErrorReason::OrderNotFound)), text);
    }
    let row = ERROR_TEXTS.iter().find(|(part, _)| text.contains(part)).map(|(_, row)| *row);
    (row, text)
}

/// Reads the order in `data`.
fn order(data: &Object) -> Result<Order, Error> {
    let provider_status = data.must_whole("orderStatus")?;
    let (status, terminal) = data.meaning(&STATUS, &provider_status);
    let (activation_status, card_status) = data.word("cardStatus", &CARD_STATUS);
    let time = |it: &Scalar| it.civil_time(HOURS_AHEAD);
    let shipment =
        Shipment { carrier: data.text("expressName"), tracking_number: data.text("expressCode") };
    let recipient = Recipient { name: data.text("name"), phone: data.text("thirdPhone") };
    let sim_card = SimCard {
        activation_status: activation_status.into(),
        provider_status: card_status,
        activation_time: data.side("activationTime", time),
        first_topped_up: data.side("isFirstCharge", Scalar::flag),
        first_top_up: data.text("firstCharge"),
    };
    Ok(Order {
        provider_order_id: data.id("orderNo"),
        status: status.into(),
        provider_status: provider_status.text().to_owned(),
        terminal,
        create_time: data.side("createTime", time),
        shipment: unless_empty(shipment),
        sim_card: unless_empty(sim_card),
        recipient: unless_empty(recipient),
        remark: data.text("remark"),
        ..Order::default()
    })
}

/// The message, or `None` if all its fields are unset.
fn unless_empty<M: Default + PartialEq>(message: M) -> Option<M> {
    Some(message).filter(|message| *message != M::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_matches_the_documented_example() {
        let sign = sign("A1", "1700000000", "agent", &Secret::from("s3cret"));
        assert_eq!(sign, "12e4ac16d72b83a096ec0ac3e4095b14");
    }
}
