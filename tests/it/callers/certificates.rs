//! Callers that are known by a name of their certificate, with and without a token. The listener
//! vouches for names; here a layer says what it would.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use order_query::clock::{Clock, SystemClock};
use order_query::config::Section;
use order_query::grpc;
use order_query::grpc::callers::{Caller, Callers, Transport};
use order_query::orders::{Accounts, Orders};
use order_query::pb::Provider;
use order_query::pb::order_service_client::OrderServiceClient;
use order_query::peer::Peer;
use order_query::store::Memory;
use tonic::service::Routes;
use tower::ServiceExt as _;

use super::{AUDIT, BILLING, with_headers};
use crate::support::{Failed, Scripted, question};

const CLIENTS: &str = r#"
[clients.api]
tls_name = "spiffe://cluster.local/ns/billing/sa/api"
[clients.jobs]
tls_name = "jobs.example"
[clients.billing]
tls_name = "billing.example"
token = "token-of-billing-0001"
[clients.audit]
token = "token-of-audit-000002"
"#;

/// The first one's name.
const API: &str = "spiffe://cluster.local/ns/billing/sa/api";

/// Who the caller is taken for that shows these names and these tokens.
async fn taken_for(vendor: &Scripted, names: &[&str], tokens: &[&str]) -> Result<String, String> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let config = format!(
        "{CLIENTS}[accounts.h]\nprovider = \"haoka\"\nuser_id = \"a\"\nsecret = \"s\"\n\
         base_url = \"http://{}\"\n",
        vendor.address
    );
    let mut root = Section::parse(&config, Path::new("")).unwrap();
    let transport = Transport { certificates: true, exposed: false };
    let callers = Callers::read(Some(root.section("clients")), &["h".into()], transport, &clock);
    let accounts = Accounts::read(root.section("accounts").sections(), &clock);
    assert_eq!(root.problems(), []);
    let orders = Orders::new(accounts, Arc::new(Memory::new(Arc::clone(&clock))), clock);
    let service = grpc::service(orders, callers, Duration::from_secs(15));
    let names: Arc<[String]> = names.iter().map(|&name| name.to_owned()).collect();
    let routes = Routes::new(service).map_request(move |mut request: http::Request<_>| {
        request.extensions_mut().insert(Peer { names: Arc::clone(&names), ..Peer::default() });
        request
    });
    let headers: Vec<_> = tokens.iter().map(|token| format!("Bearer {token}")).collect();
    let headers: Vec<&[u8]> = headers.iter().map(String::as_bytes).collect();
    let request = with_headers(question(Provider::Haoka, "A1"), &headers);
    match OrderServiceClient::new(routes).get_order(request).await {
        Ok(answer) => Ok(answer.extensions().get::<Caller>().unwrap().name.to_string()),
        Err(status) => Err(Failed::from(&status).reason),
    }
}

#[tokio::test]
async fn a_caller_is_known_by_all_that_is_set_for_it() {
    let vendor = Scripted::start().await;
    vendor.answers(200, super::shipped());
    for (names, tokens, client) in [
        (&[API][..], &[][..], Some("api")),
        (&["x.example", API], &[], Some("api")),
        (&["jobs.example"], &[], Some("jobs")),
        (&["billing.example"], &[BILLING], Some("billing")),
        (&["billing.example", API], &[BILLING], Some("billing")),
        (&[], &[AUDIT], Some("audit")),
        (&[API], &[AUDIT], Some("audit")),
        // The certificate of one that needs a token, too; and the other way round.
        (&["billing.example"], &[], None),
        (&[], &[BILLING], None),
        (&["jobs.example"], &[BILLING], None),
        // A header counts, and it alone.
        (&[API], &["token-of-nobody-0001"], None),
        (&[API], &[""], None),
        // Almost the name.
        (&["Jobs.example"], &[], None),
        (&["a.jobs.example"], &[], None),
        (&["*.example"], &[], None),
        (&["jobs.example."], &[], None),
        (&["spiffe://cluster.local/ns/billing/sa/api/x"], &[], None),
        (&[""], &[], None),
        (&[], &[], None),
        // Either could be meant.
        (&[API, "jobs.example"], &[], None),
    ] {
        let before = vendor.arrived().len();
        let taken = taken_for(&vendor, names, tokens).await;
        let expected = client.map(str::to_owned).ok_or("CALLER_UNAUTHENTICATED".to_owned());
        assert_eq!(taken, expected, "{names:?} {tokens:?}");
        let sent = vendor.arrived().len() - before;
        assert_eq!(sent, usize::from(client.is_some()), "{names:?} {tokens:?}");
    }
}
