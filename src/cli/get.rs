//! `order-query get`
#![allow(clippy::disallowed_types, reason = "reads a tonic::Status")]

use std::error::Error as _;
use std::time::Duration;

use clap::Args;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

use super::{Failure, print, sheet};
use crate::pb::order_service_client::OrderServiceClient;
use crate::pb::{DESCRIPTORS, GetOrderRequest, GetOrderResponse, Provider};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait for an answer; servers bound it more closely.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(2);

/// Asks a running server for an order.
#[derive(Args)]
pub(super) struct Get {
    /// The vendor: wechat, dingshang or haoka
    #[arg(value_parser = provider)]
    provider: Provider,
    /// The vendor's name for the order
    id: String,
    /// Which of the server's accounts at the vendor to ask with
    #[arg(long)]
    account: Option<String>,
    /// The machine that sold the order (Dingshang)
    #[arg(long, value_name = "NUMBER")]
    machine_no: Option<String>,
    /// How old the answer may be at most, such as 0s or 10m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    max_age: Option<prost_types::Duration>,
    /// The server
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:50051")]
    endpoint: Endpoint,
    /// Prints the answer as canonical protobuf JSON
    #[arg(long)]
    json: bool,
}

fn provider(word: &str) -> Result<Provider, String> {
    Provider::from_word(word).ok_or_else(|| {
        let words: Vec<_> = Provider::all().map(Provider::word).collect();
        format!("must be one of {}", words.join(", "))
    })
}

fn duration(text: &str) -> Result<prost_types::Duration, String> {
    let parsed = jiff::fmt::friendly::SpanParser::new().parse_unsigned_duration(text).ok();
    let fitting = parsed.and_then(|duration| duration.try_into().ok());
    fitting.ok_or_else(|| "must be a duration such as 0s, 30s or 10m".to_owned())
}

impl Get {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let request = GetOrderRequest {
            provider: self.provider.into(),
            id: self.id,
            account: self.account.unwrap_or_default(),
            machine_no: self.machine_no.unwrap_or_default(),
            max_age: self.max_age,
        };
        let answer = ask(connect(&self.endpoint).await?, request).await?;
        if self.json { print(json(&answer)?) } else { print(sheet::order(&answer).trim_end()) }
    }
}

/// A connection to a server.
pub(super) async fn connect(endpoint: &Endpoint) -> Result<Channel, Failure> {
    if endpoint.uri().scheme_str() != Some("http") {
        return Err(Failure::Failed("--endpoint must begin with http://".to_owned()));
    }
    let channel = endpoint.clone().connect_timeout(CONNECT_TIMEOUT).connect().await;
    channel.map_err(|error| {
        let mut text = format!("cannot connect to {}", endpoint.uri());
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        Failure::Failed(text)
    })
}

/// One call of `GetOrder`.
pub(super) async fn ask(
    channel: Channel,
    request: GetOrderRequest,
) -> Result<GetOrderResponse, Failure> {
    let mut request = Request::new(request);
    request.set_timeout(ANSWER_TIMEOUT);
    match tokio::time::timeout(ANSWER_TIMEOUT, OrderServiceClient::new(channel).get_order(request))
        .await
    {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(Failure::Failed(told(&status))),
        Err(_elapsed) => Err(Failure::Failed(format!("no answer within {ANSWER_TIMEOUT:?}"))),
    }
}

/// What a failed call says, for people: the reason, what happened and what to do, and the
/// vendor's own words.
fn told(status: &Status) -> String {
    let details = status.get_error_details();
    let mut text = match details.error_info() {
        Some(info) => sheet::plain(&format!("{}: {}", info.reason, status.message())),
        None => sheet::plain(&format!("{:?}: {}", status.code(), status.message())),
    };
    let wait = details.retry_info().and_then(|info| info.retry_delay);
    let metadata = details.error_info().map(|info| &info.metadata);
    let of = |key: &str| metadata.and_then(|metadata| metadata.get(key)).cloned();
    let lines = [
        ("provider", of("provider")),
        ("account", of("account")),
        ("the vendor's code", of("provider_code")),
        ("the vendor's text", of("provider_message")),
        ("ask again in", wait.map(|wait| format!("{wait:?}"))),
    ];
    for (name, value) in lines {
        if let Some(value) = value {
            text = format!("{text}\n  {name}: {}", sheet::plain(&value));
        }
    }
    text
}

/// The canonical JSON of the answer.
fn json(answer: &GetOrderResponse) -> Result<String, Failure> {
    let failed = |error: &dyn std::error::Error| Failure::Failed(error.to_string());
    let pool = DescriptorPool::decode(DESCRIPTORS).map_err(|error| failed(&error))?;
    let message = pool
        .get_message_by_name("orderquery.v1.GetOrderResponse")
        .ok_or_else(|| Failure::Failed("the contract has no GetOrderResponse".to_owned()))?;
    let message = DynamicMessage::decode(message, answer.encode_to_vec().as_slice())
        .map_err(|error| failed(&error))?;
    serde_json::to_string_pretty(&message).map_err(|error| failed(&error))
}
