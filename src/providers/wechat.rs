//! WeChat service market: orders that a service provider bought
//! (`wxa/charge/service-provider/order/get`). Facts marked *found* are not on the vendor's page
//! of that call but in its other public pages and libraries; what is *assumed* is our reading.

mod token;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use prost_types::Timestamp;
use serde::Deserialize;

use self::token::Tokens;
use super::wire::{self, Maybe, Refusal, Scalar, Words};
use super::{Means, Proof, Provider, Query, Rules, Token, TokenStore};
use crate::clock::Clock;
use crate::config::{Secret, Section};
use crate::error::{Closing, Error};
use crate::metrics::TOKENS;
use crate::outbound::{Answer, Client, Request};
use crate::pb::{
    self, ErrorReason, Invoice, InvoiceStatus, Money, Order, OrderItem, OrderStatus, Payment,
    ResourceUsage,
};

const BASE_URL: &str = "https://api.weixin.qq.com";

const TIMEOUT: Duration = Duration::from_secs(3);

/// The vendor names no limits that are the same for all; it answers 45009 and 45011.
const RULES: Rules = Rules {
    freshness: Duration::from_secs(10),
    calls_per_minute: None,
    calls_per_order_per_day: None,
    longest_call: TIMEOUT,
};

/// How many timeouts a call may take from its gate on: up to three to wait for another process that
/// renews the token, one to renew it, and one for the order.
const REQUESTS: u32 = 5;

/// `orderPrice` is documented to be in cents; of which currency is *assumed*.
const CURRENCY: &str = "CNY";

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// `order.status`, as documented. The page promises of none that it is the last.
static STATUS: Words<OrderStatus> = Words::new(
    "wechat order.status",
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

/// `invoiceInfo.invoiceStatus`, as documented, but for 1: the page calls 1 and 2 "Billed", and
/// of the two readings ISSUING is *assumed* for 1, which promises less.
static INVOICE_STATUS: Words<InvoiceStatus> = Words::new(
    "wechat invoiceInfo.invoiceStatus",
    [InvoiceStatus::Unspecified, InvoiceStatus::Other],
    &[
        ("1", InvoiceStatus::Issuing),
        ("2", InvoiceStatus::Issued),
        ("3", InvoiceStatus::Canceled),
        ("4", InvoiceStatus::Failed),
    ],
);

/// The vendor answers listed addresses only.
const UNLISTED: Refusal = Refusal::rejected(
    "list this machine's address at the vendor, or set the account's proxy to one that is listed",
);

/// `errcode` of every call; those of one call only stand beside that call.
const ERRORS: &[(&str, Refusal)] = {
    const STANDING: Refusal =
        Refusal::rejected("look at the account's rights and its standing at the vendor");
    &[
        ("-1", Refusal::new(ErrorReason::ProviderUnavailable)),
        ("45009", Refusal::too_often(Duration::from_mins(15), Closing::UntilProbed)),
        ("45011", Refusal::too_often(Duration::from_mins(1), Closing::ForTheTime)),
        ("48001", STANDING),
        ("48004", STANDING),
        ("50002", STANDING),
        ("50004", STANDING),
        ("61004", UNLISTED),
    ]
};

/// `errcode` of the order call: the first two are documented, 10120800 was seen on sister calls,
/// and its meaning here is *assumed*. The id is the only parameter that a caller gives.
const ORDER_ERRORS: &[(&str, Refusal)] = &[
    ("10120002", Refusal::of_field("id")),
    ("10120405", Refusal::new(ErrorReason::ProviderError)),
    ("10120800", Refusal::new(ErrorReason::OrderNotFound)),
];

/// `errcode` of the order call for a token that is invalid or has expired (*found*).
const TOKEN_REFUSED: &[&str] = &["40001", "40014", "42001"];

/// Reads the settings of an account.
pub(super) fn configure(
    section: &mut Section,
    clock: &Arc<dyn Clock>,
) -> Option<Box<dyn Provider>> {
    STATUS.announce();
    INVOICE_STATUS.announce();
    let client = Client::configure(section, Some(BASE_URL), TIMEOUT, clock);
    let tokens = token::Settings::read(section);
    let (client, settings) = (client?, tokens?);
    TOKENS.add([client.account(), "OK"], 0);
    let identity = format!("{} {}", client.base_url(), settings.app_id);
    Some(Box::new(Wechat { tokens: Tokens::new(settings, &identity, clock), client, identity }))
}

struct Wechat {
    client: Client,
    identity: String,
    tokens: Tokens,
}

/// Without a token there is no call for the order.
fn unsent(error: Error) -> Error {
    Error { unsent: true, ..error }
}

/// What became of one order call.
enum Asked {
    Order(Box<Order>),
    TokenRefused(Error),
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

    async fn get_order(&self, query: &Query, means: Means<'_>) -> Result<Order, Error> {
        // A closed account is not asked for a token either, so the gate comes first.
        let (token, answer) = super::through(means.gate, async {
            let token = self.tokens.current(&self.client, means.tokens).await.map_err(unsent)?;
            Ok((token.clone(), self.send(query, &token).await?))
        })
        .await?;
        let refusal = match read(query, &answer, &token)? {
            Asked::Order(order) => return Ok(*order),
            Asked::TokenRefused(error) => error,
        };
        let (token, answer) = super::through(means.gate, async {
            let token = self
                .tokens
                .replace(&self.client, means.tokens, &token, refusal)
                .await
                .map_err(unsent)?;
            Ok((token.clone(), self.send(query, &token).await?))
        })
        .await?;
        match read(query, &answer, &token)? {
            Asked::Order(order) => Ok(*order),
            Asked::TokenRefused(error) => {
                Err(self.tokens.give_up(means.tokens, &token, error).await)
            }
        }
    }

    async fn prove(&self, shared: Option<&dyn TokenStore>) -> Result<Proof, Error> {
        let (answer, token) = self.tokens.prove(&self.client, shared).await?;
        Ok(Proof::of(&answer, token.map(|_| "app_id and app_secret taken")))
    }

    fn proof_ends_a_token(&self) -> bool {
        self.tokens.end_one_another()
    }
}

impl Wechat {
    async fn send(&self, query: &Query, token: &Token) -> Result<Answer, Error> {
        self.client
            .send(Request {
                operation: "order",
                path: &["wxa", "charge", "service-provider", "order", "get"],
                query: &[("access_token", token.value.expose()), ("orderId", &query.id)],
                ..Request::default()
            })
            .await
    }

    fn read(query: &Query, answer: &Answer) -> Result<Asked, Error> {
        let envelope: Envelope = wire::envelope(answer)?;
        if let Some(code) = failure(&envelope.errcode) {
            let text = envelope.errmsg.text();
            if TOKEN_REFUSED.contains(&code) {
                let rejected = Refusal::new(ErrorReason::ProviderCredentialsRejected);
                return Ok(Asked::TokenRefused(rejected.error(code, text)));
            }
            return Err(wire::refused(row(ORDER_ERRORS, code), answer, code, text));
        }
        answer.check_status()?;
        let order = envelope.order.0.ok_or_else(|| Error::unreadable("it holds no order"))?;
        if order.order_id.text() != query.id {
            return Err(Error::unreadable("it is about another order"));
        }
        let order = order.translate(query, answer.sent.into())?;
        Ok(Asked::Order(Box::new(order)))
    }
}

/// Reads an answer to a call with that token, which no text of the vendor's may give away.
fn read(query: &Query, answer: &Answer, token: &Token) -> Result<Asked, Error> {
    match Wechat::read(query, answer) {
        Ok(Asked::TokenRefused(error)) => Ok(Asked::TokenRefused(error.without(&token.value))),
        outcome => outcome.map_err(|error| error.without(&token.value)),
    }
}

/// The code of an answer that is an error: `errcode` is absent or 0 in a success.
fn failure(errcode: &Scalar) -> Option<&str> {
    errcode.some().filter(|code| *code != "0")
}

/// The row of a code in the table of its call, or in the one of every call.
fn row(of_call: &[(&str, Refusal)], code: &str) -> Option<Refusal> {
    wire::row(&[of_call, ERRORS], code)
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    errcode: Scalar,
    #[serde(default)]
    errmsg: Scalar,
    #[serde(default)]
    order: Maybe<WireOrder>,
}

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[derive(Default)]
struct WireOrder {
    order_id: Scalar,
    status: Scalar,
    create_time: Scalar,
    update_time: Scalar,
    order_price: Scalar,
    pay_info: Maybe<PayInfo>,
    order_product_info: Maybe<Product>,
    invoice_info: Maybe<InvoiceInfo>,
    usage: Maybe<Usage>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct PayInfo {
    apply_pay_time: Scalar,
    finish_pay_time: Scalar,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Product {
    sp_spu_id: Scalar,
    sp_sku_id: Scalar,
    sp_biz_id: Scalar,
    spu_name: Scalar,
    sku_name: Scalar,
    sku_cnt: Scalar,
    validity_begin_time: Scalar,
    validity_end_time: Scalar,
    /// What the page's sample calls `validityEndTime`.
    validity: Scalar,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct InvoiceInfo {
    invoice_status: Scalar,
    invoice_apply_time: Scalar,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Usage {
    used: Scalar,
    all: Scalar,
}

impl WireOrder {
    fn translate(&self, query: &Query, observe_time: Timestamp) -> Result<Order, Error> {
        let total = self.order_price.integer("orderPrice")?;
        let product = self.order_product_info.0.as_ref();
        Ok(Order {
            provider: pb::Provider::Wechat.into(),
            id: query.id.clone(),
            status: STATUS.meaning(self.status.text()).into(),
            provider_status: self.status.text().to_owned(),
            observe_time: Some(observe_time),
            total: total
                .map(|minor_units| Money { currency_code: CURRENCY.to_owned(), minor_units }),
            create_time: time(&self.create_time, "createTime", MILLISECOND)?,
            update_time: time(&self.update_time, "updateTime", MILLISECOND)?,
            payment: self.pay_info.0.as_ref().map(PayInfo::translate).transpose()?,
            invoice: self.invoice_info.0.as_ref().map(InvoiceInfo::translate).transpose()?,
            items: product.map(Product::translate).transpose()?.into_iter().collect(),
            usage: self.usage.0.as_ref().map(Usage::translate).transpose()?.flatten(),
            ..Order::default()
        })
    }
}

/// A time. That 0 stands for "none yet" is *assumed*: no order is of 1970.
fn time(scalar: &Scalar, field: &str, unit: Duration) -> Result<Option<Timestamp>, Error> {
    let time = scalar.unix_time(field, unit)?;
    Ok(time.filter(|time| *time != Timestamp::default()))
}

impl PayInfo {
    fn translate(&self) -> Result<Payment, Error> {
        Ok(Payment {
            apply_time: time(&self.apply_pay_time, "payInfo.applyPayTime", SECOND)?,
            finish_time: time(&self.finish_pay_time, "payInfo.finishPayTime", SECOND)?,
        })
    }
}

impl InvoiceInfo {
    fn translate(&self) -> Result<Invoice, Error> {
        Ok(Invoice {
            status: INVOICE_STATUS.meaning(self.invoice_status.text()).into(),
            provider_status: self.invoice_status.text().to_owned(),
            apply_time: time(&self.invoice_apply_time, "invoiceInfo.invoiceApplyTime", SECOND)?,
        })
    }
}

impl Product {
    fn translate(&self) -> Result<OrderItem, Error> {
        let end = match self.validity_end_time.some() {
            Some(_) => &self.validity_end_time,
            None => &self.validity,
        };
        Ok(OrderItem {
            product_id: self.sp_spu_id.text().to_owned(),
            sku_id: self.sp_sku_id.text().to_owned(),
            business_id: self.sp_biz_id.text().to_owned(),
            product_name: self.spu_name.text().to_owned(),
            sku_name: self.sku_name.text().to_owned(),
            quantity: self.sku_cnt.integer("orderProductInfo.skuCnt")?,
            valid_from: time(
                &self.validity_begin_time,
                "orderProductInfo.validityBeginTime",
                SECOND,
            )?,
            valid_until: time(end, "orderProductInfo.validityEndTime", SECOND)?,
            ..OrderItem::default()
        })
    }
}

impl Usage {
    /// Unset unless the vendor tells both numbers: the contract has no way to leave out one.
    fn translate(&self) -> Result<Option<ResourceUsage>, Error> {
        let used = self.used.integer("usage.used")?;
        let total = self.all.integer("usage.all")?;
        Ok(used.zip(total).map(|(used, total)| ResourceUsage { used, total }))
    }
}
