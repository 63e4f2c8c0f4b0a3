//! How long a call may take, and that a vendor's call is not the caller's to end. Asked with a
//! client that leaves the deadline to the server: tonic's own would answer in its place.

use std::time::Duration;

use order_query::pb::{GetOrderResponse, Provider};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{Failed, Server, bare_client, question};

/// A server with one Haoka account, and its vendor: a listener that nobody answers at.
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

/// Asks with that `grpc-timeout`.
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
async fn a_callers_deadline_is_kept() {
    let (server, _vendor) = server("1m", "1m").await;
    for timeout in ["50m", "50000u", "50000000n"] {
        assert_out_of_time(&ask(&server, Some(timeout)).await.unwrap_err());
    }
}

#[tokio::test]
async fn a_missing_a_malformed_and_a_long_deadline_are_capped() {
    let (server, _vendor) = server("1m", "50ms").await;
    for timeout in [None, Some("5 apples"), Some("-1S"), Some("123456789S"), Some("99999999H")] {
        assert_out_of_time(&ask(&server, timeout).await.unwrap_err());
    }
}

#[tokio::test]
async fn a_call_without_any_time_sends_nothing() {
    let (server, vendor) = server("1m", "1m").await;
    let failed = ask(&server, Some("0m")).await.unwrap_err();
    assert_eq!(
        (failed.code, failed.reason.as_str()),
        (Code::DeadlineExceeded, "DEADLINE_EXCEEDED")
    );
    // Had anything been sent, its connection would stand before this one.
    let ours = TcpStream::connect(vendor.local_addr().unwrap()).await.unwrap();
    let (_, first) = vendor.accept().await.unwrap();
    assert_eq!(first, ours.local_addr().unwrap());
}

#[tokio::test]
async fn the_vendors_call_goes_on_when_its_caller_is_gone() {
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
    // The answer was still read: it tells that the credentials are refused.
    assert_eq!(told().await, ServingStatus::NotServing);
}

#[tokio::test]
async fn the_accounts_timeout_bounds_the_vendors_call() {
    let (server, _vendor) = server("50ms", "1m").await;
    let failed = ask(&server, None).await.unwrap_err();
    assert_eq!((failed.code, failed.reason.as_str()), (Code::Unavailable, "PROVIDER_UNAVAILABLE"));
    assert_eq!(failed.retry_delay, Some(Duration::from_secs(1)));
}

#[tokio::test]
async fn a_request_whose_body_never_comes_ends_at_its_deadline() {
    let (server, _vendor) = server("1m", "50ms").await;
    let stream = TcpStream::connect(server.app.address).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post(format!(
        "http://{}/orderquery.v1.OrderService/GetOrder",
        server.app.address
    ))
    .header("content-type", "application/grpc")
    .header("te", "trailers")
    .body(())
    .unwrap();
    let (answer, _body_that_stays_open) = client.send_request(request, false).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "4");
}
