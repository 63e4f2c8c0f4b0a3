//! Clients identified by a name in their certificate, with and without a token, over TLS.

use order_query::pb::Provider;
use order_query::pb::order_service_client::OrderServiceClient;
use serde_json::Value;
use tempfile::TempDir;

use super::{AUDIT, BILLING, with_headers};
use crate::support::authority::{self, Authority, BOTH};
use crate::support::child::Serving;
use crate::support::{Scripted, question};

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

/// A server that requests client certificates, and its vendor.
struct Listener {
    vendor: Scripted,
    server: Serving,
    servers: Authority,
    callers: Authority,
    _folder: TempDir,
}

impl Listener {
    async fn start() -> Self {
        let (vendor, folder) = (Scripted::start().await, tempfile::tempdir().unwrap());
        vendor.answers(200, super::shipped());
        let (servers, callers) = (Authority::new(), Authority::new());
        servers.issue(&["localhost"]).write(folder.path());
        let config = format!(
            "{}{CLIENTS}[accounts.h]\nprovider = \"haoka\"\nuser_id = \"a\"\nsecret = \"s\"\n\
             base_url = \"http://{}\"\n",
            authority::settings(folder.path(), Some(&callers)),
            vendor.address
        );
        let server = Serving::start(&config);
        Self { vendor, server, servers, callers, _folder: folder }
    }

    /// The client that a caller with these names and tokens is identified as, according to the log.
    async fn identified_as(&mut self, names: &[&str], tokens: &[&str]) -> Result<String, String> {
        let shows = self.callers.issue(names);
        let tls = authority::client(&self.servers.pem, BOTH, Some(&shows));
        let channel = authority::channel(self.server.address, tls).await.unwrap();
        let headers: Vec<_> = tokens.iter().map(|token| format!("Bearer {token}")).collect();
        let headers: Vec<&[u8]> = headers.iter().map(String::as_bytes).collect();
        // A new order each time, so that the vendor is called.
        let id = format!("A{}", self.vendor.asked().len());
        let request = with_headers(question(Provider::Haoka, &id), &headers);
        let answer = OrderServiceClient::new(channel).get_order(request).await;
        let line = self.server.child.err.with("\"method\":\"GetOrder\"");
        let line: Value = serde_json::from_str(&line).unwrap();
        let text = |name: &str| line[name].as_str().map(str::to_owned);
        assert_eq!(answer.is_ok(), text("reason").is_none(), "{line}");
        text("reason").map_or_else(|| Ok(text("caller").unwrap()), Err)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_must_match_every_credential_configured_for_it() {
    let mut listener = Listener::start().await;
    for (names, tokens, client) in [
        (&[API][..], &[][..], Some("api")),
        (&["x.example", API], &[], Some("api")),
        (&["jobs.example"], &[], Some("jobs")),
        (&["billing.example"], &[BILLING], Some("billing")),
        (&["billing.example", API], &[BILLING], Some("billing")),
        (&[], &[AUDIT], Some("audit")),
        (&[API], &[AUDIT], Some("audit")),
        // A certificate whose client also needs a token, and the reverse.
        (&["billing.example"], &[], None),
        (&[], &[BILLING], None),
        (&["jobs.example"], &[BILLING], None),
        // A token header takes precedence over certificates.
        (&[API], &["token-of-nobody-0001"], None),
        (&[API], &[""], None),
        // Nearly the configured name.
        (&["Jobs.example"], &[], None),
        (&["a.jobs.example"], &[], None),
        (&["*.example"], &[], None),
        (&["jobs.example."], &[], None),
        (&["spiffe://cluster.local/ns/billing/sa/api/x"], &[], None),
        (&[], &[], None),
        // Ambiguous: two clients match.
        (&[API, "jobs.example"], &[], None),
    ] {
        let before = listener.vendor.asked().len();
        let taken = listener.identified_as(names, tokens).await;
        let expected = client.map(str::to_owned).ok_or("CALLER_UNAUTHENTICATED".to_owned());
        assert_eq!(taken, expected, "{names:?} {tokens:?}");
        let sent = listener.vendor.asked().len() - before;
        assert_eq!(sent, usize::from(client.is_some()), "{names:?} {tokens:?}");
    }
}
