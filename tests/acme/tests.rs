//! The invented vendor, called as every vendor is: by the real use case, over the real HTTP client, at the vendor
//! that the sandbox simulates.
#![allow(clippy::unwrap_used, reason = "a test fails loudly")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use tokio::time::Instant;

use crate::accounts::{Account, Accounts, Caller};
use crate::clock::{Clock, ManualClock};
use crate::config::Section;
use crate::error::Error;
use crate::orders::{Orders, Wanted};
use crate::pb::{self, ErrorReason, Money, Order, OrderRef, OrderStatus};
use crate::sandbox::Sandbox;
use crate::store::Memory;
use crate::telemetry::metrics::Metrics;

/// The contract has no value for the vendor, so its account uses another one's.
const STAND_IN: pb::Provider = pb::Provider::Haoka;

struct Fixture {
    orders: Orders,
    _sandbox: Sandbox,
}

impl Fixture {
    /// With the sandbox's account, changed.
    async fn new(change: impl FnOnce(String) -> String) -> Self {
        let clock: Arc<dyn Clock> =
            Arc::new(ManualClock::new(UNIX_EPOCH + Duration::from_secs(1_790_000_000)));
        let sandbox = Sandbox::start_acme(Arc::clone(&clock)).await;
        let account = change(sandbox.accounts());
        let settings = account.lines().filter(|line| !line.starts_with(['[', 'p']));
        let settings = settings.collect::<Vec<_>>().join("\n");
        let mut section = Section::parse(&settings, Path::new("")).unwrap();
        let vendor = super::acme::configure(&mut section, &clock, &Metrics::default());
        let vendor = vendor.unwrap_or_else(|| panic!("{:?}", section.problems()));
        let account = Account::new("main", STAND_IN, true, vendor);
        let store = Arc::new(Memory::new(1 << 20, Arc::clone(&clock)));
        let orders = Orders::new(Accounts::new(vec![account]), store, clock);
        Self { orders, _sandbox: sandbox }
    }

    async fn order(&self, id: &str) -> Result<Order, Error> {
        let id = id.to_owned();
        let order = OrderRef { provider: STAND_IN.into(), id, ..OrderRef::default() };
        let deadline = Instant::now() + Duration::from_mins(1);
        let answer =
            self.orders.get(&Caller::default(), &order, Wanted::default(), deadline).await?;
        Ok(answer.response.order.unwrap())
    }
}

#[tokio::test]
async fn an_order_is_translated_into_the_contracts_terms() {
    let fixture = Fixture::new(|account| account).await;
    let paid = fixture.order("paid").await.unwrap();
    let price = Money { currency_code: "EUR".to_owned(), minor_units: 1999 };
    assert_eq!((paid.status(), paid.total), (OrderStatus::Paid, Some(price)));
    assert_eq!((paid.id.as_str(), paid.provider_status.as_str()), ("paid", "paid"));
    assert_eq!(paid.create_time.unwrap().seconds, 1_700_000_000);
    for (id, status, terminal) in [
        ("open", OrderStatus::AwaitingPayment, false),
        ("sent", OrderStatus::Shipped, false),
        ("canceled", OrderStatus::Canceled, true),
        ("state-unknown", OrderStatus::Other, false),
    ] {
        let order = fixture.order(id).await.unwrap();
        assert_eq!((order.status(), order.terminal), (status, terminal), "{id}");
    }
}

#[tokio::test]
async fn a_404_with_a_vendor_code_is_order_not_found_and_an_html_404_is_not() {
    let fixture = Fixture::new(|account| account).await;
    let unknown = fixture.order("nobody").await.unwrap_err();
    assert_eq!(unknown.reason, ErrorReason::OrderNotFound);
    assert_eq!(unknown.provider_code.as_deref(), Some("4"));
    assert_eq!(fixture.order("fault-404").await.unwrap_err().reason, ErrorReason::ProviderError);
    let elsewhere = Fixture::new(|account| account.replace("sandbox\"", "elsewhere\"")).await;
    assert_eq!(elsewhere.order("paid").await.unwrap_err().reason, ErrorReason::ProviderError);
    let stranger = Fixture::new(|account| account.replace("-key", "-no-key")).await;
    let refused = stranger.order("paid").await.unwrap_err();
    assert_eq!(refused.reason, ErrorReason::ProviderCredentialsRejected);
}

#[tokio::test]
async fn the_vendors_rate_limit_is_enforced() {
    let fixture = Fixture::new(|account| account).await;
    for call in 0..60 {
        let unknown = fixture.order(&format!("nobody-{call}")).await.unwrap_err();
        assert_eq!(unknown.reason, ErrorReason::OrderNotFound, "{call}");
    }
    let refused = fixture.order("paid").await.unwrap_err();
    assert_eq!(refused.reason, ErrorReason::ProviderQuotaExhausted);
    assert_eq!(refused.quota.as_deref(), Some("account/main calls_per_minute"));
}

#[tokio::test]
async fn the_live_check_needs_no_order() {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(UNIX_EPOCH));
    let sandbox = Sandbox::start_acme(Arc::clone(&clock)).await;
    let url = format!("http://{}", sandbox.address("acme").unwrap());
    for (key, expected) in [
        ("acme-sandbox-key", Ok("shop and api_key accepted")),
        ("another", Err(ErrorReason::ProviderCredentialsRejected)),
    ] {
        let settings = format!("base_url = {url:?}\nshop = \"sandbox\"\napi_key = {key:?}\n");
        let mut section = Section::parse(&settings, Path::new("")).unwrap();
        let vendor = super::acme::configure(&mut section, &clock, &Metrics::default()).unwrap();
        let proof = vendor.live_check(None).await.unwrap();
        assert_eq!(proof.credentials.map_err(|error| error.reason), expected);
    }
}
