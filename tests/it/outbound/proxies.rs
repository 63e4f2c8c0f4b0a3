//! The proxy that an account sets, and those of the environment, which are ignored.

use std::net::SocketAddr;

use order_query::pb::Provider;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::support::Server;
use crate::support::child::{PATIENCE, Serving};
use crate::support::facts::{ANSWER, accounts, first_calls};
use crate::support::played::{Played, answer};
use crate::support::secured::Secured;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_from_the_environment_are_ignored() {
    let vendor = Played::start(|_| async { answer(200, ANSWER.as_str()) }).await;
    let trap = Played::start(|_| async { answer(502, "") }).await;
    let server = Serving::start_with(&accounts(&vendor.url(), ""), |command| {
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env(name, trap.url()).env(name.to_lowercase(), trap.url());
        }
        command.env_remove("NO_PROXY").env_remove("no_proxy");
    });
    for provider in Provider::all() {
        let got = server.get(&[&provider.word(), "54"]);
        assert_eq!(got.code, Some(0), "{got:?}");
    }
    assert_eq!(vendor.asked().len(), first_calls());
    assert_eq!(trap.connections(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_of_the_account_is_used() {
    let vendor = Played::start(|_| async { answer(200, ANSWER.as_str()) }).await;
    // It answers instead of the vendor, so the answer shows the route.
    let proxy = Played::start(|_| async { answer(200, ANSWER.as_str()) }).await;
    let config = accounts(&vendor.url(), &format!("proxy = \"{}\"", proxy.url()));
    let server = Serving::start_with(&config, |command| {
        // The environment is ignored, its exceptions included.
        command.env("NO_PROXY", "*").env("no_proxy", "127.0.0.1");
    });
    for provider in Provider::all() {
        let got = server.get(&[&provider.word(), "54"]);
        assert_eq!(got.code, Some(0), "{got:?}");
    }
    let asked = proxy.asked();
    assert_eq!(asked.len(), first_calls());
    for asked in asked {
        assert_eq!(asked.uri.authority().unwrap().as_str(), vendor.address.to_string());
    }
    assert_eq!(vendor.connections(), 0);
}

#[tokio::test]
async fn a_proxy_sees_only_the_destination_of_a_tls_connection() {
    let secured = Secured::start("127.0.0.1").await;
    let (proxy, mut heads) = tunnel(secured.vendor.address).await;
    let more = format!("{}\nproxy = \"http://{proxy}\"", secured.ca_file());
    let server = Server::start(&accounts(&secured.url(), &more)).await;
    for provider in Provider::all() {
        server.order(provider, "54").await.unwrap();
        let head = tokio::time::timeout(PATIENCE, heads.recv()).await.unwrap().unwrap();
        let address = secured.vendor.address;
        assert!(head.starts_with(&format!("CONNECT {address} HTTP/1.1\r\n")), "{head}");
        for hidden in ["54", "access_token", "appsecret", "api/", "cgi-bin"] {
            let head = head.replace(&address.to_string(), "").to_lowercase();
            assert!(!head.contains(hidden), "{head}");
        }
    }
    assert_eq!(secured.vendor.asked().len(), first_calls());
}

#[tokio::test]
async fn an_unreachable_proxy_is_reported_without_its_address() {
    let vendor = Played::start(|_| async { answer(200, ANSWER.as_str()) }).await;
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let more = format!("proxy = \"http://someone:word@{nobody}\"");
    let server = Server::start(&accounts(&vendor.url(), &more)).await;
    let failed = server.order(Provider::Haoka, "54").await.unwrap_err();
    assert_eq!(failed.reason, "PROVIDER_UNAVAILABLE");
    let told = format!("{failed:?}");
    for hidden in ["someone", "word", "127.0.0.1", &nobody.port().to_string()] {
        assert!(!told.contains(hidden), "{told}");
    }
    assert_eq!(vendor.connections(), 0, "no way around the proxy");
}

/// A proxy that forwards everything to one address, and reports the head of each request.
async fn tunnel(to: SocketAddr) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, heads) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(let_through(stream, to, tell.clone()));
        }
    });
    (address, heads)
}

async fn let_through(mut client: TcpStream, to: SocketAddr, tell: mpsc::UnboundedSender<String>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    tell.send(String::from_utf8(head).unwrap()).unwrap();
    let mut vendor = TcpStream::connect(to).await.unwrap();
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    // Ends when either side ends.
    let _ = copy_bidirectional(&mut client, &mut vendor).await;
}
