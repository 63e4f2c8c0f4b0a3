//! A test's certificate authority, and the certificates that it issues.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tonic::transport::{Channel, Endpoint, Error, Uri};
use tower::service_fn;

/// The supported versions of TLS.
pub const BOTH: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];

/// An authority that no system trusts.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    pub pem: String,
}

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// An intermediate authority signed by this one.
    pub fn subordinate(&self) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "subordinate");
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate with these names: addresses, DNS names and URIs.
    pub fn issue(&self, names: &[&str]) -> Pair {
        self.issue_as(names, CertificateParams::default())
    }

    /// The same, valid until the first moment of that day.
    pub fn issue_until(&self, names: &[&str], [year, month, day]: [u16; 3]) -> Pair {
        let mut params = CertificateParams::default();
        let [month, day] = [month, day].map(|part| u8::try_from(part).unwrap());
        params.not_after = rcgen::date_time_ymd(year.into(), month, day);
        self.issue_as(names, params)
    }

    /// The same, valid from the first moment of one year to that of another.
    pub fn issue_between(&self, names: &[&str], [begin, end]: [i32; 2]) -> Pair {
        let mut params = CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(begin, 1, 1);
        params.not_after = rcgen::date_time_ymd(end, 1, 1);
        self.issue_as(names, params)
    }

    fn issue_as(&self, names: &[&str], mut params: CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        params.subject_alt_names = names.iter().map(|name| name_of(name)).collect();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Pair { certificate, key: key.serialize_pem() }
    }
}

fn name_of(text: &str) -> SanType {
    match text.parse() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) if text.contains("://") => SanType::URI(text.try_into().unwrap()),
        Err(_) => SanType::DnsName(text.try_into().unwrap()),
    }
}

impl Pair {
    /// For rustls.
    pub fn der(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        (chain.collect::<Result<_, _>>().unwrap(), key)
    }

    /// Writes both into a folder, with the names that Kubernetes uses.
    pub fn write(&self, folder: &Path) {
        std::fs::write(folder.join("tls.crt"), &self.certificate).unwrap();
        std::fs::write(folder.join("tls.key"), &self.key).unwrap();
    }
}

/// A client that trusts this authority, supports these versions, and presents a certificate, if it
/// has one.
pub fn client(
    authority: &str,
    versions: &[&'static SupportedProtocolVersion],
    shows: Option<&Pair>,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
    let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match shows.map(Pair::der) {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// The server's settings for a folder with its certificate, and the authority of its callers'.
pub fn settings(folder: &Path, callers: Option<&Authority>) -> String {
    if let Some(authority) = callers {
        std::fs::write(folder.join("ca.crt"), &authority.pem).unwrap();
    }
    settings_of(folder, callers.is_some())
}

/// The same, for a folder that has all files.
pub fn settings_of(folder: &Path, asks_callers: bool) -> String {
    let shown = folder.display();
    let ca =
        if asks_callers { format!("client_ca_file = \"{shown}/ca.crt\"\n") } else { String::new() };
    format!("[server.tls]\ncert_file = \"{shown}/tls.crt\"\nkey_file = \"{shown}/tls.key\"\n{ca}")
}

/// A channel over TLS.
pub async fn channel(address: SocketAddr, config: ClientConfig) -> Result<Channel, Error> {
    let config = Arc::new(config);
    let connector = service_fn(move |_: Uri| {
        let connector = TlsConnector::from(Arc::clone(&config));
        async move {
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::try_from("localhost").unwrap();
            connector.connect(name, stream).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await
}
