//! `accounts`: which accounts a caller may use; it learns nothing about the others.

use order_query::pb::order_result::Result as Outcome;
use order_query::pb::{BatchGetOrdersRequest, ErrorReason, OrderRef, Provider};
use tonic::Code;

use super::{AUDIT, BILLING, Fixture, haoka, order, order_of, with_token};

/// Billing may use all accounts, audit only `cards` and `other`.
async fn fixture(default: &str) -> Fixture {
    Fixture::new(&format!(
        "clients.billing.token = \"{BILLING}\"\n\
         clients.audit = {{ token = \"{AUDIT}\", accounts = [\"cards\", \"ds\"] }}\n\
         [accounts.ds]\nprovider = \"dingshang\"\nbase_url = \"VENDOR\"\napp_id = \"d\"\n\
         app_secret = \"s\"\nmachine_no = \"16327129\"\n{}{}{}{default}",
        haoka("cards"),
        haoka("gifts"),
        haoka("other"),
    ))
    .await
}

const FORBIDDEN: &str = "this caller may not use that account; name an account that it may use, or \
                         ask the operator to allow this one";

#[tokio::test]
async fn a_forbidden_account_looks_like_a_missing_one() {
    let fixture = fixture("default = true\n").await;
    let wechat = OrderRef { provider: Provider::Wechat.into(), ..order("A1") };
    for (what, order) in [
        ("another's", order_of("gifts", "A1")),
        ("nobody's", order_of("nobodys", "A1")),
        ("the default", order("A1")),
        ("another's, with a wrong id", order_of("gifts", "not/an/id")),
        ("no account at the vendor", wechat.clone()),
        ("nobody's at the vendor", OrderRef { account: "x".to_owned(), ..wechat }),
    ] {
        let failed = fixture.get(AUDIT, &order).await.unwrap_err();
        let told = (failed.code, failed.reason.as_str(), failed.message.as_str());
        assert_eq!(told, (Code::PermissionDenied, "CALLER_FORBIDDEN", FORBIDDEN), "{what}");
        assert_eq!(failed.metadata.keys().collect::<Vec<_>>(), ["provider"], "{what}");
        let watch = fixture.watch(AUDIT, &order).await.unwrap_err();
        assert_eq!((watch.message, watch.metadata), (failed.message, failed.metadata), "{what}");
    }
    assert_eq!(fixture.vendor.asked().len(), 0);
    // Its own account works, and all of them for the other caller.
    fixture.get(AUDIT, &order_of("cards", "A1")).await.unwrap();
    for own in [order_of("cards", "A1"), order_of("gifts", "A1"), order("A1")] {
        fixture.get(BILLING, &own).await.unwrap();
    }
}

#[tokio::test]
async fn a_malformed_account_name_is_still_an_invalid_request() {
    let fixture = fixture("").await;
    let failed = fixture.get(AUDIT, &order_of("no name", "A1")).await.unwrap_err();
    assert_eq!(
        (failed.reason.as_str(), failed.field.as_deref()),
        ("INVALID_REQUEST", Some("account"))
    );
    // Its own account at another vendor reveals nothing new.
    let failed = fixture.get(AUDIT, &order_of("ds", "A1")).await.unwrap_err();
    assert_eq!(failed.reason, "PROVIDER_NOT_CONFIGURED");
}

#[tokio::test]
async fn an_error_lists_only_the_callers_own_accounts() {
    let fixture = fixture("").await;
    for (token, names) in [(AUDIT, "name one of cards"), (BILLING, "one of cards, gifts, other")] {
        let failed = fixture.get(token, &order("A1")).await.unwrap_err();
        assert_eq!(failed.reason, "INVALID_REQUEST");
        assert!(failed.message.ends_with(names), "{}", failed.message);
    }
}

#[tokio::test]
async fn in_a_batch_a_forbidden_account_fails_only_its_order() {
    let fixture = fixture("").await;
    let orders = [order_of("cards", "A1"), order_of("gifts", "A1"), order_of("nobodys", "A1")];
    let batch = BatchGetOrdersRequest { orders: orders.to_vec(), ..Default::default() };
    let answer = fixture.server.client.clone().batch_get_orders(with_token(batch, AUDIT)).await;
    let results = answer.unwrap().into_inner().results;
    assert!(matches!(results[0].result, Some(Outcome::Found(_))), "{results:?}");
    for result in &results[1..] {
        let Some(Outcome::Error(error)) = &result.result else { panic!("{result:?}") };
        assert_eq!(error.reason(), ErrorReason::CallerForbidden);
        assert_eq!((error.code, error.message.as_str()), (7, FORBIDDEN));
    }
    assert_eq!(fixture.vendor.asked().len(), 1);
}
