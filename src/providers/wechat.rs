//! WeChat service market: orders that a service provider bought
//! (`wxa/charge/service-provider/order/get`). Facts marked *found* come from the vendor's other public
//! pages and libraries, not from its page on that call; *assumed* marks our own reading.

mod token;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use prost_types::Timestamp;

use self::token::Tokens;
use super::wire::{self, Object, Read, Refusal, Scalar, Words};
use super::{LiveCheck, Provider, Query, Resources, Rules, Token, TokenStore};
use crate::clock::Clock;
use crate::config::{Secret, Section};
use crate::error::Error;
use crate::outbound::{Answer, Client, Permit, Request};
use crate::pb::{
    ErrorReason, Invoice, InvoiceStatus, Money, Order, OrderItem, OrderStatus, Payment,
    ResourceUsage,
};
use crate::telemetry::metrics::Metrics;

/// The vendor's name in metrics and logs.
const VENDOR: &str = "wechat";

const BASE_URL: &str = "https://api.weixin.qq.com";

const TIMEOUT: Duration = Duration::from_secs(3);

/// The vendor states no limits that are the same for all accounts; it answers 45009 and 45011.
const RULES: Rules = Rules {
    freshness: Duration::from_secs(10),
    calls_per_minute: None,
    calls_per_order_per_day: None,
    longest_call: TIMEOUT,
};

/// How many timeouts a call may take from its gate on: up to three to wait for another process that
/// renews the token, one to renew it, and one for the order.
const REQUESTS: u32 = 5;

/// `orderPrice` is documented to be in cents; the currency is *assumed*.
const CURRENCY: &str = "CNY";

/// `order.status`, as documented. The page describes none of them as final.
static STATUS: Words<OrderStatus> = Words::new(
    "order.status",
    [OrderStatus::Unspecified, OrderStatus::Other],
    &[
        ("1", OrderStatus::AwaitingPayment),
        ("2", OrderStatus::Paid),
        ("3", OrderStatus::Expired),
        ("5", OrderStatus::Refunding),
        ("6", OrderStatus::Refunded),
        ("7", OrderStatus::RefundFailed),
        ("9", OrderStatus::Canceled),
    ],
);

/// `invoiceInfo.invoiceStatus`, as documented, except 1: the page calls both 1 and 2 "Billed". ISSUING
/// is *assumed* for 1, because it promises less.
static INVOICE_STATUS: Words<InvoiceStatus> = Words::new(
    "invoiceInfo.invoiceStatus",
    [InvoiceStatus::Unspecified, InvoiceStatus::Other],
    &[
        ("1", InvoiceStatus::Issuing),
        ("2", InvoiceStatus::Issued),
        ("3", InvoiceStatus::Canceled),
        ("4", InvoiceStatus::Failed),
    ],
);

/// The vendor answers only addresses on its allowlist.
const UNLISTED: Refusal = Refusal::rejected(
    "add this machine's address to the vendor's allowlist, or set the account's proxy to an \
     address on it",
);

/// The `errcode` values that every call can return; those of one call only are next to that call.
const ERRORS: &[(&str, Refusal)] = {
    const STANDING: Refusal =
        Refusal::rejected("check the account's permissions and its status at the vendor");
    &[
        ("-1", Refusal::new(ErrorReason::ProviderUnavailable)),
        ("45009", Refusal::too_often_until_probed(Duration::from_mins(15))),
        ("45011", Refusal::too_often(Duration::from_mins(1))),
        ("48001", STANDING),
        ("48004", STANDING),
        ("50002", STANDING),
        ("50004", STANDING),
        ("61004", UNLISTED),
    ]
};

/// The `errcode` values of the order call: the first two are documented; 10120800 was seen on similar
/// calls, and its meaning here is *assumed*. The id is the only parameter that a caller provides.
const ORDER_ERRORS: &[(&str, Refusal)] = &[
    ("10120002", Refusal::of_field("id")),
    ("10120405", Refusal::new(ErrorReason::ProviderError)),
    ("10120800", Refusal::new(ErrorReason::OrderNotFound)),
];

/// The `errcode` values of the order call for a token that is invalid or has expired (*found*).
const TOKEN_REFUSED: &[&str] = &["40001", "40014", "42001"];

/// Reads the settings of an account.
pub(super) fn configure(
    section: &mut Section,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
) -> Option<Box<dyn Provider>> {
    let vendor = wire::Vendor::new(VENDOR, metrics);
    STATUS.announce(&vendor);
    INVOICE_STATUS.announce(&vendor);
    // Creates the counters of all fields. It cannot fail: every field of a blank order is readable.
    let _ = Object::blank(&vendor).must_object("order").and_then(|order| translated(&order));
    let client = Client::configure(section, Some(BASE_URL), TIMEOUT, clock, metrics);
    let tokens = token::Settings::read(section);
    let (client, settings) = (client?, tokens?);
    let refreshed = metrics.tokens.by_last([client.account()]);
    let identity = format!("{} {}", client.base_url(), settings.app_id);
    let tokens = Tokens::new(settings, vendor.clone(), refreshed, &identity, clock);
    Some(Box::new(Wechat { vendor, client, identity, tokens }))
}

struct Wechat {
    vendor: wire::Vendor,
    client: Client,
    identity: String,
    tokens: Tokens,
}

/// The result of one order call.
enum Asked {
    Order(Box<Order>),
    TokenRefused(Box<Error>),
}

#[async_trait]
impl Provider for Wechat {
    fn identity(&self) -> String {
        self.identity.clone()
    }

    fn secrets(&self) -> Vec<Secret> {
        self.tokens.secrets()
    }

    fn check_id(&self, id: &str) -> Result<(), Error> {
        wire::check_word_id(id)
    }

    fn rules(&self) -> Rules {
        Rules { longest_call: self.client.timeout() * REQUESTS, ..RULES }
    }

    async fn get_order(&self, query: &Query, resources: Resources<'_>) -> Result<Order, Error> {
        let store = resources.tokens;
        // A paused account must not ask for a token either, so the gate comes first.
        let (token, answer) = super::counted(resources.gate, |permit| async {
            let token = self.tokens.current(&self.client, store).await?;
            Ok((token.clone(), self.send(query, &token, permit).await?))
        })
        .await?;
        let refusal = match self.read(query, &answer, &token)? {
            Asked::Order(order) => return Ok(*order),
            Asked::TokenRefused(error) => *error,
        };
        let (token, answer) = super::counted(resources.gate, |permit| async {
            let token = self.tokens.replace(&self.client, store, &token, refusal).await?;
            Ok((token.clone(), self.send(query, &token, permit).await?))
        })
        .await?;
        match self.read(query, &answer, &token)? {
            Asked::Order(order) => Ok(*order),
            Asked::TokenRefused(error) => Err(self.tokens.give_up(store, &token, *error).await),
        }
    }

    async fn live_check(&self, shared: Option<&dyn TokenStore>) -> Result<LiveCheck, Error> {
        let (answer, token) = self.tokens.live_check(&self.client, shared).await?;
        Ok(LiveCheck::of(&answer, token.map(|_| "app_id and app_secret accepted")))
    }

    fn live_check_ends_a_token(&self) -> bool {
        self.tokens.end_one_another()
    }
}

impl Wechat {
    async fn send(&self, query: &Query, token: &Token, permit: Permit) -> Result<Answer, Error> {
        let request = Request {
            operation: "order",
            path: &["wxa", "charge", "service-provider", "order", "get"],
            query: &[("access_token", token.value.expose()), ("orderId", &query.id)],
            ..Request::default()
        };
        self.client.send(request, permit).await
    }

    /// Reads an answer to a call with that token, and removes the token from the vendor's texts.
    fn read(&self, query: &Query, answer: &Answer, token: &Token) -> Result<Asked, Error> {
        match self.asked(query, answer) {
            Ok(Asked::TokenRefused(error)) => {
                Ok(Asked::TokenRefused(Box::new(error.without(&token.value))))
            }
            outcome => outcome.map_err(|error| error.without(&token.value)),
        }
    }

    fn asked(&self, query: &Query, answer: &Answer) -> Result<Asked, Error> {
        let (envelope, code) = wire::envelope(&self.vendor, answer, "errcode")?;
        // It is absent or 0 in a successful answer.
        if let Some(value) = code.nonzero() {
            let text = envelope.said(&["errmsg"]);
            if TOKEN_REFUSED.contains(&value) {
                let rejected = Refusal::new(ErrorReason::ProviderCredentialsRejected);
                let error = rejected.error(code.text(), &text);
                return Ok(Asked::TokenRefused(Box::new(error)));
            }
            return Err(wire::refused(row(ORDER_ERRORS, value), answer, &code, &text));
        }
        answer.check_status()?;
        let order = envelope.must_object("order")?;
        if order.must_whole("orderId")?.value() != query.id {
            return Err(Error::unreadable("it is about another order"));
        }
        let order = translated(&order)?;
        let (id, observe_time) = (query.id.clone(), Some(answer.sent.into()));
        Ok(Asked::Order(Box::new(Order { id, observe_time, ..order })))
    }
}

/// The row of a code in the table of its call, or else in the table of all calls.
fn row(of_call: &[(&str, Refusal)], code: &str) -> Option<Refusal> {
    wire::row(&[of_call, ERRORS], code)
}

/// Reads the vendor's `order` object.
fn translated(order: &Object) -> Result<Order, Error> {
    let status = order.must_whole("status")?;
    let total = order.must("orderPrice", Scalar::integer)?;
    let product = order.object("orderProductInfo");
    Ok(Order {
        status: order.meaning(&STATUS, &status).into(),
        provider_status: status.text().to_owned(),
        total: total.map(|minor_units| Money { currency_code: CURRENCY.to_owned(), minor_units }),
        create_time: order.side("createTime", milliseconds),
        update_time: order.side("updateTime", milliseconds),
        payment: order.object("payInfo").as_ref().map(payment),
        invoice: order.object("invoiceInfo").as_ref().map(invoice),
        items: product.as_ref().map(item).into_iter().collect(),
        usage: order.object("usage").as_ref().and_then(usage),
        ..Order::default()
    })
}

fn milliseconds(time: &Scalar) -> Read<Timestamp> {
    time.unix_time(Duration::from_millis(1))
}

fn seconds(time: &Scalar) -> Read<Timestamp> {
    time.unix_time(Duration::from_secs(1))
}

fn payment(info: &Object) -> Payment {
    Payment {
        apply_time: info.side("applyPayTime", seconds),
        finish_time: info.side("finishPayTime", seconds),
    }
}

fn invoice(info: &Object) -> Invoice {
    let (status, provider_status) = info.word("invoiceStatus", &INVOICE_STATUS);
    let apply_time = info.side("invoiceApplyTime", seconds);
    Invoice { status: status.into(), provider_status, apply_time }
}

fn item(product: &Object) -> OrderItem {
    // The name that the page's sample has for `validityEndTime`.
    let sample_end = product.side("validity", seconds);
    OrderItem {
        product_id: product.id("spSpuId"),
        sku_id: product.id("spSkuId"),
        business_id: product.id("spBizId"),
        product_name: product.text("spuName"),
        sku_name: product.text("skuName"),
        quantity: product.side("skuCnt", Scalar::integer),
        valid_from: product.side("validityBeginTime", seconds),
        valid_until: product.side("validityEndTime", seconds).or(sample_end),
        ..OrderItem::default()
    }
}

/// Unset unless the vendor sends both numbers: the contract cannot leave out only one.
fn usage(usage: &Object) -> Option<ResourceUsage> {
    let used = usage.side("used", Scalar::integer);
    let total = usage.side("all", Scalar::integer);
    used.zip(total).map(|(used, total)| ResourceUsage { used, total })
}
