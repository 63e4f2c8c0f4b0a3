//! Bodies that are too large or never end: the right reason, and no memory for them.

use std::sync::Arc;

use futures_util::future::join_all;
use order_query::clock::SystemClock;
use order_query::pb::Provider;
use order_query::pb::order_service_client::OrderServiceClient;
use order_query::sandbox::{Kind, Sandbox};

use crate::support::child::Serving;
use crate::support::{Failed, connect, peak_memory, question, sandbox_at};

/// The sandbox's fault, as an id for each vendor.
const HUGE: [(Provider, &str); 3] = [
    (Provider::Wechat, "fault-huge"),
    (Provider::Dingshang, "9011"),
    (Provider::Haoka, "fault-huge"),
];
const ENDLESS: [(Provider, &str); 3] = [
    (Provider::Wechat, "fault-endless"),
    (Provider::Dingshang, "9012"),
    (Provider::Haoka, "fault-endless"),
];
const HANGING: [(Provider, &str); 3] = [
    (Provider::Wechat, "fault-hang"),
    (Provider::Dingshang, "9014"),
    (Provider::Haoka, "fault-hang"),
];

/// How many concurrent calls each vendor gets.
const TIMES: usize = 3;

/// More than reading one answer within its limit takes, and less than an answer of 100 MiB.
const BOUND: u64 = 48 << 20;

/// The sandbox in this process, and a server with `more` set for each account in another, whose
/// memory can be measured.
async fn start(more: &str) -> (Sandbox, Serving) {
    let sandbox = sandbox_at(Arc::new(SystemClock)).await;
    let config = sandbox.accounts().replace("provider = ", &format!("{more}\nprovider = "));
    let server = Serving::start(&config);
    (sandbox, server)
}

/// Fetches all of them concurrently, several times. Returns the failures.
async fn ask(server: &Serving, orders: &[(Provider, &str)]) -> Vec<Failed> {
    let client = OrderServiceClient::new(connect(server.address).await);
    let calls = orders.iter().cycle().take(TIMES * orders.len()).map(|(provider, id)| {
        let mut client = client.clone();
        let question = question(*provider, id);
        async move { Failed::from(&client.get_order(question).await.unwrap_err()) }
    });
    join_all(calls).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_huge_body_is_abandoned_without_using_memory() {
    let (sandbox, server) = start("").await;
    // The first calls warm up what is loaded once.
    ask(&server, &HUGE).await;
    let before = peak_memory(server.child.id());
    for failed in ask(&server, &HUGE).await {
        assert_eq!(failed.reason, "PROVIDER_RESPONSE_INVALID", "{failed:?}");
        assert!(failed.message.ends_with("it is larger than 256 KiB"), "{failed:?}");
    }
    let grown = peak_memory(server.child.id()) - before;
    assert!(grown < BOUND, "{grown} bytes more");
    assert!(before < 4 * BOUND, "{before} bytes");
    let orders = sandbox.arrivals().into_iter().filter(|arrival| arrival.kind == Kind::Order);
    // Concurrent equal requests may be joined.
    assert!(orders.count() <= 2 * TIMES * HUGE.len(), "none was asked for twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_body_is_abandoned_at_the_account_timeout() {
    let (sandbox, server) = start("timeout = \"1s\"").await;
    // WeChat's token is fetched once, before its orders.
    assert_eq!(server.get(&["wechat", "status-2"]).code, Some(0));
    for failed in ask(&server, &[ENDLESS, HANGING].concat()).await {
        assert_eq!(failed.reason, "PROVIDER_UNAVAILABLE", "{failed:?}");
        assert_eq!(
            failed.message, "the vendor did not answer within 1s; retry later",
            "{failed:?}"
        );
    }
    let orders = sandbox.arrivals().into_iter().filter(|arrival| arrival.kind == Kind::Order);
    assert!(orders.count() <= 1 + 2 * TIMES * ENDLESS.len(), "none was asked for twice");
    assert!(peak_memory(server.child.id()) < 4 * BOUND);
}
