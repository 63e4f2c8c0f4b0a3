//! TLS on the callers' listener: who is accepted, with what, and certificate rotation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use order_query::clock::SystemClock;
use order_query::pb::order_service_client::OrderServiceClient;
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, HandshakeKind};

use super::{ask, closes, say};
use crate::support::authority::{Authority, BOTH, Pair, channel, client, settings};
use crate::support::child::{PATIENCE, Serving};
use crate::support::mounted::Mounted;
use crate::support::sandbox_at;
use crate::support::scrape;

const HAOKA: &str = "[accounts.cards]\nprovider = \"haoka\"\nuser_id = \"agent\"\nsecret = \"s\"\n";

/// Performs a handshake, and waits for the server's first bytes: with TLS 1.3 a client learns only
/// then that its certificate was refused.
pub async fn handshake(
    server: &Serving,
    config: &Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await?;
    let first = tokio::time::timeout(PATIENCE, stream.read_u8()).await.unwrap();
    first.map(|_| stream)
}

struct Secured {
    server: Serving,
    authority: Authority,
    _folder: TempDir,
}

fn secured(callers: Option<&Authority>) -> Secured {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.issue(&["localhost"]).write(folder.path());
    let server = Serving::start(&format!("{}{HAOKA}", settings(folder.path(), callers)));
    Secured { server, authority, _folder: folder }
}

#[tokio::test]
async fn both_versions_of_tls_negotiate_http_2() {
    let secured = secured(None);
    for version in BOTH {
        let config = Arc::new(client(&secured.authority.pem, &[version], None));
        let stream = handshake(&secured.server, &config).await.unwrap();
        let (_, session) = stream.get_ref();
        assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
        assert_eq!(session.protocol_version(), Some(version.version));
    }
    let mut old = client(&secured.authority.pem, BOTH, None);
    old.alpn_protocols = vec![b"http/1.1".to_vec()];
    assert!(handshake(&secured.server, &Arc::new(old)).await.is_err(), "HTTP/1.1 is not spoken");
    let plaintext = say(secured.server.address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    tokio::task::spawn_blocking(|| closes(plaintext)).await.unwrap();
}

#[tokio::test]
async fn callers_must_present_a_certificate_where_client_ca_file_is_set() {
    let (callers, strangers) = (Authority::new(), Authority::new());
    let secured = secured(Some(&callers));
    for version in BOTH {
        for (shows, let_in) in [
            (None, false),
            (Some(strangers.issue(&["billing.example"])), false),
            (Some(callers.issue(&["billing.example"])), true),
        ] {
            let config = Arc::new(client(&secured.authority.pem, &[version], shows.as_ref()));
            let shaken = handshake(&secured.server, &config).await;
            assert_eq!(shaken.is_ok(), let_in, "{version:?}: {:?}", shaken.err());
        }
    }
}

/// Anyone can make a handshake fail: failures are logged once a minute, by kind.
#[tokio::test]
async fn failed_handshakes_are_logged_once_without_peer_content() {
    let (callers, strangers) = (Authority::new(), Authority::new());
    let named = strangers.issue(&["name-of-a-stranger.example"]);
    for (shows, trusts, reason) in [
        (None, None, "the caller presents no certificate"),
        (Some(&named), None, "no authority in client_ca_file issued the caller's certificate"),
        (
            None,
            Some(&strangers),
            "the caller refuses the handshake, for example because it does not trust cert_file",
        ),
    ] {
        let mut secured = secured(Some(&callers));
        // A probe that only checks whether the port is open.
        drop(TcpStream::connect(secured.server.address).await.unwrap());
        let trusted = trusts.unwrap_or(&secured.authority).pem.clone();
        let config = Arc::new(client(&trusted, BOTH, shows));
        for _ in 0..3 {
            assert!(handshake(&secured.server, &config).await.is_err());
        }
        secured.server.child.err.with("TLS handshakes fail");
        let log = secured.server.stop().err;
        let told: Vec<_> = log.lines().filter(|it| it.contains("TLS handshakes fail")).collect();
        let [line] = told.as_slice() else { panic!("{told:?}") };
        assert!(line.contains(&format!("\"reason\":\"{reason}\"")), "{line}");
        assert!(line.contains("\"count\":1") && line.contains("\"level\":\"INFO\""), "{line}");
        assert!(!log.contains("stranger"), "{log}");
    }
}

#[tokio::test]
async fn sessions_are_resumed_only_without_client_certificates() {
    let callers = Authority::new();
    let shows = callers.issue(&["billing.example"]);
    for (demanded, expected) in [(false, HandshakeKind::Resumed), (true, HandshakeKind::Full)] {
        let secured = secured(demanded.then_some(&callers));
        for version in BOTH {
            let shows = demanded.then_some(&shows);
            let config = Arc::new(client(&secured.authority.pem, &[version], shows));
            let mut kind = None;
            for _ in 0..2 {
                let stream = handshake(&secured.server, &config).await.unwrap();
                kind = stream.get_ref().1.handshake_kind();
            }
            assert_eq!(kind, Some(expected), "{version:?}, demanded: {demanded}");
        }
    }
}

/// The files of a folder with this certificate and key.
fn files<'a>(certificate: &'a Pair, key: &'a Pair) -> [(&'static str, &'a str); 2] {
    [("tls.crt", &certificate.certificate), ("tls.key", &key.key)]
}

/// The certificate that a new handshake gets.
async fn shown(server: &Serving, authority: &Authority) -> Vec<u8> {
    let config = Arc::new(client(&authority.pem, BOTH, None));
    let stream = handshake(server, &config).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn der(pair: &Pair) -> Vec<u8> {
    pair.der().0[0].to_vec()
}

/// The metrics: when the certificate expires, and how often its files were reloaded and failed.
async fn told(server: &Serving) -> (f64, f64, f64) {
    let page = scrape::page(server).await;
    let of = |series: &str| scrape::value(&page, series).unwrap();
    let reloads = |outcome: &str| {
        of(&format!("order_query_reloads_total{{outcome=\"{outcome}\",setting=\"server.tls\"}}"))
    };
    let end = of("order_query_tls_certificate_expiry_timestamp_seconds");
    (end, reloads("ok"), reloads("error"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_swapped_under_load_and_no_call_is_lost() {
    let authority = Authority::new();
    let until = [2050, 2060, 2070];
    let pairs = until.map(|year| authority.issue_until(&["localhost"], [year, 1, 1]));
    let mounted = Mounted::new(&files(&pairs[0], &pairs[0]));
    let sandbox = sandbox_at(Arc::new(SystemClock)).await;
    let config = format!("{}{}", settings(mounted.folder(), None), sandbox.accounts());
    let config = format!("server.max_connection_age = \"1s\"\n{config}");
    let mut server = Serving::start(&config);
    let done = Arc::new(AtomicBool::new(false));
    let mut callers = Vec::new();
    for _ in 0..4 {
        let channel = channel(server.address, client(&authority.pem, BOTH, None)).await.unwrap();
        let done = Arc::clone(&done);
        callers.push(tokio::spawn(async move {
            let mut client = OrderServiceClient::new(channel);
            while !done.load(Ordering::Relaxed) {
                ask(&mut client).await;
            }
        }));
    }
    assert_eq!(shown(&server, &authority).await, der(&pairs[0]));
    assert_eq!(told(&server).await, (2_524_608_000.0, 0.0, 0.0));

    mounted.swap(&files(&pairs[1], &pairs[1]));
    server.child.err.with("reloaded");
    assert_eq!(shown(&server, &authority).await, der(&pairs[1]));
    assert_eq!(told(&server).await, (2_840_140_800.0, 1.0, 0.0));

    // A key of another certificate.
    mounted.swap(&files(&pairs[2], &pairs[1]));
    let line = server.child.err.with("reload failed");
    assert!(line.contains("key_file: is not the key of cert_file"), "{line}");
    assert_eq!(shown(&server, &authority).await, der(&pairs[1]), "the old pair is used on");
    assert_eq!(told(&server).await, (2_840_140_800.0, 1.0, 1.0));

    mounted.swap(&files(&pairs[2], &pairs[2]));
    server.child.err.with("reloaded");
    assert_eq!(shown(&server, &authority).await, der(&pairs[2]));
    assert_eq!(told(&server).await, (3_155_760_000.0, 2.0, 1.0));

    done.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
}
