//! The commands as callers: with a token, and over TLS.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::{AUDIT, BILLING, two_clients};
use crate::child::{Child, Ended, Serving, command};

/// A server of the binary's own, over its sandbox vendors, that knows two clients.
fn serving() -> Serving {
    Serving::start_with(&two_clients(), |command| {
        command.arg("--dev");
    })
}

/// Asks with these arguments, and a token in the environment.
async fn asks(arguments: &[&str], token: Option<&str>) -> Ended {
    let mut command = command(arguments);
    command.env_remove("ORDER_QUERY_TOKEN");
    command.envs(token.map(|token| ("ORDER_QUERY_TOKEN", token)));
    tokio::task::spawn_blocking(|| Child::start(command).end()).await.unwrap()
}

#[tokio::test]
async fn get_and_watch_show_the_token() {
    let server = serving();
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = directory.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let [right, wrong, empty, odd] = [
        file("right", &format!("{BILLING}\n")),
        file("wrong", "token-of-nobody-0001"),
        file("empty", "\n"),
        file("odd", "tökén-of-nobody-0001"),
    ];
    let unknown = "error: CALLER_UNAUTHENTICATED: this server does not know the caller;";
    for (file, environment, refused) in [
        (Some(&right), None, None),
        (None, Some(AUDIT), None),
        // The argument goes first.
        (Some(&right), Some("token-of-nobody-0001"), None),
        (Some(&wrong), Some(AUDIT), Some(unknown)),
        (None, Some("token-of-nobody-0001"), Some(unknown)),
        (None, Some(""), Some(unknown)),
        (None, None, Some(unknown)),
        (Some(&empty), None, Some("error: --token-file: ")),
        (Some(&"no-such-file".to_owned()), None, Some("error: --token-file: cannot open no-such")),
        (Some(&odd), None, Some(unknown)),
        (None, Some("two\nlines-of-a-token"), Some("error: the token must be ASCII")),
    ] {
        for subcommand in ["get", "watch"] {
            let url = server.url();
            // Terminal, so that the watch ends.
            let mut arguments = vec![subcommand, "haoka", "settled", "--endpoint", &url];
            if let Some(file) = file {
                arguments.extend(["--token-file", file]);
            }
            let ended = asks(&arguments, environment).await;
            match refused {
                None => assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{ended:?}"),
                Some(text) => {
                    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""), "{ended:?}");
                    assert!(ended.err.starts_with(text), "{}", ended.err);
                }
            }
        }
    }
}

/// What stands before a server and speaks TLS: the listener's own is tested where it is.
struct Front {
    address: SocketAddr,
    directory: TempDir,
}

/// A certificate for this name, of this authority.
fn certificate(name: &str, issuer: &Issuer<'_, KeyPair>) -> (Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new([name.to_owned()]).unwrap();
    (params.signed_by(&key, issuer).unwrap(), key)
}

impl Front {
    /// It asks its clients for a certificate of the same authority.
    async fn start(behind: SocketAddr) -> Self {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let root = authority.self_signed(&key).unwrap();
        let issuer = Issuer::new(authority, key);
        let (server, server_key) = certificate("localhost", &issuer);
        let (client, client_key) = certificate("client.example", &issuer);

        let directory = tempfile::tempdir().unwrap();
        for (name, pem) in
            [("ca", root.pem()), ("cert", client.pem()), ("key", client_key.serialize_pem())]
        {
            fs::write(directory.path().join(name), pem).unwrap();
        }
        let mut roots = RootCertStore::empty();
        roots.add(root.der().clone()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(
                vec![server.der().clone()],
                PrivatePkcs8KeyDer::from(server_key.serialize_der()).into(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // A client that is not let in is what some tests are about.
                    let mut stream = acceptor.accept(stream).await?;
                    let mut behind = TcpStream::connect(behind).await?;
                    tokio::io::copy_bidirectional(&mut stream, &mut behind).await
                });
            }
        });
        Self { address, directory }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

#[tokio::test]
async fn commands_speak_tls_and_show_a_certificate() {
    let server = serving();
    let front = Front::start(server.address).await;
    let url = format!("https://localhost:{}", front.address.port());
    let [ca, cert, key] = ["ca", "cert", "key"].map(|name| front.file(name).display().to_string());
    let whole = ["--ca-file", &ca, "--cert-file", &cert, "--key-file", &key];
    let numeric = format!("https://{}", front.address);
    for (subcommand, code) in [
        (&["get", "haoka", "settled"][..], 0),
        (&["watch", "haoka", "settled"], 0),
        (&["health"], 0),
    ] {
        for (endpoint, tls, code) in [
            (&url, &whole[..], Some(code)),
            // Nobody is asked who is not vouched for, or is another; nobody is let in unnamed.
            (&url, &whole[2..], Some(1)),
            (&numeric, &whole[..], Some(1)),
            (&url, &whole[..2], Some(1)),
            (&server.url(), &whole[..2], Some(1)),
            (&url, &whole[2..4], Some(2)),
        ] {
            let arguments = [subcommand, &["--endpoint", endpoint], tls].concat();
            let ended = asks(&arguments, Some(AUDIT)).await;
            assert_eq!(ended.code, code, "{arguments:?} {ended:?}");
            assert_eq!(ended.out.is_empty(), code != Some(0), "{ended:?}");
        }
    }
}
