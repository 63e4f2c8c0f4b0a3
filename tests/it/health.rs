//! Health as probes see it: before, during and after serving; on both listeners; for each account.

use std::sync::Arc;

use order_query::accounts::Accounts;
use order_query::clock::{Clock, SystemClock};
use order_query::health::Health;
use order_query::orders::Orders;
use order_query::pb::Provider;
use order_query::sandbox::Sandbox;
use order_query::store::Memory;

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::service::Routes;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::played::{Played, answer};
use crate::support::{CACHE_BYTES, Server, connect, sandboxed, serve};

const SERVER_NAMES: [&str; 3] = ["", "orderquery.v1.OrderService", "readiness"];

fn request(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

/// The health status of that name.
pub async fn check(channel: &Channel, service: &str) -> Result<ServingStatus, Code> {
    let answer = HealthClient::new(channel.clone()).check(request(service)).await;
    answer.map(|answer| answer.get_ref().status()).map_err(|status| status.code())
}

#[tokio::test]
async fn only_liveness_is_serving_before_the_server_is_ready() {
    let (ready, is_ready) = watch::channel(false);
    let stopping = CancellationToken::new();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let store = Arc::new(Memory::new(CACHE_BYTES, Arc::clone(&clock)));
    let orders = Orders::new(Accounts::new(Vec::new()), store, clock);
    let health = Health::new(&orders, &is_ready);
    let channel = connect(serve(Routes::new(health.service()), stopping).await).await;
    for (is_ready, expected) in [(false, ServingStatus::NotServing), (true, ServingStatus::Serving)]
    {
        ready.send_replace(is_ready);
        for name in SERVER_NAMES {
            assert_eq!(check(&channel, name).await, Ok(expected), "{name:?}");
        }
        assert_eq!(check(&channel, "liveness").await, Ok(ServingStatus::Serving));
    }
}

#[tokio::test]
async fn both_listeners_serve_health_and_the_admin_listener_no_orders() {
    let (_sandbox, server) = sandboxed().await;
    let admin = connect(server.app.admin_address).await;
    let names = [
        "liveness",
        "account/wechat-sandbox",
        "account/dingshang-sandbox",
        "account/haoka-sandbox",
    ];
    for channel in [&server.channel, &admin] {
        for name in SERVER_NAMES.iter().chain(&names) {
            assert_eq!(check(channel, name).await, Ok(ServingStatus::Serving), "{name:?}");
        }
        for name in ["nobody", "account/nobody", "account/", "Readiness"] {
            assert_eq!(check(channel, name).await, Err(Code::NotFound), "{name:?}");
        }
    }
    let mut client = order_query::pb::order_service_client::OrderServiceClient::new(admin);
    let question = crate::support::question(Provider::Haoka, "shipped");
    assert_eq!(client.get_order(question).await.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn an_accounts_health_follows_its_credentials() {
    let (_sandbox, server) = sandboxed().await;
    let name = "account/haoka-sandbox";
    let mut watch =
        HealthClient::new(server.channel.clone()).watch(request(name)).await.unwrap().into_inner();
    let mut told = async || watch.message().await.unwrap().unwrap().status();
    assert_eq!(told().await, ServingStatus::Serving);
    let steps = [
        // Other failures say nothing about the credentials.
        ("fault-503", ServingStatus::Serving),
        ("error-signature", ServingStatus::NotServing),
        ("fault-503", ServingStatus::NotServing),
        ("fault-html", ServingStatus::NotServing),
        ("unknown-order", ServingStatus::Serving),
        ("error-timestamp", ServingStatus::NotServing),
        ("shipped", ServingStatus::Serving),
    ];
    for (id, expected) in steps {
        let _ = server.order(Provider::Haoka, id).await;
        assert_eq!(check(&server.channel, name).await, Ok(expected), "after {id}");
        assert_eq!(check(&server.channel, "readiness").await, Ok(ServingStatus::Serving));
        assert_eq!(
            check(&server.channel, "account/wechat-sandbox").await,
            Ok(ServingStatus::Serving)
        );
    }
    for expected in [ServingStatus::NotServing, ServingStatus::Serving] {
        assert_eq!(told().await, expected);
    }
}

#[tokio::test]
async fn health_watchers_are_notified_of_the_stop_and_unknown_names_stay_open() {
    let (_sandbox, server) = sandboxed().await;
    let Server { app, channel, .. } = server;
    let mut client = HealthClient::new(channel);
    let mut known = client.watch(request("readiness")).await.unwrap().into_inner();
    let mut unknown = client.watch(request("nobody")).await.unwrap().into_inner();
    let status = known.message().await.unwrap().unwrap().status();
    assert_eq!(status, ServingStatus::Serving);
    let status = unknown.message().await.unwrap().unwrap().status();
    assert_eq!(status, ServingStatus::ServiceUnknown);

    let stopped = tokio::spawn(app.stop());
    let status = known.message().await.unwrap().unwrap().status();
    assert_eq!(status, ServingStatus::NotServing);
    assert_eq!(known.message().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(unknown.message().await.unwrap_err().code(), Code::Unavailable);
    stopped.await.unwrap();
}

#[tokio::test]
async fn a_call_under_way_is_answered_while_the_server_stops() {
    let may_answer = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&may_answer);
    let vendor = Played::start(move |_| {
        let gate = Arc::clone(&gate);
        async move {
            gate.acquire().await.unwrap().forget();
            answer(200, "{\"code\":-1,\"message\":\"订单不存在\"}")
        }
    })
    .await;
    let server = Server::start(&format!(
        "[accounts.h]\nprovider = \"haoka\"\nuser_id = \"a\"\nsecret = \"b\"\n\
         base_url = \"{}\"\n",
        vendor.url()
    ))
    .await;
    let Server { app, mut client, .. } = server;
    let address = app.address;
    let call = tokio::spawn(async move {
        client.get_order(crate::support::question(Provider::Haoka, "A1")).await
    });
    vendor.until_asked(1).await;
    let stopped = tokio::spawn(app.stop());
    // The listener closes first: new connections are refused.
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!call.is_finished());
    may_answer.add_permits(1);
    assert_eq!(call.await.unwrap().unwrap_err().code(), Code::NotFound);
    stopped.await.unwrap();
}

/// Keeps the vendors of the sandbox and of the contract consistent.
#[test]
fn the_sandbox_simulates_every_vendor() {
    assert_eq!(Sandbox::vendors(), Provider::all().map(Provider::word).collect::<Vec<_>>());
}
