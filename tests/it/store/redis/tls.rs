//! The shared store over TLS.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use order_query::clock::SystemClock;
use order_query::store::{Redis, Store as _};

use crate::support::CACHE_BYTES;
use crate::support::child::exact;
use crate::support::redis_sentinel::{MASTER, Sentinel};
use crate::support::redis_server::RedisServer;

/// Where this test finds the server when it runs a second time, in a process of its own.
const SERVER: &str = "ORDER_QUERY_TEST_REDISS";

/// Retries until that error is reported, or until it works where none is expected.
async fn ask_until(url: &str, told: Option<&str>) {
    let store = Redis::open(url, CACHE_BYTES, Arc::new(SystemClock)).unwrap();
    let asks = async {
        loop {
            // On a busy machine a handshake takes longer than one attempt waits for it.
            match (store.spent(&"minute".into()).await.map(drop), told) {
                (Ok(()), None) => return,
                (Err(error), Some(told)) if error.detail.as_deref() == Some(told) => return,
                (Ok(()), Some(_)) => panic!("it works"),
                (Err(_), _) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, asks).await.unwrap_or_else(|_| panic!("never {told:?}"));
}

/// Waits until a store there hears the news of others.
async fn hear_news(url: &str) {
    let store = Redis::open(url, CACHE_BYTES, Arc::new(SystemClock)).unwrap();
    store.opened().await;
    let mut operator = redis::Client::open(url).unwrap().get_connection().unwrap();
    let heard = async {
        loop {
            let mut question = redis::cmd("PUBSUB");
            question.arg("NUMSUB").arg("order-query:news");
            let (_, heard_by): (String, usize) = question.query(&mut operator).unwrap();
            if heard_by == 1 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), heard).await.expect("it subscribes");
}

/// Runs this test a second time, where that certificate is trusted: the system's trusted authorities are
/// read from the environment, which all tests here share.
fn run_again(test: &str, certificate: PathBuf, url: String) {
    let again = Command::new(env::current_exe().unwrap())
        .args(["--exact", &exact(module_path!(), test)])
        .env("SSL_CERT_FILE", certificate)
        .env(SERVER, url)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&again.stdout);
    assert!(again.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
async fn a_certificate_must_be_trusted_by_the_system() {
    if let Ok(url) = env::var(SERVER) {
        ask_until(&url, None).await;
        hear_news(&url).await;
        return;
    }
    let (server, certificate) = RedisServer::start_tls();
    let url = format!("rediss://localhost:{}/0", server.port);
    let refused = "redis: not retried yet: cannot be reached: I/O error";
    ask_until(&url, Some(refused)).await;
    run_again("a_certificate_must_be_trusted_by_the_system", certificate, url);
}

#[tokio::test]
async fn certificates_of_sentinels_and_their_primary_must_be_trusted() {
    if let Ok(url) = env::var(SERVER) {
        ask_until(&url, None).await;
        return;
    }
    let (server, certificate) = RedisServer::start_tls();
    let sentinel = Sentinel::start_tls(server.port, &certificate);
    let url = format!("rediss-sentinel://localhost:{}/{MASTER}?db=0", sentinel.port);
    let refused = "redis: not retried yet: cannot be reached: no sentinel answers: I/O error";
    ask_until(&url, Some(refused)).await;
    run_again("certificates_of_sentinels_and_their_primary_must_be_trusted", certificate, url);
}
