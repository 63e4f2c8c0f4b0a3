//! The shared store over TLS.

use std::env;
use std::process::Command;
use std::sync::Arc;

use order_query::clock::SystemClock;
use order_query::store::{Redis, Store as _};

use crate::redis_server::RedisServer;

/// Where this test finds the server when it runs a second time, in a process of its own.
const SERVER: &str = "ORDER_QUERY_TEST_REDISS";

async fn ask(url: &str) -> Result<(), Option<String>> {
    let store = Redis::open(url, Arc::new(SystemClock)).unwrap();
    store.reopen("the-account").await.map_err(|error| error.detail)
}

#[tokio::test]
async fn a_certificate_must_be_of_one_whom_the_system_trusts() {
    if let Ok(url) = env::var(SERVER) {
        assert_eq!(ask(&url).await, Ok(()));
        return;
    }
    let (server, certificate) = RedisServer::start_tls();
    let url = format!("rediss://localhost:{}/0", server.port);
    assert_eq!(ask(&url).await, Err(Some("redis: cannot be reached: I/O error".to_owned())));
    // Whom the system trusts is read from the environment, which is one for all tests here.
    let again = Command::new(env::current_exe().unwrap())
        .args(["--exact", "store_redis_tls::a_certificate_must_be_of_one_whom_the_system_trusts"])
        .env("SSL_CERT_FILE", certificate)
        .env(SERVER, url)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&again.stdout);
    assert!(again.status.success() && said.contains("1 passed"), "{said}");
}
