//! A vendor's server with TLS.

use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::http::Response;
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;

use super::authority::{Authority, Pair};
use super::played::{Played, answer};
use crate::support::facts::ANSWER;

/// An authority that no system trusts, and a vendor with its certificate for this name.
pub struct Secured {
    pub vendor: Played,
    directory: TempDir,
}

impl Secured {
    pub async fn start(name: &str) -> Self {
        Self::answering(name, || answer(200, ANSWER.as_str())).await
    }

    pub async fn answering(
        name: &str,
        answer: impl Fn() -> Response<Body> + Clone + Send + Sync + 'static,
    ) -> Self {
        let authority = Authority::new();
        let pair = authority.issue(&[name]);
        Self::showing(&authority, &pair, answer).await
    }

    pub async fn showing(
        authority: &Authority,
        pair: &Pair,
        answer: impl Fn() -> Response<Body> + Clone + Send + Sync + 'static,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), &authority.pem).unwrap();
        let vendor = Played::start_over(Some(acceptor(pair)), move |_| {
            let answer = answer();
            async move { answer }
        })
        .await;
        Self { vendor, directory }
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.vendor.address)
    }

    pub fn ca_path(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    pub fn ca_file(&self) -> String {
        format!("ca_file = \"{}\"", self.ca_path().display())
    }
}

/// Presents that certificate, and requests none.
pub fn acceptor(pair: &Pair) -> TlsAcceptor {
    let (chain, key) = pair.der();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}
