//! How long a call may take, and that a vendor call outlives its caller. Called with a client that
//! leaves the deadline to the server: tonic's own client would enforce it itself.

use std::sync::Arc;
use std::time::Duration;

use order_query::pb::order_service_client::OrderServiceClient;
use order_query::pb::{
    GetOrderResponse, OrderRef, Provider, Source, WatchOrderRequest, WatchOrderResponse,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tonic::{Code, Request, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::child::{PATIENCE, Serving};
use crate::support::played::{Played, answer};
use crate::support::{BareChannel, Failed, Server, bare_client, question, raw};

/// A server with one Haoka account, and its vendor: a listener that never answers.
async fn server(timeout: &str, request_timeout: &str) -> (Server, TcpListener) {
    let vendor = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nrequest_timeout = \"{request_timeout}\"\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n\
         [accounts.h]\nprovider = \"haoka\"\nuser_id = \"a\"\nsecret = \"b\"\n\
         timeout = \"{timeout}\"\nbase_url = \"http://{}\"\n",
        vendor.local_addr().unwrap()
    );
    let clock = std::sync::Arc::new(order_query::clock::SystemClock);
    (Server::start_whole(&config, clock).await, vendor)
}

/// Calls with that `grpc-timeout`.
async fn ask(server: &Server, grpc_timeout: Option<&str>) -> Result<GetOrderResponse, Failed> {
    let mut request = Request::new(question(Provider::Haoka, "shipped"));
    if let Some(text) = grpc_timeout {
        request.metadata_mut().insert("grpc-timeout", text.parse().unwrap());
    }
    let answer = bare_client(server.app.address).get_order(request).await;
    answer.map(tonic::Response::into_inner).map_err(|status| Failed::from(&status))
}

fn assert_out_of_time(failed: &Failed) {
    assert_eq!(failed.code, Code::DeadlineExceeded, "{failed:?}");
    assert_eq!(failed.reason, "DEADLINE_EXCEEDED");
    assert_eq!(failed.domain, "orderquery");
    assert_eq!(failed.metadata["account"], "h");
}

#[tokio::test]
async fn a_callers_deadline_is_enforced() {
    let (server, _vendor) = server("1m", "1m").await;
    for timeout in ["50m", "50000u", "50000000n"] {
        assert_out_of_time(&ask(&server, Some(timeout)).await.unwrap_err());
    }
}

#[tokio::test]
async fn missing_malformed_and_long_deadlines_are_capped() {
    let (server, _vendor) = server("1m", "50ms").await;
    for timeout in [None, Some("5 apples"), Some("-1S"), Some("123456789S"), Some("99999999H")] {
        assert_out_of_time(&ask(&server, timeout).await.unwrap_err());
    }
}

#[tokio::test]
async fn an_expired_deadline_sends_nothing() {
    let (server, vendor) = server("1m", "1m").await;
    let failed = ask(&server, Some("0m")).await.unwrap_err();
    assert_eq!(
        (failed.code, failed.reason.as_str()),
        (Code::DeadlineExceeded, "DEADLINE_EXCEEDED")
    );
    // Had anything been sent, its connection would be queued before this one.
    let ours = TcpStream::connect(vendor.local_addr().unwrap()).await.unwrap();
    let (_, first) = vendor.accept().await.unwrap();
    assert_eq!(first, ours.local_addr().unwrap());
}

#[tokio::test]
async fn a_vendor_call_continues_when_its_caller_leaves() {
    let (server, vendor) = server("1m", "1m").await;
    let health = HealthCheckRequest { service: "account/h".to_owned() };
    let mut watch =
        HealthClient::new(server.channel.clone()).watch(health).await.unwrap().into_inner();
    let mut told = async || watch.message().await.unwrap().unwrap().status();
    assert_eq!(told().await, ServingStatus::Serving);

    assert_out_of_time(&ask(&server, Some("50m")).await.unwrap_err());
    let (mut connection, _) = vendor.accept().await.unwrap();
    let mut request = [0; 64];
    assert!(connection.read(&mut request).await.unwrap() > 0);
    let body = "{\"code\":-1,\"message\":\"签名错误\"}";
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    connection.write_all(answer.as_bytes()).await.unwrap();
    // The answer was still read: it reports that the credentials are rejected.
    assert_eq!(told().await, ServingStatus::NotServing);
}

#[tokio::test]
async fn the_account_timeout_bounds_the_vendor_call() {
    let (server, _vendor) = server("50ms", "1m").await;
    let failed = ask(&server, None).await.unwrap_err();
    assert_eq!((failed.code, failed.reason.as_str()), (Code::Unavailable, "PROVIDER_UNAVAILABLE"));
    assert_eq!(failed.retry_delay, Some(Duration::from_secs(1)));
}

#[tokio::test]
async fn a_request_without_a_body_ends_at_its_deadline() {
    let (server, _vendor) = server("1m", "50ms").await;
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    let path = "/orderquery.v1.OrderService/GetOrder";
    let answer = raw(server.app.address, path, &headers, None).await;
    assert_eq!(answer.headers()["grpc-status"], "4");
}

/// The real binary, and a vendor that answers when the test permits it.
async fn binary(settings: &str) -> (Serving, Played, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let vendor = Played::start(move |_| {
        let gate = Arc::clone(&opened);
        async move {
            gate.acquire().await.unwrap().forget();
            answer(200, r#"{"code":0,"data":{"orderNo":"1","orderStatus":"已发货"}}"#)
        }
    })
    .await;
    let config = format!(
        "{settings}\n[accounts.h]\nprovider = \"haoka\"\nuser_id = \"a\"\nsecret = \"b\"\n\
         timeout = \"1m\"\nbase_url = \"{}\"\n",
        vendor.url()
    );
    (Serving::start(&config), vendor, gate)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vendor_slower_than_the_deadline_is_not_called_twice() {
    let (server, vendor, gate) = binary("").await;
    let mut client = bare_client(server.address);
    let mut request = Request::new(question(Provider::Haoka, "shipped"));
    request.metadata_mut().insert("grpc-timeout", "200m".parse().unwrap());
    let answer = timeout(PATIENCE, client.get_order(request)).await.unwrap();
    assert_out_of_time(&Failed::from(&answer.unwrap_err()));
    vendor.until_asked(1).await;
    gate.add_permits(1);
    let kept = async {
        loop {
            let question = question(Provider::Haoka, "shipped");
            let answer = client.get_order(question).await.unwrap().into_inner();
            // Until the answer arrives, this call joins the one in flight.
            if answer.source() == Source::Cache {
                return;
            }
        }
    };
    timeout(PATIENCE, kept).await.unwrap();
    assert_eq!(vendor.asked().len(), 1);
}

async fn watch(
    client: &OrderServiceClient<BareChannel>,
    grpc_timeout: Option<&str>,
) -> Streaming<WatchOrderResponse> {
    let id = "shipped".to_owned();
    let order = OrderRef { provider: Provider::Haoka.into(), id, ..OrderRef::default() };
    let mut request = Request::new(WatchOrderRequest { order: Some(order), ..Default::default() });
    if let Some(text) = grpc_timeout {
        request.metadata_mut().insert("grpc-timeout", text.parse().unwrap());
    }
    client.clone().watch_order(request).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ends_at_its_callers_deadline_only() {
    let (server, _vendor, gate) = binary("server.request_timeout = \"50ms\"").await;
    let client = bare_client(server.address);
    let mut endless = [watch(&client, None).await, watch(&client, Some("5 apples")).await];
    let begin = Instant::now();
    let mut bounded = watch(&client, Some("400m")).await;
    let end = timeout(PATIENCE, bounded.message()).await.unwrap().unwrap_err();
    let failed = Failed::from(&end);
    assert_eq!(failed.code, Code::DeadlineExceeded);
    assert_eq!(
        (failed.reason.as_str(), failed.domain.as_str()),
        ("DEADLINE_EXCEEDED", "orderquery")
    );
    assert!(begin.elapsed() >= Duration::from_millis(400), "not at request_timeout");
    gate.add_permits(1);
    for watch in &mut endless {
        timeout(PATIENCE, watch.message()).await.unwrap().unwrap().unwrap();
    }
}
