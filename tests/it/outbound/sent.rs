//! Whether a call was sent, and so counts: the connection decides, not which timer fires first.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use futures_util::future::join_all;
use futures_util::stream;
use order_query::pb::{GetOrderRequest, Provider};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::support::facts::{ANSWER, accounts};
use crate::support::played::{Asked, Played, answer};
use crate::support::secured::Secured;
use crate::support::{Server, question};

/// One call in all.
pub const ONCE: &str = "calls_per_minute = 1\ncalls_per_order_per_day = 1";

/// A timeout no longer than the one for connecting, where nothing connects.
const SHORT: &str = "timeout = \"50ms\"";

/// A timeout that is long enough for everything but an answer.
const LONG: &str = "timeout = \"1s\"";

/// A request that may use the last calls of a day.
fn anew(provider: Provider, id: &str) -> GetOrderRequest {
    GetOrderRequest { max_age: Some(prost_types::Duration::default()), ..question(provider, id) }
}

/// The reasons why an order of each vendor cannot be fetched, in two attempts; empty where it
/// can.
pub async fn reasons(config: &str) -> Vec<(Provider, [String; 2])> {
    let server = Server::start(config).await;
    let asked = Provider::all().map(|provider| {
        let server = &server;
        async move {
            let ask = async || match server.get(anew(provider, "54")).await {
                Ok(_) => String::new(),
                Err(failed) => failed.reason,
            };
            (provider, [ask().await, ask().await])
        }
    });
    join_all(asked).await
}

/// A listener with a full backlog: further connections are dropped.
async fn full() -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut crowd = Vec::new();
    let patience = Duration::from_millis(300);
    while let Ok(stream) = tokio::time::timeout(patience, TcpStream::connect(address)).await {
        crowd.push(stream.unwrap());
    }
    (listener, crowd)
}

#[tokio::test]
async fn a_call_without_a_connection_is_not_counted() {
    let (full, _crowd) = full().await;
    // No program accepts: the system completes the connection, and no answer ever comes.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let [full, silent] = [&full, &silent].map(|listener| listener.local_addr().unwrap());
    let once = format!("{SHORT}\n{ONCE}");
    let once = once.as_str();
    let tunnel = format!("{once}\nproxy = \"http://{silent}\"");
    for (case, config) in [
        ("a dropped SYN", accounts(&format!("http://{full}"), once)),
        ("a dropped SYN, with TLS", accounts(&format!("https://{full}"), once)),
        ("a handshake without an end", accounts(&format!("https://{silent}"), once)),
        ("a proxy that does not let through", accounts("https://vendor.example", &tunnel)),
    ] {
        for (provider, reasons) in reasons(&config).await {
            assert_eq!(reasons, ["PROVIDER_UNAVAILABLE"; 2], "{case}: {provider:?}");
        }
    }
}

/// Answers token calls, and never order calls.
async fn token_only(asked: Asked) -> axum::http::Response<Body> {
    if !asked.uri.path().contains("token") {
        pending::<()>().await;
    }
    answer(200, ANSWER.as_str())
}

#[tokio::test]
async fn a_call_that_may_have_been_sent_is_counted() {
    let vendor = Played::start(token_only).await;
    let once = format!("{LONG}\n{ONCE}");
    let once = once.as_str();
    let proxied = format!("{once}\nproxy = \"{}\"", vendor.url());
    let secured = Secured::answering("127.0.0.1", || {
        let begun = stream::once(async { Ok::<_, std::io::Error>(ANSWER[..9].to_owned()) });
        answer(200, Body::from_stream(futures_util::StreamExt::chain(begun, stream::pending())))
    })
    .await;
    let known = format!("{once}\n{}", secured.ca_file());
    for (case, config) in [
        ("no answer", accounts(&vendor.url(), once)),
        ("no answer of a proxy", accounts("http://127.0.0.1:1", &proxied)),
        ("half an answer, with TLS", accounts(&secured.url(), &known)),
    ] {
        for (provider, reasons) in reasons(&config).await {
            // Without a token no order call is made.
            let is_token = provider == Provider::Wechat && case.contains("half");
            let second = if is_token { "PROVIDER_UNAVAILABLE" } else { "PROVIDER_QUOTA_EXHAUSTED" };
            assert_eq!(reasons, ["PROVIDER_UNAVAILABLE", second], "{case}: {provider:?}");
        }
    }
}

/// A reused connection carries the request at once.
#[tokio::test]
async fn a_call_on_a_reused_connection_is_counted() {
    for provider in Provider::all() {
        let answers = Arc::new(AtomicBool::new(true));
        let asked = Arc::clone(&answers);
        let vendor = Played::start(move |_| {
            let answers = asked.load(Ordering::Relaxed);
            async move {
                if !answers {
                    pending::<()>().await;
                }
                answer(200, ANSWER.as_str())
            }
        })
        .await;
        let limits = format!("{LONG}\ncalls_per_order_per_day = 1");
        let server = Server::start(&accounts(&vendor.url(), &limits)).await;
        let asks = async |id| server.get(anew(provider, id)).await.map_err(|failed| failed.reason);
        assert_eq!(asks("54").await.map(drop), Ok(()), "{provider:?}");
        answers.store(false, Ordering::Relaxed);
        for reason in ["PROVIDER_UNAVAILABLE", "PROVIDER_QUOTA_EXHAUSTED"] {
            assert_eq!(asks("55").await.unwrap_err(), reason, "{provider:?}");
        }
        assert_eq!(vendor.connections(), 1, "{provider:?}");
    }
}
