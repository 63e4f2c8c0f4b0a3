//! Why a call did not reach a server: the symptom as the client sees it, and what to try. Used by
//! `client` only.
#![allow(clippy::disallowed_types, reason = "reads a tonic::Status")]

use std::error::Error;
use std::io;
use std::iter::successors;

use rustls::{AlertDescription, CertificateError};
use tokio::net::lookup_host;
use tokio::time::timeout;
use tonic::transport::{ClientTlsConfig, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{CONNECT_TIMEOUT, Server, Tls};

/// The start of tonic's message for an HTTP response that is not gRPC.
const NO_STATUS: &str = "grpc-status header missing";

/// What is wrong between the client and the server, as far as the client can see.
pub(super) enum Symptom {
    /// The host name does not resolve.
    NoSuchHost,
    /// The machine is reachable and refuses the connection.
    ConnectionRefused,
    /// No answer in time.
    Silent,
    /// The server speaks TLS, but the endpoint is `http://`.
    Encrypted,
    /// The endpoint is `https://`, but the server does not speak TLS.
    Plaintext,
    /// No authority that the client trusts has signed the server's certificate.
    UnknownAuthority,
    /// The server's certificate is invalid for another reason.
    Certificate(CertificateError),
    /// The server ends a TLS connection: it rejects the caller's certificate, or requires one.
    CallerRejected,
    /// The server ends the connection.
    Ended,
    /// The response is HTTP but not gRPC, with this text.
    NotGrpc(String),
    /// The server does not have the called service.
    NoSuchService,
}

impl Symptom {
    /// Why no connection could be made.
    pub(super) async fn of_connecting(
        server: &Server<'_>,
        error: &(dyn Error + 'static),
    ) -> Option<Self> {
        if let Some(error) = find::<rustls::Error>(error) {
            return Self::of_tls(error);
        }
        if chain(error).any(|cause| cause.to_string().starts_with("HTTP/2 was not negotiated")) {
            return Some(Self::NotGrpc("HTTP/2 is not offered".to_owned()));
        }
        let uri = server.endpoint.uri();
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        if lookup_host((host, 0)).await.is_err() {
            return Some(Self::NoSuchHost);
        }
        match find::<io::Error>(error)?.kind() {
            io::ErrorKind::ConnectionRefused => Some(Self::ConnectionRefused),
            io::ErrorKind::TimedOut => Some(Self::Silent),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Some(Self::Ended),
            _ => None,
        }
    }

    /// Why the first call on a new connection failed; `None` if the server itself gives the reason.
    pub(super) async fn of_call(server: &Server<'_>, status: &Status) -> Option<Self> {
        let Some(error) = status.source() else { return Self::of_answer(status) };
        if let Some(error) = find::<rustls::Error>(error) {
            return Self::of_tls(error);
        }
        Some(if server.is_encrypted() {
            // The server's TLS alert may be lost when the server ends the connection.
            Self::CallerRejected
        } else if speaks_tls(server.endpoint).await {
            Self::Encrypted
        } else {
            Self::Ended
        })
    }

    /// The symptom of an answer that order-query never gives.
    fn of_answer(status: &Status) -> Option<Self> {
        if status.get_details_error_info().is_some() {
            None
        } else if status.code() == Code::Unimplemented {
            Some(Self::NoSuchService)
        } else {
            let words = status.message().strip_prefix(NO_STATUS)?;
            Some(Self::NotGrpc(words.trim_start_matches(", mapped from ").to_owned()))
        }
    }

    fn of_tls(error: &rustls::Error) -> Option<Self> {
        use AlertDescription as Alert;
        match error {
            rustls::Error::InvalidMessage(_) => Some(Self::Plaintext),
            // A bad signature means that another authority of the same name signed the certificate.
            rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            ) => Some(Self::UnknownAuthority),
            rustls::Error::InvalidCertificate(error) => Some(Self::Certificate(error.clone())),
            rustls::Error::NoApplicationProtocol => {
                Some(Self::NotGrpc("HTTP/2 is not offered".to_owned()))
            }
            rustls::Error::AlertReceived(
                Alert::CertificateRequired
                | Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::AccessDenied
                | Alert::DecryptError,
            ) => Some(Self::CallerRejected),
            _ => None,
        }
    }

    /// The symptom in words.
    pub(super) fn description(&self, tls: &Tls) -> String {
        let description = match self {
            Self::NoSuchHost => "the host name has no address",
            Self::ConnectionRefused => "nothing listens at this address",
            Self::Silent => return format!("no answer within {CONNECT_TIMEOUT:?}"),
            Self::Encrypted => "the server speaks TLS",
            Self::Plaintext => "the server does not speak TLS",
            Self::UnknownAuthority if tls.authority.is_some() => {
                "another authority issued the server's certificate"
            }
            Self::UnknownAuthority => {
                "an authority that this machine does not trust issued the server's certificate"
            }
            Self::Certificate(error) => {
                return format!("the server's certificate is invalid: {error}");
            }
            Self::CallerRejected if tls.certificate.is_some() => {
                "the server closed the connection, as a server does that rejects the caller's \
                 certificate"
            }
            Self::CallerRejected => {
                "the server closed the connection, as a server does that requires a certificate \
                 from callers"
            }
            Self::Ended => "the server closed the connection",
            Self::NotGrpc(words) => return format!("the server does not speak gRPC: {words}"),
            Self::NoSuchService => "the server does not know the method",
        };
        description.to_owned()
    }

    /// What to try.
    pub(super) fn advice(&self, Server { endpoint, tls }: &Server<'_>) -> String {
        let at = endpoint.uri().authority().map(ToString::to_string).unwrap_or_default();
        let advice = match (self, &tls.authority, &tls.certificate) {
            (Self::NoSuchHost, ..) => "another host name",
            (Self::ConnectionRefused, ..) => {
                "the port that the server logs at its start: server.listen (default 50051) for \
                 orders, admin.listen (default 9090) for health; `serve --dev` starts a test \
                 server"
            }
            (Self::Silent, ..) => {
                "checking the address, and whether a firewall blocks the connection"
            }
            (Self::Encrypted, ..) => {
                return format!(
                    "--endpoint https://{at}, with --ca-file if the authority is your own"
                );
            }
            (Self::Plaintext, ..) => return format!("--endpoint http://{at}"),
            (Self::UnknownAuthority, Some(path), _) => {
                let path = path.display();
                return format!("--ca-file with that authority's certificate, which is not {path}");
            }
            (Self::UnknownAuthority, None, _) => {
                "--ca-file FILE with the certificate of that authority"
            }
            (Self::Certificate(error), ..) => for_certificate(error),
            (Self::CallerRejected, _, Some(path)) => {
                let path = path.display();
                return format!(
                    "--cert-file with an unexpired certificate of the authority in the server's \
                     client_ca_file, which {path} is not"
                );
            }
            (Self::CallerRejected, _, None) => {
                "--cert-file and --key-file with a certificate of the authority in the server's \
                 client_ca_file"
            }
            (Self::Ended, ..) => {
                "checking whether an order-query server uses this port; if so, it has just \
                 stopped, or has reached its limit of connections"
            }
            (Self::NotGrpc(_), ..) => {
                "connecting to the server directly; a proxy in between must forward gRPC"
            }
            (Self::NoSuchService, ..) => {
                "the port for orders, server.listen (default 50051); the port for health and \
                 metrics, admin.listen (default 9090), serves nothing else"
            }
        };
        advice.to_owned()
    }
}

fn for_certificate(error: &CertificateError) -> &'static str {
    match error {
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "--endpoint with a name that the certificate is valid for"
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => {
            "a new certificate for the server, unless this machine's clock is wrong"
        }
        _ => "another certificate for the server",
    }
}

/// Whether the port speaks TLS. The attempt trusts no authority, so it fails; the error shows what the
/// server speaks.
async fn speaks_tls(endpoint: &Endpoint) -> bool {
    let uri = endpoint.uri().to_string().replacen("http://", "https://", 1);
    let encrypted = Endpoint::from_shared(uri)
        .and_then(|endpoint| endpoint.tls_config(ClientTlsConfig::new().domain_name("localhost")));
    let Ok(encrypted) = encrypted else { return false };
    match timeout(CONNECT_TIMEOUT, encrypted.connect()).await {
        Ok(Err(error)) => find::<rustls::Error>(&error)
            .is_some_and(|error| !matches!(error, rustls::Error::InvalidMessage(_))),
        _ => false,
    }
}

/// An error and its sources.
pub(super) fn chain<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    successors(Some(error), |&error| error.source())
}

/// The first error of type `E` in the chain. An error inside an `io::Error` is not its source, so this
/// description there, too.
fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    chain(error).find_map(|cause| {
        let inner = || cause.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref::<E>();
        cause.downcast_ref::<E>().or_else(inner)
    })
}
