//! What `get`, `watch` and `health` report when no order-query listens, or it is called the wrong way:
//! the symptom and what to try. All three commands run every case.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use tempfile::TempDir;
use tokio::net::lookup_host;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::commands::dev;
use crate::support::authority::{Authority, settings};
use crate::support::child::{Ended, Serving, run};
use crate::support::played::{Played, answer};
use crate::support::serve;

const HAOKA: &str = "[accounts.cards]\nprovider = \"haoka\"\nuser_id = \"agent\"\nsecret = \"s\"\n";

/// Runs the three commands against that endpoint.
fn asked(endpoint: &str, more: &[&str]) -> Vec<(&'static str, Ended)> {
    let commands: [&[&str]; 3] =
        [&["get", "haoka", "shipped"], &["watch", "haoka", "shipped"], &["health"]];
    commands
        .map(|command| (command[0], run([command, &["--endpoint", endpoint], more].concat())))
        .into()
}

/// All of them fail with exactly one complaint, which contains this symptom and this advice.
fn fail(endpoint: &str, more: &[&str], looks: &str, try_this: &str) {
    for (command, failed) in asked(endpoint, more) {
        assert_complaint(command, &failed, endpoint, looks, try_this);
    }
}

fn assert_complaint(command: &str, failed: &Ended, endpoint: &str, looks: &str, try_this: &str) {
    assert_eq!(
        (failed.code, failed.out.as_str()),
        (Some(1), ""),
        "{command} {endpoint}: {failed:?}"
    );
    let [first, second] = failed.err.lines().collect::<Vec<_>>()[..] else {
        panic!("{command} {endpoint}: {}", failed.err)
    };
    assert!(first.starts_with("error: cannot "), "{command}: {first}");
    assert!(first.contains(&format!(" {endpoint}: ")), "{command}: {first}");
    assert!(first.contains(looks), "{command} {endpoint}: {first}");
    assert_eq!(first.matches(looks).count(), 1, "{command}: {first}");
    assert!(second.starts_with("  try: ") && second.contains(try_this), "{command}: {second}");
}

/// A server with TLS, a certificate for these names, and a folder with all files.
struct Secured {
    server: Serving,
    folder: TempDir,
}

impl Secured {
    fn start(names: &[&str], callers: Option<&Authority>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        std::fs::write(folder.path().join("authority.crt"), &authority.pem).unwrap();
        authority.issue(names).write(folder.path());
        let server = Serving::start(&format!("{}{HAOKA}", settings(folder.path(), callers)));
        Self { server, folder }
    }

    fn at(&self, scheme: &str, host: &str) -> String {
        format!("{scheme}://{host}:{}", self.server.address.port())
    }

    /// The arguments that make the client trust it.
    fn trusted(&self) -> [String; 2] {
        ["--ca-file".to_owned(), self.file("authority.crt")]
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }
}

fn as_texts(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

#[test]
fn a_wrong_scheme_is_reported_with_the_right_one() {
    let secured = Secured::start(&["localhost"], None);
    let right = format!("--endpoint {}", secured.at("https", "localhost"));
    fail(&secured.at("http", "localhost"), &[], "the server speaks TLS", &right);

    let plain = dev();
    for address in [plain.address, plain.admin_address] {
        let right = format!("--endpoint http://{address}");
        fail(&format!("https://{address}"), &[], "the server does not speak TLS", &right);
    }
}

#[test]
fn an_untrusted_server_certificate_is_reported_with_the_cause() {
    let secured = Secured::start(&["localhost"], None);
    let url = secured.at("https", "localhost");
    fail(&url, &[], "authority that this machine does not trust issued", "--ca-file FILE");

    let other = secured.file("other.crt");
    std::fs::write(&other, Authority::new().pem).unwrap();
    fail(
        &url,
        &["--ca-file", &other],
        "another authority issued",
        &format!("which is not {other}"),
    );

    let by_address = secured.at("https", "127.0.0.1");
    let trusted = secured.trusted();
    let trusted = as_texts(&trusted);
    let looks = "certificate not valid for name \"127.0.0.1\"; certificate is only valid for DnsName(\"localhost\")";
    fail(&by_address, &trusted, looks, "a name that the certificate is valid for");

    // The server reloads the certificate and does not refuse it for being expired.
    let authority = Authority::new();
    let folder = tempfile::tempdir().unwrap();
    authority.issue_until(&["localhost"], [2020, 1, 1]).write(folder.path());
    let old = Serving::start(&format!("{}{HAOKA}", settings(folder.path(), None)));
    let file = folder.path().join("authority.crt");
    std::fs::write(&file, &authority.pem).unwrap();
    let url = format!("https://localhost:{}", old.address.port());
    let arguments = ["--ca-file", file.to_str().unwrap()];
    fail(&url, &arguments, "certificate expired", "this machine's clock");
}

#[test]
fn a_missing_or_refused_client_certificate_is_reported() {
    let callers = Authority::new();
    let secured = Secured::start(&["localhost"], Some(&callers));
    let url = secured.at("https", "localhost");
    let trusted = secured.trusted();
    let trusted = as_texts(&trusted);
    // Repeated, because it is a race whether the server's own message arrives.
    for _ in 0..5 {
        fail(&url, &trusted, "requires a certificate from callers", "--cert-file and --key-file");
    }

    let strange = tempfile::tempdir().unwrap();
    Authority::new().issue(&["billing.internal"]).write(strange.path());
    let [certificate, key] =
        ["tls.crt", "tls.key"].map(|name| strange.path().join(name).to_str().unwrap().to_owned());
    let shown = ["--cert-file", &certificate, "--key-file", &key];
    for _ in 0..5 {
        let more = [&trusted, &shown[..]].concat();
        fail(
            &url,
            &more,
            "rejects the caller's certificate",
            &format!("which {certificate} is not"),
        );
    }

    // With the right certificate the call succeeds.
    callers.issue(&["billing.internal"]).write(strange.path());
    let arguments = [&["health", "--endpoint", &url], &trusted[..], &shown].concat();
    assert_eq!(run(arguments).out, "SERVING\n");
}

#[test]
fn the_admin_port_is_recognized_as_the_wrong_one_for_orders() {
    let server = dev();
    let url = format!("http://{}", server.admin_address);
    for (command, failed) in asked(&url, &[]) {
        match command {
            "health" => assert_eq!(failed.code, Some(0), "{failed:?}"),
            _ => {
                assert_complaint(
                    command,
                    &failed,
                    &url,
                    "does not know the method",
                    "server.listen (default 50051)",
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_with_no_listener_or_another_service_is_reported() {
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    for scheme in ["http", "https"] {
        let url = format!("{scheme}://{nobody}");
        fail(&url, &[], "nothing listens at this address", "server.listen (default 50051)");

        // Longer than a DNS label can be, so no resolver is asked.
        let host = "x".repeat(64);
        assert!(lookup_host((host.as_str(), 1)).await.is_err());
        fail(&format!("{scheme}://{host}:1"), &[], "the host name has no address", "name");
    }

    let web = Played::start_over(None, |_| async { answer(200, "{}") }).await;
    fail(
        &format!("http://{}", web.address),
        &[],
        "the server closed the connection",
        "order-query server uses this port",
    );

    let pair = Authority::new();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &pair.pem).unwrap();
    let (chain, key) = pair.issue(&["localhost"]).der();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let web = Played::start_over(Some(acceptor), |_| async { answer(200, "{}") }).await;
    let url = format!("https://localhost:{}", web.address.port());
    let arguments = ["--ca-file", file.path().to_str().unwrap()];
    fail(&url, &arguments, "does not speak gRPC: HTTP/2 is not offered", "proxy");

    let proxy = Router::new().fallback(|| async { StatusCode::BAD_GATEWAY });
    let address: SocketAddr = serve(Routes::from(proxy), CancellationToken::new()).await;
    let looks = "does not speak gRPC: HTTP status code 502";
    fail(&format!("http://{address}"), &[], looks, "must forward gRPC");
}

/// TLS can check an IPv6 address, whether or not the machine has one.
#[test]
fn an_ipv6_address_can_be_used_over_tls() {
    let failed = run(["health", "--endpoint", "https://[::1]:1"]);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(failed.err.starts_with("error: cannot connect to https://[::1]:1: "), "{}", failed.err);
    assert!(!failed.err.contains("invalid"), "{}", failed.err);
}

#[test]
fn an_unknown_health_name_is_reported_with_the_known_names() {
    let server = dev();
    let url = format!("http://{}", server.admin_address);
    for name in ["account/nobody", "ready", "haoka-sandbox"] {
        let health = run(["health", "--endpoint", &url, name]);
        assert_eq!((health.code, health.out.as_str()), (Some(1), "SERVICE_UNKNOWN\n"));
        for known in ["readiness", "liveness", "orderquery.v1.OrderService", "account/NAME"] {
            assert!(health.err.contains(known), "{}", health.err);
        }
    }
}
