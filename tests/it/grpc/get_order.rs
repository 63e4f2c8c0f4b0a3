//! Validation by `GetOrder`: which account is used, which ids and machines are accepted, and what a
//! response contains. No rejected request reaches a vendor.

use std::sync::Arc;

use order_query::clock::Clock as _;
use order_query::pb::{
    BatchGetOrdersRequest, GetOrderRequest, OrderRef, OrderStatus, Provider, Source,
    WatchOrderRequest,
};
use order_query::sandbox::Kind;
use prost_types::Timestamp;
use tonic::Code;

use crate::support::{Failed, Server, manual_clock, question, sandboxed, sandboxed_at};

const WECHAT: &str = "DD2981741311549200000";

#[tokio::test]
async fn ids_with_invalid_characters_are_rejected_and_not_sent() {
    let (sandbox, server) = sandboxed().await;
    let long = "1".repeat(65);
    let everywhere = [
        "",
        "..",
        ".",
        "%2e%2e",
        "a/b",
        "a?b",
        "a#b",
        "a=b",
        "a%b",
        "a.b",
        "1&user_id=x",
        "1\r\nX: y",
        "1\0",
        "１２３",
        "1 2",
        " 1",
        "订单",
        "1+1",
        &long,
    ];
    let dingshang = ["0", "01", "-1", "+1", "1e3", "0x10", "18446744073709551616", "abc", "1_0"];
    let cases = Provider::all()
        .flat_map(|provider| everywhere.map(|id| (provider, id.to_owned())))
        .chain(dingshang.map(|id| (Provider::Dingshang, id.to_owned())));
    for (provider, id) in cases {
        let failed = server.get(question(provider, &id)).await.unwrap_err();
        assert_eq!(failed.code, Code::InvalidArgument, "{provider:?} {id:?}");
        assert_eq!(failed.reason, "INVALID_REQUEST");
        assert_eq!(failed.field.as_deref(), Some("id"), "{provider:?} {id:?}");
        assert_eq!(failed.metadata["provider"], provider.word());
        assert_eq!(failed.metadata["account"], format!("{}-sandbox", provider.word()));
    }
    assert_eq!(sandbox.arrivals(), []);
}

#[tokio::test]
async fn the_longest_ids_are_accepted() {
    let (sandbox, server) = sandboxed().await;
    let word = "Az09_-".repeat(11)[..64].to_owned();
    for (provider, id) in [
        (Provider::Wechat, word.as_str()),
        (Provider::Haoka, &word),
        (Provider::Dingshang, "18446744073709551615"),
    ] {
        let outcome = server.order(provider, id).await;
        assert!(
            outcome.as_ref().map_or_else(|failed| failed.code == Code::NotFound, |o| o.id == id),
            "{provider:?} {outcome:?}"
        );
        assert!(sandbox.arrivals().iter().any(|arrival| arrival.order_id.as_deref() == Some(id)));
    }
}

#[tokio::test]
async fn an_unknown_provider_is_rejected() {
    let (sandbox, server) = sandboxed().await;
    let next = i32::try_from(Provider::all().count()).unwrap() + 1;
    for provider in [0, next, -1, i32::MAX, i32::MIN] {
        let question = GetOrderRequest { provider, id: "1".to_owned(), ..Default::default() };
        let failed = server.get(question).await.unwrap_err();
        assert_eq!(failed.code, Code::InvalidArgument);
        assert_eq!(failed.field.as_deref(), Some("provider"));
        assert!(failed.metadata.is_empty(), "{:?}", failed.metadata);
    }
    assert_eq!(sandbox.arrivals(), []);
}

#[tokio::test]
async fn max_age_must_be_a_valid_duration() {
    let (sandbox, server) = sandboxed().await;
    let ask = async |seconds, nanos| {
        let max_age = Some(prost_types::Duration { seconds, nanos });
        server.get(GetOrderRequest { max_age, ..question(Provider::Wechat, WECHAT) }).await
    };
    for (seconds, nanos) in [
        (-1, 0),
        (0, -1),
        (-1, -1),
        (i64::MIN, 0),
        (0, i32::MIN),
        (i64::MAX, 0),
        (0, 1_000_000_000),
    ] {
        let failed = ask(seconds, nanos).await.unwrap_err();
        assert_eq!(failed.code, Code::InvalidArgument, "{seconds} {nanos}");
        assert_eq!(failed.field.as_deref(), Some("max_age"));
    }
    assert_eq!(sandbox.arrivals(), []);
    for (seconds, nanos) in [(0, 0), (1, 5), (315_576_000_000, 999_999_999)] {
        assert_eq!(ask(seconds, nanos).await.unwrap().order.unwrap().id, WECHAT);
    }
}

#[tokio::test]
async fn min_observe_time_must_be_a_valid_time_that_is_not_far_in_the_future() {
    let clock = Arc::new(manual_clock());
    let (sandbox, server) = sandboxed_at(clock.clone()).await;
    let now: Timestamp = clock.now().into();
    let ask = async |seconds, nanos| {
        let min_observe_time = Some(Timestamp { seconds, nanos });
        let get =
            server.get(GetOrderRequest { min_observe_time, ..question(Provider::Wechat, WECHAT) });
        let provider = Provider::Wechat.into();
        let order = OrderRef { provider, id: WECHAT.to_owned(), ..OrderRef::default() };
        let orders = vec![order.clone(), order.clone()];
        let batch = BatchGetOrdersRequest { orders, min_observe_time, ..Default::default() };
        let watch = WatchOrderRequest { order: Some(order), min_observe_time };
        let mut client = server.client.clone();
        let got = get.await.map(drop);
        let batch = client.batch_get_orders(batch).await.map(drop);
        let watch = client.watch_order(watch).await.map(drop);
        let failed = |status| Failed::from(&status);
        [got, batch.map_err(failed), watch.map_err(failed)]
    };
    for (seconds, nanos) in [
        (now.seconds, -1),
        (now.seconds, 1_000_000_000),
        (now.seconds, i32::MIN),
        (-62_135_596_801, 0),
        (253_402_300_800, 0),
        (i64::MIN, 0),
        (i64::MAX, 0),
        // Valid, and more than two minutes ahead.
        (now.seconds + 120, now.nanos + 1),
        (253_402_300_799, 999_999_999),
    ] {
        for outcome in ask(seconds, nanos).await {
            let failed = outcome.unwrap_err();
            assert_eq!(failed.code, Code::InvalidArgument, "{seconds} {nanos}");
            assert_eq!(failed.reason, "INVALID_REQUEST");
            assert_eq!(failed.field.as_deref(), Some("min_observe_time"));
        }
    }
    assert_eq!(sandbox.arrivals(), []);
    for (seconds, nanos) in
        [(now.seconds + 120, now.nanos), (now.seconds, 0), (0, 0), (-62_135_596_800, 0)]
    {
        assert!(ask(seconds, nanos).await.iter().all(Result::is_ok), "{seconds} {nanos}");
    }
}

/// The accounts of a deployment with two accounts at one vendor and one at another.
fn accounts(wechat: &str, more: &str) -> String {
    let account = |name: &str, app_id: &str, more: &str| {
        format!(
            "[accounts.{name}]\nprovider = \"wechat\"\napp_id = \"{app_id}\"\n\
             base_url = \"http://{wechat}\"\napp_secret = \"wechat-sandbox-secret\"\n{more}\n"
        )
    };
    account("one", "wxfeed5a0db0c00001", more)
        + &account("two", "wxerrcode40013", "")
        + "[accounts.cards]\nprovider = \"haoka\"\nuser_id = \"u\"\nsecret = \"s\"\n\
           base_url = \"http://127.0.0.1:1\"\n"
}

#[tokio::test]
async fn the_account_is_the_named_the_default_or_the_only_one() {
    let (sandbox, _server) = sandboxed().await;
    let wechat = sandbox.address("wechat").unwrap().to_string();

    let server = Server::start(&accounts(&wechat, "")).await;
    let ask = async |server: &Server, provider, account: &str| {
        let id = WECHAT.to_owned();
        let account = account.to_owned();
        let question = GetOrderRequest { account, id, ..question(provider, "") };
        server.get(question).await
    };
    let order = ask(&server, Provider::Wechat, "one").await.unwrap().order.unwrap();
    assert_eq!((order.account.as_str(), order.status()), ("one", OrderStatus::Paid));
    let failed = ask(&server, Provider::Wechat, "two").await.unwrap_err();
    assert_eq!(
        (failed.metadata["account"].as_str(), failed.code),
        ("two", Code::FailedPrecondition)
    );

    let failed = ask(&server, Provider::Wechat, "").await.unwrap_err();
    assert_eq!((failed.code, failed.field.as_deref()), (Code::InvalidArgument, Some("account")));
    assert!(failed.message.contains("one, two"), "{}", failed.message);

    for (provider, account) in [
        (Provider::Wechat, "three"),
        (Provider::Wechat, "cards"),
        (Provider::Haoka, "one"),
        (Provider::Dingshang, ""),
        (Provider::Dingshang, "one"),
    ] {
        let failed = ask(&server, provider, account).await.unwrap_err();
        assert_eq!(failed.code, Code::FailedPrecondition, "{provider:?} {account:?}");
        assert_eq!(failed.reason, "PROVIDER_NOT_CONFIGURED");
        assert_eq!(failed.metadata.get("account"), None);
    }
    for malformed in ["a b", "a\r\n", &"a".repeat(65), "账户"] {
        let failed = ask(&server, Provider::Wechat, malformed).await.unwrap_err();
        assert_eq!(
            (failed.code, failed.field.as_deref()),
            (Code::InvalidArgument, Some("account"))
        );
    }

    let server = Server::start(&accounts(&wechat, "default = true")).await;
    let order = ask(&server, Provider::Wechat, "").await.unwrap().order.unwrap();
    assert_eq!(order.account, "one");
}

#[tokio::test]
async fn machine_no_defaults_to_the_accounts() {
    let (sandbox, server) = sandboxed().await;
    let ask = async |server: &Server, provider, id: &str, machine_no: &str| {
        let machine_no = machine_no.to_owned();
        server.get(GetOrderRequest { machine_no, ..question(provider, id) }).await
    };
    for given in ["", "16327129"] {
        let order = ask(&server, Provider::Dingshang, "54", given).await.unwrap().order.unwrap();
        assert_eq!(order.machine_no, "16327129");
    }
    let failed = ask(&server, Provider::Dingshang, "54", "87654321").await.unwrap_err();
    assert_eq!((failed.code, failed.field.as_deref()), (Code::InvalidArgument, Some("machine_no")));
    assert_eq!(failed.metadata["provider_code"], "30003");

    let before = sandbox.arrivals().len();
    let long = "1".repeat(21);
    for malformed in ["1632712", "1632712a", "１６３２７１２９", "16327129&a=b", " 16327129", &long]
    {
        let failed = ask(&server, Provider::Dingshang, "54", malformed).await.unwrap_err();
        assert_eq!(failed.field.as_deref(), Some("machine_no"), "{malformed}");
    }
    for (provider, id) in [(Provider::Wechat, WECHAT), (Provider::Haoka, "shipped")] {
        let failed = ask(&server, provider, id, "16327129").await.unwrap_err();
        assert_eq!(failed.field.as_deref(), Some("machine_no"), "{provider:?}");
    }
    let without = sandbox.accounts().replace("machine_no = \"16327129\"\n", "");
    let server = Server::start(&without).await;
    let failed = ask(&server, Provider::Dingshang, "54", "").await.unwrap_err();
    assert_eq!((failed.code, failed.field.as_deref()), (Code::InvalidArgument, Some("machine_no")));
    assert_eq!(sandbox.arrivals().len(), before);

    // A wrong machine number of the account is not the caller's mistake.
    let wrong = sandbox.accounts().replace("16327129", "87654321");
    let server = Server::start(&wrong).await;
    let failed = ask(&server, Provider::Dingshang, "54", "").await.unwrap_err();
    assert_eq!((failed.code, failed.reason.as_str()), (Code::Unknown, "PROVIDER_ERROR"));
    assert_eq!((failed.field, failed.metadata["provider_code"].as_str()), (None, "30003"));
}

#[tokio::test]
async fn a_response_states_its_source_and_times() {
    let clock = crate::support::manual_clock();
    let (sandbox, server) = crate::support::sandboxed_at(std::sync::Arc::new(clock.clone())).await;
    let now = prost_types::Timestamp { seconds: 1_790_000_000, nanos: 0 };
    let answer = server.get(question(Provider::Haoka, "shipped")).await.unwrap();
    assert_eq!(answer.source(), Source::Live);
    let in_15_minutes = prost_types::Timestamp { seconds: now.seconds + 900, nanos: 0 };
    assert_eq!(answer.refresh_time, Some(in_15_minutes));
    let order = answer.order.unwrap();
    assert_eq!((order.observe_time, order.terminal), (Some(now), false));

    let answer = server.get(question(Provider::Haoka, "settled")).await.unwrap();
    assert_eq!(answer.refresh_time, None);
    assert!(answer.order.unwrap().terminal);
    let kinds: Vec<_> = sandbox.arrivals().into_iter().map(|arrival| arrival.kind).collect();
    assert_eq!(kinds, [Kind::Order, Kind::Order]);
}
