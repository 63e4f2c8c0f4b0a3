//! What the commands that ask a running server share: which order, the connection, and what a
//! failed call says.
#![allow(clippy::disallowed_types, reason = "reads a tonic::Status")]

use std::error::Error as _;
use std::time::Duration;

use clap::Args;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt as _;

use super::{Failure, sheet};
use crate::pb::{DESCRIPTORS, OrderRef, Provider};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Which order, and of which server.
#[derive(Args)]
pub(super) struct Which {
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
    /// The server
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:50051")]
    pub(super) endpoint: Endpoint,
    /// Prints the answer as canonical protobuf JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl Which {
    /// The order that the arguments name.
    pub(super) fn order(&self) -> OrderRef {
        OrderRef {
            provider: self.provider.into(),
            id: self.id.clone(),
            account: self.account.clone().unwrap_or_default(),
            machine_no: self.machine_no.clone().unwrap_or_default(),
        }
    }
}

fn provider(word: &str) -> Result<Provider, String> {
    Provider::from_word(word).ok_or_else(|| {
        let words: Vec<_> = Provider::all().map(Provider::word).collect();
        format!("must be one of {}", words.join(", "))
    })
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

/// What a failed call says, for people: the reason, what happened and what to do, and the
/// vendor's own words.
pub(super) fn told(status: &Status) -> String {
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

/// The canonical JSON of a message of the contract.
pub(super) fn json(name: &str, message: &impl Message) -> Result<String, Failure> {
    let failed = |error: &dyn std::error::Error| Failure::Failed(error.to_string());
    let pool = DescriptorPool::decode(DESCRIPTORS).map_err(|error| failed(&error))?;
    let descriptor = pool
        .get_message_by_name(&format!("orderquery.v1.{name}"))
        .ok_or_else(|| Failure::Failed(format!("the contract has no {name}")))?;
    let message = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .map_err(|error| failed(&error))?;
    serde_json::to_string_pretty(&message).map_err(|error| failed(&error))
}
