//! What survives restarts, with the file store: the vendor gets no more calls than it allows,
//! however often the server restarts.

use std::sync::Arc;
use std::time::Duration;

use order_query::clock::{ManualClock, SystemClock};
use order_query::pb::order_service_client::OrderServiceClient;
use order_query::pb::{GetOrderRequest, GetOrderResponse, Provider, Source};
use order_query::sandbox::Sandbox;
use tempfile::TempDir;

use crate::support::child::Serving;
use crate::support::{Failed, Server, connect, manual_clock, question, sandbox_at};

const HOUR: Duration = Duration::from_hours(1);

/// A server that is stopped and started over one file, with vendors that keep running.
struct Fixture {
    clock: ManualClock,
    sandbox: Sandbox,
    folder: TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let clock = manual_clock();
        let sandbox = sandbox_at(Arc::new(clock.clone())).await;
        Self { clock, sandbox, folder: tempfile::tempdir().unwrap() }
    }

    async fn start(&self) -> Server {
        self.start_with(self.sandbox.accounts()).await
    }

    async fn start_with(&self, accounts: String) -> Server {
        let path = self.folder.path().join("orders.redb");
        let config = format!("[store]\nurl = \"file:{}\"\n{accounts}", path.display());
        Server::start_at(&config, Arc::new(self.clock.clone())).await
    }

    /// One request to a server that is started for it and stopped after it.
    async fn once(&self, id: &str, insists: bool) -> Result<GetOrderResponse, Failed> {
        let server = self.start().await;
        let max_age = insists.then(prost_types::Duration::default);
        let answer = server.get(GetOrderRequest { max_age, ..question(Provider::Haoka, id) }).await;
        stop(server).await;
        answer
    }
}

/// Stops a server, so that its file is free.
async fn stop(server: Server) {
    let Server { app, channel, client } = server;
    drop((channel, client));
    app.stop().await;
}

#[tokio::test]
async fn ten_calls_a_day_are_allowed_across_restarts() {
    let fixture = Fixture::new().await;
    let mut answered = 0;
    for _ in 0..15 {
        answered += usize::from(fixture.once("shipped", true).await.is_ok());
        fixture.clock.advance(HOUR);
    }
    assert_eq!((answered, fixture.sandbox.arrivals().len()), (10, 10));
}

#[tokio::test]
async fn terminal_orders_tokens_and_answers_survive_a_restart() {
    let fixture = Fixture::new().await;
    for id in ["withdrawn", "rejected", "canceled", "settled", "unsettleable"] {
        fixture.once(id, true).await.unwrap();
    }
    assert_eq!(fixture.sandbox.arrivals().len(), 5);
    fixture.clock.advance(HOUR * 24 * 365);
    for id in ["withdrawn", "rejected", "canceled", "settled", "unsettleable"] {
        let answer = fixture.once(id, true).await.unwrap();
        assert_eq!(answer.source(), Source::Cache);
        assert!(answer.order.unwrap().terminal);
    }
    assert_eq!(fixture.sandbox.arrivals().len(), 5);

    let server = fixture.start().await;
    server.get(question(Provider::Wechat, "status-2")).await.unwrap();
    stop(server).await;
    let server = fixture.start().await;
    server.get(question(Provider::Wechat, "status-3")).await.unwrap();
    let answer = server.get(question(Provider::Wechat, "status-2")).await.unwrap();
    assert_eq!(answer.source(), Source::Cache);
    assert_eq!(fixture.sandbox.arrivals().len(), 5 + 3, "one token, two orders");
}

#[tokio::test]
async fn a_renamed_account_keeps_its_remaining_quota() {
    let fixture = Fixture::new().await;
    for _ in 0..10 {
        fixture.once("shipped", true).await.unwrap();
        fixture.clock.advance(Duration::from_secs(1));
    }
    let renamed = fixture.sandbox.accounts().replace("haoka-sandbox]", "another-name]");
    let server = fixture.start_with(renamed).await;
    let max_age = Some(prost_types::Duration::default());
    let insisting = GetOrderRequest { max_age, ..question(Provider::Haoka, "shipped") };
    let failed = server.get(insisting).await.unwrap_err();
    assert_eq!(failed.reason, "PROVIDER_QUOTA_EXHAUSTED");
    let known = server.get(question(Provider::Haoka, "shipped")).await.unwrap();
    assert_eq!(known.order.unwrap().account, "another-name");
    assert_eq!(fixture.sandbox.arrivals().len(), 10);
}

#[tokio::test]
async fn a_paused_account_stays_paused_after_a_restart() {
    let fixture = Fixture::new().await;
    fixture.once("error-blocked", false).await.unwrap_err();
    fixture.clock.advance(Duration::from_secs(59));
    let failed = fixture.once("shipped", false).await.unwrap_err();
    assert_eq!(failed.retry_delay, Some(Duration::from_secs(1)));
    fixture.clock.advance(Duration::from_secs(1));
    fixture.once("shipped", false).await.unwrap();
    assert_eq!(fixture.sandbox.arrivals().len(), 2);
}

/// The real binary, killed repeatedly with a call in flight: no call is forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_at_any_moment_loses_no_call() {
    let sandbox = sandbox_at(Arc::new(SystemClock)).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.redb");
    let config = format!("store.url = \"file:{}\"\n{}", path.display(), sandbox.accounts());
    for round in 0..30 {
        let server = Serving::start(&config);
        let mut client = OrderServiceClient::new(connect(server.address).await);
        let max_age = Some(prost_types::Duration::default());
        let request = GetOrderRequest { max_age, ..question(Provider::Haoka, "shipped") };
        let call = tokio::spawn(async move { client.get_order(request).await });
        // In every other round while the call is at the vendor, otherwise at some moment before.
        let before = sandbox.arrivals().len();
        let moment = if round % 2 == 0 { usize::MAX } else { round };
        for _ in 0..moment {
            if call.is_finished() || sandbox.arrivals().len() > before {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(server);
        let _ = call.await;
    }
    let asked = sandbox.arrivals().len();
    // Some rounds spend a slot and are killed before they send.
    assert!((1..=10).contains(&asked), "{asked}");
}
