//! Every kind of unidentified caller: none of them causes a vendor call or gets data.

use order_query::pb::order_service_client::OrderServiceClient;
use order_query::pb::{BatchGetOrdersRequest, Provider, WatchOrderRequest};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::{AUDIT, BILLING, haoka, order, shipped, two_clients, with_headers};
use crate::support::child::Serving;
use crate::support::{Failed, Scripted, connect, question};

/// The real binary with these clients, and the vendor of its one account.
struct Fixture {
    vendor: Scripted,
    server: Serving,
    client: OrderServiceClient<Channel>,
}

impl Fixture {
    async fn new(clients: &str) -> Self {
        let vendor = Scripted::start().await;
        vendor.answers(200, shipped());
        let account = haoka("h").replace("VENDOR", &format!("http://{}", vendor.address));
        let server = Serving::start(&format!("{clients}{account}"));
        let client = OrderServiceClient::new(connect(server.address).await);
        Self { vendor, server, client }
    }

    /// Asks for the order with these headers.
    async fn get(&self, id: &str, headers: &[&[u8]]) -> Result<(), Status> {
        let request = with_headers(question(Provider::Haoka, id), headers);
        self.client.clone().get_order(request).await.map(drop)
    }
}

/// The same error for every wrong caller: it does not reveal what was wrong.
fn assert_unknown(status: &Status, case: &str) {
    let failed = Failed::from(status);
    assert_eq!(
        (failed.code, failed.reason.as_str()),
        (Code::Unauthenticated, "CALLER_UNAUTHENTICATED"),
        "{case}"
    );
    assert_eq!(
        failed.message,
        "this server does not recognize the caller; send the token or present the certificate that \
         the operator has configured for it",
        "{case}"
    );
    assert!(failed.metadata.is_empty() && failed.field.is_none(), "{case}: {failed:?}");
    assert_eq!(failed.retry_delay, None, "{case}");
}

/// Headers of wrong callers.
fn wrong() -> Vec<Vec<Vec<u8>>> {
    let one = |text: &str| vec![text.as_bytes().to_vec()];
    let bearer = |token: &str| format!("Bearer {token}");
    let digest = ring::digest::digest(&ring::digest::SHA256, BILLING.as_bytes());
    let hex: String = digest.as_ref().iter().fold(String::new(), |hex, b| format!("{hex}{b:02x}"));
    vec![
        vec![],
        one(""),
        one("Bearer"),
        one("Bearer "),
        one(BILLING),
        one(&format!("Bearer{BILLING}")),
        one(&format!("Basic {BILLING}")),
        one(&format!("Token {BILLING}")),
        one(&format!("Bearer\t{BILLING}")),
        one(&bearer("token-of-nobody-0001")),
        one(&bearer(&BILLING[..BILLING.len() - 1])),
        one(&bearer(&format!("{BILLING}x"))),
        one(&bearer(&BILLING.to_uppercase())),
        one(&bearer(&format!("{BILLING} {BILLING}"))),
        one(&bearer(&format!("{BILLING},"))),
        one(&bearer(&format!("\"{BILLING}\""))),
        one(&bearer(&hex)),
        one(&format!("{}, {}", bearer(BILLING), bearer(AUDIT))),
        vec![bearer(BILLING).into_bytes(), bearer(BILLING).into_bytes()],
        vec![bearer(BILLING).into_bytes(), bearer(AUDIT).into_bytes()],
        vec![b"Basic eDp5".to_vec(), bearer(BILLING).into_bytes()],
        vec![[bearer(BILLING).as_bytes(), b"\xe5\xaf\x86"].concat()],
        vec![b"Bearer \xff\xfe".to_vec()],
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_caller_is_refused_on_every_method_and_nothing_is_sent() {
    let fixture = Fixture::new(&two_clients()).await;
    // A cached order, which could be returned.
    fixture.get("known", &[format!("Bearer {BILLING}").as_bytes()]).await.unwrap();
    let asked = fixture.vendor.asked().len();
    for headers in wrong() {
        let case = format!(
            "{:?}",
            headers.iter().map(|v| v.escape_ascii().to_string()).collect::<Vec<_>>()
        );
        let headers: Vec<&[u8]> = headers.iter().map(Vec::as_slice).collect();
        for id in ["known", "new", "not/an/id"] {
            let mut client = fixture.client.clone();
            assert_unknown(&fixture.get(id, &headers).await.unwrap_err(), &case);
            let batch = BatchGetOrdersRequest { orders: vec![order(id)], ..Default::default() };
            let request = with_headers(batch, &headers);
            assert_unknown(&client.batch_get_orders(request).await.unwrap_err(), &case);
            let watch = WatchOrderRequest { order: Some(order(id)), ..Default::default() };
            let request = with_headers(watch, &headers);
            assert_unknown(&client.watch_order(request).await.unwrap_err(), &case);
        }
    }
    assert_eq!(fixture.vendor.asked().len(), asked);
    // Probes need no token.
    let mut health = HealthClient::new(connect(fixture.server.address).await);
    health.check(HealthCheckRequest { service: "readiness".to_owned() }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_caller_is_accepted_with_any_case_of_the_scheme() {
    let fixture = Fixture::new(&two_clients()).await;
    for token in [BILLING, AUDIT] {
        for header in ["Bearer ", "bearer ", "BEARER ", "Bearer  "] {
            let header = format!("{header}{token}");
            fixture.get("A1", &[header.as_bytes()]).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_clients_any_caller_is_accepted() {
    let fixture = Fixture::new("").await;
    for headers in wrong() {
        let headers: Vec<&[u8]> = headers.iter().map(Vec::as_slice).collect();
        fixture.get("A1", &headers).await.unwrap();
    }
}
