//! Clients' tokens: they arrive with every call, and must not leak.

use std::fs;

use order_query::pb::Provider;
use order_query::pb::order_service_client::OrderServiceClient;
use tonic::Request;

use super::assert_none;
use crate::support::child::{Child, Serving, command};
use crate::support::{Failed, connect, question};

const TOKEN: &str = "canaryCallerToken-1d9f";
const OLD_TOKEN: &str = "canaryCallerToken-77b0";
const STRANGERS: &str = "canaryCallerToken-ee21";

/// The canaries, and what is kept of the tokens.
fn canaries() -> Vec<String> {
    let tokens = [TOKEN, OLD_TOKEN, STRANGERS].map(str::to_owned);
    let digests = [TOKEN, OLD_TOKEN, STRANGERS].map(|token| {
        let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
        digest.as_ref().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
    });
    let bytes = [TOKEN, OLD_TOKEN].map(|token| {
        let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
        format!("{:?}", digest.as_ref()).trim_matches(['[', ']']).to_owned()
    });
    tokens.into_iter().chain(digests).chain(bytes).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_token_appears_in_a_log_or_an_error() {
    let canaries = canaries();
    let canaries: Vec<&str> = canaries.iter().map(String::as_str).collect();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    fs::write(&file, OLD_TOKEN).unwrap();
    let config = format!(
        "telemetry.log_level = \"trace\"\n\
         clients.billing = {{ token = {{ file = {file:?} }}, accounts = [\"haoka-sandbox\"] }}\n"
    );
    let mut server = Serving::start_with(&config, |command| {
        command.arg("--dev").env("RUST_BACKTRACE", "1");
    });
    let mut client = OrderServiceClient::new(connect(server.address).await);
    let mut told = Vec::new();
    let mut ask = async |header: &str, provider| {
        let mut request = Request::new(question(provider, "shipped"));
        request.metadata_mut().append("authorization", header.parse().unwrap());
        let outcome = client.get_order(request).await.map(drop);
        let failed = outcome.map_err(|status| (Failed::from(&status), status));
        told.push(format!("{failed:?}"));
        failed.map_err(|(failed, _)| failed.reason)
    };
    assert_eq!(ask(&format!("Bearer {OLD_TOKEN}"), Provider::Haoka).await, Ok(()));
    let unknown = || Err("CALLER_UNAUTHENTICATED".to_owned());
    for header in [
        format!("Bearer {STRANGERS}"),
        format!("Basic {OLD_TOKEN}"),
        OLD_TOKEN.to_owned(),
        format!("Bearer {OLD_TOKEN}, Bearer {TOKEN}"),
    ] {
        assert_eq!(ask(&header, Provider::Haoka).await, unknown());
    }
    let forbidden = ask(&format!("Bearer {OLD_TOKEN}"), Provider::Wechat).await;
    assert_eq!(forbidden, Err("CALLER_FORBIDDEN".to_owned()));
    // Invalid content, which is reported but not shown.
    fs::write(&file, format!("{TOKEN} {TOKEN}")).unwrap();
    server.child.err.with("clients.billing.token\",\"problem\"");
    assert_eq!(ask(&format!("Bearer {OLD_TOKEN}"), Provider::Haoka).await, Ok(()));

    let url = server.url();
    let arguments = ["get", "haoka", "shipped", "--endpoint", &url];
    let mut command = command(arguments);
    command.env("ORDER_QUERY_TOKEN", STRANGERS).env("ORDER_QUERY_LOG", "trace");
    let got = Child::start(command).end();
    assert_eq!(got.code, Some(1), "{got:?}");
    told.push(format!("{got:?}"));

    let log = server.stop().err;
    assert!(log.contains("CALLER_UNAUTHENTICATED") && log.contains("CALLER_FORBIDDEN"), "{log}");
    assert_none(&canaries, &log);
    assert_none(&canaries, &told.concat());
}
