//! TLS on a listener: certificates that are read again when their files change, and the names in
//! client certificates. Used by `server`; `app` reads the settings with it.

use std::io;
use std::mem;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{CertificateError, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use webpki::EndEntityCert;

use crate::certificate::{Pem, not_after, untimely};
use crate::clock::Clock;
use crate::config::{PEM_LIMIT, Section, read_file};
use crate::telemetry::metrics::Metrics;

/// The name of HTTP/2 in a handshake.
const ALPN: &[u8] = b"h2";

/// The shortest interval between two log lines about failed handshakes.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

const CERT_FILE: &str = "cert_file";
const KEY_FILE: &str = "key_file";
const CLIENT_CA_FILE: &str = "client_ca_file";

/// What is wrong with a file of a setting.
struct Wrong {
    key: &'static str,
    text: String,
}

impl Wrong {
    fn new(key: &'static str, text: impl Into<String>) -> Self {
        Self { key, text: text.into() }
    }
}

/// What the files hold, in PEM.
struct TlsFiles {
    certificate: String,
    key: String,
    /// The authorities of client certificates.
    authorities: Option<String>,
}

impl TlsFiles {
    /// From the texts of the files, in the order of the settings.
    fn of(pems: Vec<String>) -> Result<Self, Wrong> {
        let mut pems = pems.into_iter();
        let (Some(certificate), Some(key)) = (pems.next(), pems.next()) else {
            return Err(Wrong::new(CERT_FILE, "is missing"));
        };
        Ok(Self { certificate, key, authorities: pems.next() })
    }
}

/// `[server.tls]`: the TLS settings of a listener.
pub struct Tls {
    handshakes: watch::Receiver<Arc<ServerConfig>>,
    failures: Mutex<Failures>,
}

/// Failed handshakes.
#[derive(Default)]
struct Failures {
    last_logged: Option<Instant>,
    /// How many have failed since then.
    count: u64,
}

/// A setting that names a PEM file.
struct Part {
    key: &'static str,
    pem: Pem,
    file: PathBuf,
}

impl Part {
    /// The PEM parts that the file must hold, from its content.
    fn read(&self, content: &str) -> Result<String, String> {
        let wrong = |wrong: String| format!("{} {wrong}", self.file.display());
        self.pem.read(content).map_err(wrong)
    }
}

impl Tls {
    /// Reads `[server.tls]`, and again whenever its files change. `None` where something is wrong,
    /// which is recorded as a problem. A certificate that is not valid now causes only a warning: it
    /// may be valid by the time it is shown.
    #[must_use]
    pub fn read(mut section: Section, clock: &Arc<dyn Clock>, metrics: &Metrics) -> Option<Self> {
        let metrics = metrics.clone();
        let mut part = |key, pem, required| {
            let path: Option<String> =
                if required { section.require(key) } else { section.take(key) };
            path.map(|path| Part { key, pem, file: section.resolve(&path) })
        };
        let parts = [
            part(CERT_FILE, Pem::Chain, true),
            part(KEY_FILE, Pem::Key, true),
            part(CLIENT_CA_FILE, Pem::Authorities, false),
        ];
        let (complete, place) = (parts[0].is_some() && parts[1].is_some(), section.place());
        section.finish();
        let parts: Vec<Part> = parts.into_iter().flatten().collect();
        let read = |part: &Part| {
            let content = read_file(&part.file, PEM_LIMIT)?;
            Ok((part.read(&content)?, content))
        };
        let read: Vec<Option<(String, String)>> = parts
            .iter()
            .map(|part| read(part).map_err(|text: String| place.problem(part.key, text)).ok())
            .collect();
        let read = read.into_iter().collect::<Option<Vec<_>>>().filter(|_| complete)?;
        let (pems, contents): (Vec<String>, Vec<String>) = read.into_iter().unzip();
        let problem = |Wrong { key, text }| place.problem(key, text);
        let files = TlsFiles::of(pems).map_err(problem).ok()?;
        let config = server_config(&files, &metrics).map_err(problem).ok()?;
        if let Some(text) = untimely_in(&files, clock.wall()) {
            place.warn(CERT_FILE, text);
        }
        let (current, handshakes) = watch::channel(Arc::new(config));
        let paths = parts.iter().map(|part| part.file.clone()).collect();
        let (clock, path) = (Arc::clone(clock), format!("{}.{CERT_FILE}", place.path()));
        let take = move |contents: &[String]| {
            let describe = |Wrong { key, text }| format!("{key}: {text}");
            let mut pems = Vec::new();
            for (part, content) in parts.iter().zip(contents) {
                pems.push(
                    part.read(content).map_err(|text| describe(Wrong { key: part.key, text }))?,
                );
            }
            let files = TlsFiles::of(pems).map_err(describe)?;
            let config = server_config(&files, &metrics).map_err(describe)?;
            current.send_replace(Arc::new(config));
            if let Some(text) = untimely_in(&files, clock.wall()) {
                tracing::warn!(path, "{path}: {text}");
            }
            Ok(())
        };
        place.watch("", paths, PEM_LIMIT, &contents, Box::new(take));
        Some(Self { handshakes, failures: Mutex::default() })
    }

    /// Performs the handshake, with the current certificate. Also returns the names in the peer's own
    /// certificate.
    pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> io::Result<(TlsStream<S>, Arc<[String]>)> {
        let config = Arc::clone(&self.handshakes.borrow());
        let accepted = TlsAcceptor::from(config).accept(stream).await;
        let stream = accepted.inspect_err(|error| self.note_failure(error))?;
        let (_, session) = stream.get_ref();
        let names = session.peer_certificates().and_then(<[_]>::first).map(names);
        Ok((stream, names.unwrap_or_default()))
    }

    /// Logs that handshakes fail, once in a while and in our own words: anyone can make one fail. A
    /// peer that only checks whether the port is open has begun none.
    fn note_failure(&self, error: &io::Error) {
        let error = error.get_ref().and_then(|error| error.downcast_ref());
        let Some(reason) = error.map(reason) else { return };
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.count += 1;
        if failures.last_logged.is_none_or(|last| last.elapsed() >= LOG_INTERVAL) {
            let count = mem::take(&mut failures.count);
            failures.last_logged = Some(Instant::now());
            drop(failures);
            tracing::info!(count, reason, "TLS handshakes fail");
        }
    }
}

/// Why a handshake failed, without anything that the peer sent.
fn reason(error: &rustls::Error) -> &'static str {
    use rustls::Error as E;
    match error {
        E::NoCertificatesPresented => "the caller presents no certificate",
        E::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "the caller's certificate has expired",
        E::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "no authority in client_ca_file issued the caller's certificate"
        }
        E::InvalidCertificate(_) => "the caller's certificate is not valid",
        E::AlertReceived(_) => {
            "the caller refuses the handshake, for example because it does not trust cert_file"
        }
        E::PeerIncompatible(_) | E::NoApplicationProtocol => {
            "the caller and this server have no TLS version, cipher or protocol in common"
        }
        _ => "the caller does not speak TLS, or violates the protocol",
    }
}

/// The TLS configuration of a listener, from PEM texts: its certificate, its key and, optionally, the
/// authorities of client certificates. An error says which of them is wrong.
fn server_config(files: &TlsFiles, metrics: &Metrics) -> Result<ServerConfig, Wrong> {
    let TlsFiles { certificate, key, authorities } = files;
    let chain =
        certificates(certificate).map_err(|error| Wrong::new(CERT_FILE, unusable(&error)))?;
    let end = chain.iter().filter_map(|certificate| not_after(certificate)).min();
    let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).ok();
    let key = key.filter(|key| provider.key_provider.load_private_key(key.clone_key()).is_ok());
    let Some(key) = key else {
        let text = "cannot be used: it must be an RSA key of 2048 to 4096 bits, an ECDSA key on \
                    P-256 or P-384, or an Ed25519 key";
        return Err(Wrong::new(KEY_FILE, text));
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Wrong::new(CERT_FILE, error.to_string()))?;
    let builder = match authorities {
        None => builder.with_no_client_auth(),
        Some(authorities) => {
            let wrong = |error: &rustls::Error| Wrong::new(CLIENT_CA_FILE, unusable(error));
            let mut roots = RootCertStore::empty();
            for authority in certificates(authorities).map_err(|error| wrong(&error))? {
                roots.add(authority).map_err(|error| wrong(&error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier =
                verifier.build().map_err(|error| Wrong::new(CLIENT_CA_FILE, error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => Wrong::new(KEY_FILE, "is not the key of cert_file"),
        error => Wrong::new(CERT_FILE, unusable(&error)),
    })?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    if let Some(since_1970) = end.and_then(|end| end.duration_since(UNIX_EPOCH).ok()) {
        metrics.tls_expiry_seconds.with([]).set(since_1970.as_secs_f64());
    }
    if authorities.is_some() {
        // A resumed session would not be checked against authorities that have changed.
        config.session_storage = Arc::new(NoServerSessionStorage {});
    }
    Ok(config)
}

/// Why peers do not trust the server's certificate now, or one between it and its authority.
fn untimely_in(files: &TlsFiles, now: SystemTime) -> Option<String> {
    let chain = certificates(&files.certificate).ok()?;
    chain.iter().find_map(|certificate| untimely(certificate, now))
}

/// The certificates of a complete PEM text.
fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, rustls::Error> {
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>();
    certificates.map_err(|error| rustls::Error::General(error.to_string()))
}

fn unusable(error: &rustls::Error) -> String {
    format!("cannot be used: {error}")
}

/// The DNS names and URIs of a certificate.
fn names(certificate: &CertificateDer<'_>) -> Arc<[String]> {
    // The handshake has verified it, so it can be read.
    let Ok(certificate) = EndEntityCert::try_from(certificate) else { return Arc::default() };
    let names = certificate.valid_dns_names().chain(certificate.valid_uri_names());
    names.map(str::to_owned).collect()
}
