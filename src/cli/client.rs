//! Shared by the commands that call a running server: the arguments that name an order, the connection,
//! the caller's token, and the text for a failed call.
#![allow(clippy::disallowed_types, reason = "reads a tonic::Status")]

mod symptom;

use std::env::{self, VarError};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use tokio::time::timeout;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

use self::symptom::Symptom;
use super::{Failure, render};
use crate::certificate::Pem;
use crate::config::{Secret, read_pem, read_secret};
use crate::pb::{DESCRIPTORS, OrderRef, Provider};

/// How long connecting may take, including the TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// HTTP/2 keepalive for a call that waits: how often to ping the server, and how long to wait for its
/// reply.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Begins the error text if the connection fails.
const CONNECT: &str = "cannot connect to";

/// The environment variable that holds the caller's token; `--token-file` overrides it.
const TOKEN_VARIABLE: &str = "ORDER_QUERY_TOKEN";

/// The arguments that name an order and the server to ask.
#[derive(Args)]
pub(super) struct OrderArgs {
    #[arg(value_parser = provider, help = format!("The vendor: one of {}", vendors()))]
    provider: Provider,
    /// The vendor's id of the order
    id: String,
    /// The server's account at the vendor to query with
    #[arg(long)]
    account: Option<String>,
    /// The machine that sold the order (Dingshang)
    #[arg(long, value_name = "NUMBER")]
    machine_no: Option<String>,
    /// The earliest time of observing that the answer may have, such as 2026-09-21T13:33:20Z: the
    /// latest one that you have seen
    #[arg(long, value_name = "RFC3339", value_parser = time)]
    pub(super) min_observe_time: Option<prost_types::Timestamp>,
    /// The server
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:50051")]
    endpoint: Endpoint,
    #[command(flatten)]
    tls: Tls,
    /// A file with the token that identifies this caller; the environment variable
    /// `ORDER_QUERY_TOKEN` may hold the token itself
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Prints the answer as canonical protobuf JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl OrderArgs {
    /// The order that the arguments name.
    pub(super) fn order(&self) -> OrderRef {
        OrderRef {
            provider: self.provider.into(),
            id: self.id.clone(),
            account: self.account.clone().unwrap_or_default(),
            machine_no: self.machine_no.clone().unwrap_or_default(),
        }
    }

    /// The server that the arguments name.
    pub(super) fn server(&self) -> Server<'_> {
        Server { endpoint: &self.endpoint, tls: &self.tls }
    }

    /// The request, with the caller's token if there is one.
    pub(super) fn request<T>(&self, message: T) -> Result<Request<T>, Failure> {
        let mut request = Request::new(message);
        let token = match &self.token_file {
            Some(path) => {
                let token = read_secret(path);
                Some(token.map_err(|text| Failure::Failed(format!("--token-file: {text}")))?)
            }
            None => match env::var(TOKEN_VARIABLE) {
                Ok(token) if !token.is_empty() => Some(Secret::from(token)),
                Ok(_) | Err(VarError::NotPresent) => None,
                Err(VarError::NotUnicode(_)) => {
                    return Err(Failure::Failed(format!("{TOKEN_VARIABLE} is not UTF-8")));
                }
            },
        };
        if let Some(token) = token {
            let value = format!("Bearer {}", token.expose());
            let mut value: MetadataValue<Ascii> = value.try_into().map_err(|_| {
                Failure::Failed("the token must be ASCII, without control characters".to_owned())
            })?;
            value.set_sensitive(true);
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

/// Which authority to trust and which certificate to present, for an `https://` endpoint.
#[derive(Args, Default)]
pub(super) struct Tls {
    /// The authority to trust for the server, in PEM; by default the system's roots
    #[arg(long = "ca-file", value_name = "FILE")]
    authority: Option<PathBuf>,
    /// The certificate that this caller presents, in PEM
    #[arg(long = "cert-file", value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// The key of that certificate, in PEM
    #[arg(long = "key-file", value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
}

impl Tls {
    fn config(&self, endpoint: &Endpoint) -> Result<ClientTlsConfig, Failure> {
        let config = match &self.authority {
            Some(path) => {
                let authority = pem("--ca-file", path, Pem::Authorities)?;
                ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority))
            }
            None => ClientTlsConfig::new().with_native_roots(),
        };
        // An IPv6 address has brackets in a URL, but not in a certificate.
        let host = endpoint.uri().host().unwrap_or_default().trim_matches(['[', ']']);
        let mut config = config.domain_name(host);
        if let (Some(certificate), Some(key)) = (&self.certificate, &self.key) {
            let certificate = pem("--cert-file", certificate, Pem::Chain)?;
            let key = pem("--key-file", key, Pem::Key)?;
            config = config.identity(Identity::from_pem(certificate, key));
        }
        Ok(config)
    }

    fn is_set(&self) -> bool {
        self.authority.is_some() || self.certificate.is_some()
    }
}

fn pem(argument: &str, path: &Path, pem: Pem) -> Result<String, Failure> {
    read_pem(path, pem).map_err(|text| Failure::Failed(format!("{argument}: {text}")))
}

fn provider(word: &str) -> Result<Provider, String> {
    Provider::from_word(word).ok_or_else(|| format!("must be one of {}", vendors()))
}

fn time(text: &str) -> Result<prost_types::Timestamp, String> {
    let parsed = text.parse::<jiff::Timestamp>();
    let time = parsed.map_err(|_| "must be a time such as 2026-09-21T13:33:20Z".to_owned())?;
    let (seconds, nanos) = (time.as_second(), time.subsec_nanosecond());
    // Before 1970 the nanoseconds are negative, and protobuf counts them forward only.
    let mut time = prost_types::Timestamp { seconds, nanos };
    time.normalize();
    Ok(time)
}

/// The vendors' words, for help and error texts.
fn vendors() -> String {
    Provider::all().map(Provider::word).collect::<Vec<_>>().join(", ")
}

/// A server's endpoint, and the TLS arguments for it.
#[derive(Clone, Copy)]
pub(super) struct Server<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) tls: &'a Tls,
}

impl Server<'_> {
    /// Connects to the server.
    pub(super) async fn connect(&self) -> Result<Channel, Failure> {
        let failed = |text: &str| Err(Failure::Failed(text.to_owned()));
        let timed = self
            .endpoint
            .clone()
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        let ready = match self.endpoint.uri().scheme_str() {
            Some("https") => match timed.tls_config(self.tls.config(self.endpoint)?) {
                Ok(ready) => ready,
                Err(error) => return Err(self.unconnected(&error).await),
            },
            Some("http") if self.tls.is_set() => {
                return failed("--ca-file and --cert-file need an --endpoint with https://");
            }
            Some("http") => timed,
            _ => return failed("--endpoint must begin with http:// or https://"),
        };
        // The endpoint's own connect timeout does not cover the TLS handshake.
        match timeout(CONNECT_TIMEOUT, ready.connect()).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(error)) => Err(self.unconnected(&error).await),
            Err(elapsed) => Err(self.unreachable(CONNECT, Some(&Symptom::Silent), &elapsed)),
        }
    }

    /// Why the first call on a new connection failed; `None` if the server itself gives the reason.
    pub(super) async fn lost(&self, status: &Status) -> Option<Failure> {
        let symptom = Symptom::of_call(self, status).await?;
        Some(self.unreachable("cannot call", Some(&symptom), status))
    }

    /// Why the first call on a new connection failed: the symptom, or else the server's own error.
    pub(super) async fn failed(&self, status: &Status) -> Failure {
        self.lost(status).await.unwrap_or_else(|| call_failure(status))
    }

    async fn unconnected(&self, error: &tonic::transport::Error) -> Failure {
        self.unreachable(CONNECT, Symptom::of_connecting(self, error).await.as_ref(), error)
    }

    fn is_encrypted(&self) -> bool {
        self.endpoint.uri().scheme_str() == Some("https")
    }

    fn unreachable(
        &self,
        what: &str,
        symptom: Option<&Symptom>,
        error: &(dyn Error + 'static),
    ) -> Failure {
        let uri = self.endpoint.uri().to_string();
        let text = if let Some(symptom) = symptom {
            let description = render::plain(&symptom.description(self.tls));
            format!("{description}\n  try: {}", symptom.advice(self))
        } else {
            // Some errors repeat the text of their source.
            let mut causes: Vec<_> = symptom::chain(error).map(ToString::to_string).collect();
            causes.dedup();
            render::plain(&causes.join(": "))
        };
        Failure::Failed(format!("{what} {}: {text}", uri.trim_end_matches('/')))
    }
}

/// The text for a failed call: the reason, what happened and what to do, and the vendor's own code and
/// text.
pub(super) fn call_failure(status: &Status) -> Failure {
    let details = status.get_error_details();
    let mut text = match details.error_info() {
        Some(info) => render::plain(&format!("{}: {}", info.reason, status.message())),
        None => render::plain(&format!("{:?}: {}", status.code(), status.message())),
    };
    let wait = details.retry_info().and_then(|info| info.retry_delay);
    let metadata = details.error_info().map(|info| &info.metadata);
    let of = |key: &str| metadata.and_then(|metadata| metadata.get(key)).cloned();
    let lines = [
        ("provider", of("provider")),
        ("account", of("account")),
        ("the vendor's code", of("provider_code")),
        ("the vendor's text", of("provider_message")),
        ("retry in", wait.map(|wait| format!("{wait:?}"))),
    ];
    for (name, value) in lines {
        if let Some(value) = value {
            text = format!("{text}\n  {name}: {}", render::plain(&value));
        }
    }
    Failure::Failed(text)
}

/// A message of the contract as canonical protobuf JSON.
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
