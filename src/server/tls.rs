//! TLS on a listener: certificates that are read again when their files change, and the names of
//! whoever shows one. Used by `server`; `app` reads the settings with it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use webpki::EndEntityCert;

use crate::certificate::not_after;
use crate::config::{Section, read_file};
use crate::metrics::TLS_EXPIRY_SECONDS;

/// The largest file that is read, in bytes.
const FILE_LIMIT: u64 = 1024 * 1024;

/// What HTTP/2 is called in a handshake.
const ALPN: &[u8] = b"h2";

/// `[server.tls]`: how a listener shakes hands.
pub struct Tls(watch::Receiver<Arc<ServerConfig>>);

impl Tls {
    /// Reads `[server.tls]`, and again whenever its files change. `None` where something is wrong,
    /// which is noted.
    #[must_use]
    pub fn read(mut section: Section) -> Option<Self> {
        let mut path = |key, required| {
            let path: Option<String> =
                if required { section.require(key) } else { section.take(key) };
            path.map(|path| (key, section.resolve(&path)))
        };
        let files =
            [path("cert_file", true), path("key_file", true), path("client_ca_file", false)];
        let (complete, place) = (files[0].is_some() && files[1].is_some(), section.place());
        section.finish();
        let (keys, files): (Vec<&str>, Vec<PathBuf>) = files.into_iter().flatten().unzip();
        let texts: Vec<Option<String>> = keys
            .iter()
            .zip(&files)
            .map(|(key, file)| {
                read_file(file, FILE_LIMIT).map_err(|text| place.problem(key, text)).ok()
            })
            .collect();
        let texts = texts.into_iter().collect::<Option<Vec<String>>>().filter(|_| complete)?;
        let config = server_config(&texts)
            .map_err(|(file, text)| place.problem(keys.get(file).unwrap_or(&""), text))
            .ok()?;
        let (current, handshakes) = watch::channel(Arc::new(config));
        let take = move |texts: &[String]| {
            let config = server_config(texts)
                .map_err(|(file, text)| format!("{}: {text}", keys.get(file).unwrap_or(&"")))?;
            current.send_replace(Arc::new(config));
            Ok(())
        };
        place.watch("", files, FILE_LIMIT, &texts, Box::new(take));
        Some(Self(handshakes))
    }

    /// Shakes hands, with the certificate as it is now. Gives back the names of the peer's own
    /// certificate as well.
    pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> io::Result<(TlsStream<S>, Arc<[String]>)> {
        let config = Arc::clone(&self.0.borrow());
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let (_, session) = stream.get_ref();
        let names = session.peer_certificates().and_then(<[_]>::first).map(names);
        Ok((stream, names.unwrap_or_default()))
    }
}

/// What a listener shakes hands with: certificate, key and, perhaps, the authorities of its peers'
/// certificates, all PEM. An error tells which of them is wrong.
fn server_config(texts: &[String]) -> Result<ServerConfig, (usize, String)> {
    let [certificate, key, authorities @ ..] = texts else {
        return Err((0, "is missing".to_owned()));
    };
    let chain = certificates(certificate).map_err(|text| (0, text))?;
    let end = chain.iter().filter_map(|certificate| not_after(certificate)).min();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|_| (1, "holds no unencrypted private key in PEM".to_owned()))?;
    let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| (0, error.to_string()))?;
    let builder = match authorities.first() {
        None => builder.with_no_client_auth(),
        Some(authorities) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(authorities).map_err(|text| (2, text))? {
                roots.add(authority).map_err(|error| (2, unfit(&error)))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = verifier.build().map_err(|error| (2, error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => (1, "is not the key of cert_file".to_owned()),
        error => (0, unfit(&error)),
    })?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    if let Some(since_1970) = end.and_then(|end| end.duration_since(UNIX_EPOCH).ok()) {
        TLS_EXPIRY_SECONDS.set([], since_1970.as_secs_f64());
    }
    if !authorities.is_empty() {
        // A resumed session would not be checked against authorities that have changed.
        config.session_storage = Arc::new(NoServerSessionStorage {});
    }
    Ok(config)
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let certificates = certificates.unwrap_or_default();
    if certificates.is_empty() {
        Err("holds no certificate in PEM".to_owned())
    } else {
        Ok(certificates)
    }
}

fn unfit(error: &rustls::Error) -> String {
    format!("cannot be used: {error}")
}

/// The DNS names and URIs of a certificate.
fn names(certificate: &CertificateDer<'_>) -> Arc<[String]> {
    // It has been verified, so it can be read.
    let Ok(certificate) = EndEntityCert::try_from(certificate) else { return Arc::default() };
    let names = certificate.valid_dns_names().chain(certificate.valid_uri_names());
    names.map(str::to_owned).collect()
}
