//! `GET /metrics` of the real binary: events are counted, current values are reported, and nothing
//! else is served.

mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use order_query::clock::{Clock as _, SystemClock};
use order_query::pb::{BatchGetOrdersRequest, GetOrderRequest, OrderRef, Provider};

use crate::support::child::Serving;
use crate::support::facts::ANSWER;
use crate::support::haoka::{OPEN, cards};
use crate::support::played::{Asked, Played, answer};
use crate::support::redis_server::RedisServer;
use crate::support::scrape::{assert_reported, page, until_reported, value};
use crate::support::{bare_client, question};

fn order(id: &str) -> OrderRef {
    OrderRef { provider: Provider::Haoka.into(), id: id.to_owned(), ..OrderRef::default() }
}

/// Whether the request is for that order.
fn is_about(asked: &Asked, id: &str) -> bool {
    String::from_utf8_lossy(&asked.body).contains(id)
}

/// A vendor that knows every order, except where the ids state otherwise.
async fn vendor() -> Played {
    Played::start(|asked| async move {
        for (id, status, body) in [
            ("missing", 200, r#"{"code":-1,"message":"订单不存在"}"#),
            ("done", 200, r#"{"code":0,"data":{"orderStatus":"已结算"}}"#),
            ("strange", 200, r#"{"code":0,"data":{"orderStatus":"一个新词"}}"#),
            ("broken", 503, ""),
            ("refused", 200, r#"{"code":-1,"message":"签名错误"}"#),
            ("too-often", 429, ""),
        ] {
            if is_about(&asked, id) {
                return answer(status, body);
            }
        }
        answer(200, OPEN)
    })
    .await
}

#[tokio::test]
async fn calls_and_answers_are_counted_by_outcome() {
    let vendor = vendor().await;
    let server = Serving::start(&cards(&vendor.url(), ""));
    let mut client = bare_client(server.address);
    for (id, is_known) in
        [("one", true), ("one", true), ("strange", true), ("missing", false), ("a/b", false)]
    {
        let asked = client.get_order(question(Provider::Haoka, id)).await;
        assert_eq!(asked.is_ok(), is_known, "{id}");
    }
    let orders = vec![order("one"), order("missing"), order("three"), order("three")];
    client.batch_get_orders(BatchGetOrdersRequest { orders, ..Default::default() }).await.unwrap();
    client.get_order(GetOrderRequest::default()).await.unwrap_err();
    let last = "order_query_errors_total{account=\"\",reason=\"INVALID_REQUEST\"} 1";
    let page = until_reported(&server, &[last]).await;
    let of = |method: &str, code: &str| {
        format!(
            "grpc_server_handled_total{{grpc_code=\"{code}\",grpc_method=\"{method}\",\
             grpc_service=\"orderquery.v1.OrderService\",grpc_type=\"unary\"}}"
        )
    };
    for (method, code, count) in [
        ("GetOrder", "OK", 3.0),
        ("GetOrder", "NOT_FOUND", 1.0),
        ("GetOrder", "INVALID_ARGUMENT", 2.0),
        ("BatchGetOrders", "OK", 1.0),
    ] {
        assert_eq!(value(&page, &of(method, code)), Some(count), "{method} {code}");
    }
    assert_reported(
        &page,
        &[
            "grpc_server_handling_seconds_count{grpc_method=\"GetOrder\",\
             grpc_service=\"orderquery.v1.OrderService\",grpc_type=\"unary\"} 6",
            "order_query_errors_total{account=\"cards\",reason=\"ORDER_NOT_FOUND\"} 2",
            "order_query_errors_total{account=\"cards\",reason=\"INVALID_REQUEST\"} 1",
            "order_query_answers_total{account=\"cards\",source=\"live\"} 3",
            "order_query_answers_total{account=\"cards\",source=\"cache\"} 2",
            "order_query_answers_total{account=\"cards\",source=\"stale\"} 0",
            "order_query_answer_age_seconds_count{account=\"cards\"} 5",
            "order_query_vendor_calls_total{account=\"cards\",outcome=\"OK\"} 3",
            "order_query_vendor_calls_total{account=\"cards\",outcome=\"ORDER_NOT_FOUND\"} 1",
            "order_query_vendor_request_duration_seconds_count{account=\"cards\",operation=\"order\"} 4",
            "order_query_unknown_words_total{field=\"data.orderStatus\",provider=\"haoka\"} 1",
            "order_query_store_operation_duration_seconds_count{operation=\"reserve\"} 4",
            "order_query_store_errors_total{operation=\"reserve\"} 0",
            "order_query_build_info{version=\"0.1.0\"} 1",
        ],
    );
    assert_eq!(vendor.asked().len(), 4);
}

/// `increase()` misses the first event of a counter that is created with 1, and so do alerts.
#[tokio::test]
async fn counters_start_at_0() {
    let vendor = vendor().await;
    let market = "[accounts.market]\nprovider = \"wechat\"\napp_id = \"wx\"\napp_secret = \"s\"\n\
                  base_url = \"http://127.0.0.1:1\"\n";
    let server = Serving::start(&format!("{}{market}", cards(&vendor.url(), "")));
    let page = page(&server).await;
    assert_reported(
        &page,
        &[
            "order_query_ready 1",
            "order_query_answers_total{account=\"cards\",source=\"live\"} 0",
            "order_query_joined_total{account=\"cards\"} 0",
            "order_query_vendor_calls_total{account=\"cards\",outcome=\"OK\"} 0",
            "order_query_vendor_retries_total{account=\"cards\"} 0",
            "order_query_vendor_pauses_total{account=\"cards\"} 0",
            "order_query_unknown_words_total{field=\"data.orderStatus\",provider=\"haoka\"} 0",
            "order_query_unknown_words_total{field=\"data.cardStatus\",provider=\"haoka\"} 0",
            "order_query_quota_refusals_total{account=\"cards\",limit=\"calls_per_order_per_day\"} 0",
            "order_query_tokens_refreshed_total{account=\"market\",outcome=\"OK\"} 0",
            "order_query_shed_total{limit=\"max_in_flight\"} 0",
            "order_query_shed_total{limit=\"max_watches\"} 0",
            "order_query_shed_total{limit=\"max_connections\"} 0",
            "order_query_shed_total{limit=\"admin_connections\"} 0",
            "order_query_server_limit{limit=\"max_connections\"} 1024",
            "order_query_server_limit{limit=\"admin_connections\"} 100",
            "order_query_calls_in_flight 0",
            "order_query_watches 0",
            "order_query_connections{listener=\"server\"} 0",
            "order_query_log_lines_lost_total 0",
            "order_query_spans_lost_total 0",
        ],
    );
}

#[tokio::test]
async fn a_terminal_answer_has_no_age_metric() {
    let vendor = vendor().await;
    let server = Serving::start(&cards(&vendor.url(), ""));
    let mut client = bare_client(server.address);
    let told = client.get_order(question(Provider::Haoka, "done")).await.unwrap().into_inner();
    assert!(told.order.unwrap().terminal);
    let page = page(&server).await;
    assert_reported(&page, &["order_query_answers_total{account=\"cards\",source=\"live\"} 1"]);
    assert_eq!(value(&page, "order_query_answer_age_seconds_count{account=\"cards\"}"), None);
}

#[tokio::test]
async fn remaining_quota_is_reported_and_refusals_are_counted() {
    let vendor = vendor().await;
    let limits = "calls_per_minute = 2\ncalls_per_order_per_day = 1";
    let server = Serving::start(&cards(&vendor.url(), limits));
    let mut client = bare_client(server.address);
    let left = "order_query_quota_left{account=\"cards\",limit=\"calls_per_minute\"}";
    assert_eq!(value(&page(&server).await, left), Some(2.0));
    for id in ["one", "two"] {
        client.get_order(question(Provider::Haoka, id)).await.unwrap();
    }
    client.get_order(question(Provider::Haoka, "three")).await.unwrap_err();
    let fresh = GetOrderRequest {
        max_age: Some(prost_types::Duration::default()),
        ..question(Provider::Haoka, "one")
    };
    client.get_order(fresh).await.unwrap_err();
    let page = page(&server).await;
    assert_reported(
        &page,
        &[
            &format!("{left} 0"),
            "order_query_quota_limit{account=\"cards\",limit=\"calls_per_minute\"} 2",
            "order_query_quota_left{account=\"cards\",limit=\"calls_per_minute of watchers\"} 1",
            "order_query_quota_refusals_total{account=\"cards\",limit=\"calls_per_minute\"} 1",
            "order_query_quota_refusals_total{account=\"cards\",limit=\"calls_per_order_per_day\"} 1",
            "order_query_vendor_calls_total{account=\"cards\",outcome=\"OK\"} 2",
        ],
    );
    assert_eq!(vendor.asked().len(), 2);
}

#[tokio::test]
async fn breaker_credential_and_pause_metrics_are_reported() {
    for (id, calls, lines) in [
        (
            "broken",
            5,
            [
                "order_query_breaker_open{account=\"cards\"} 1",
                "order_query_credentials_refused{account=\"cards\"} 0",
                "order_query_vendor_pauses_total{account=\"cards\"} 0",
                "order_query_vendor_calls_total{account=\"cards\",outcome=\"PROVIDER_UNAVAILABLE\"} 5",
            ],
        ),
        (
            "refused",
            1,
            [
                "order_query_breaker_open{account=\"cards\"} 0",
                "order_query_credentials_refused{account=\"cards\"} 1",
                "order_query_vendor_pauses_total{account=\"cards\"} 0",
                "order_query_vendor_calls_total{account=\"cards\",\
                 outcome=\"PROVIDER_CREDENTIALS_REJECTED\"} 1",
            ],
        ),
        (
            "too-often",
            1,
            [
                "order_query_breaker_open{account=\"cards\"} 0",
                "order_query_credentials_refused{account=\"cards\"} 0",
                "order_query_vendor_pauses_total{account=\"cards\"} 1",
                "order_query_vendor_calls_total{account=\"cards\",\
                 outcome=\"PROVIDER_QUOTA_EXHAUSTED\"} 1",
            ],
        ),
    ] {
        let vendor = vendor().await;
        let server = Serving::start(&cards(&vendor.url(), ""));
        let mut client = bare_client(server.address);
        for call in 0..calls {
            let question = question(Provider::Haoka, &format!("{id}-{call}"));
            client.get_order(question).await.unwrap_err();
        }
        // An unsent call does not count.
        client.get_order(question(Provider::Haoka, &format!("{id}-more"))).await.unwrap_err();
        let page = page(&server).await;
        if id == "refused" {
            // Nothing keeps the next call from the vendor.
            let asked_again = lines[3].replace("} 1", "} 2");
            assert_reported(&page, &[lines[0], lines[1], lines[2], &asked_again]);
        } else {
            assert_reported(&page, &lines);
        }
    }
}

#[tokio::test]
async fn token_renewals_and_retried_calls_are_counted() {
    // It issues a token at each call, and accepts none.
    let given = Arc::new(AtomicUsize::new(0));
    let vendor = Played::start(move |asked| {
        let is_token = asked.uri.path() == "/cgi-bin/stable_token";
        let given = given.fetch_add(1, Ordering::SeqCst);
        let token = format!(r#"{{"access_token":"t{given}","expires_in":7200}}"#);
        let body = if is_token { token } else { r#"{"errcode":40001,"errmsg":"no"}"#.to_owned() };
        async { answer(200, body) }
    })
    .await;
    let server = Serving::start(&format!(
        "[accounts.market]\nprovider = \"wechat\"\nbase_url = \"{}\"\napp_id = \"wx\"\n\
         app_secret = \"s\"\n[accounts.cards]\nprovider = \"haoka\"\nuser_id = \"u\"\n\
         secret = \"s\"\nbase_url = \"http://127.0.0.1:1\"\n",
        vendor.url()
    ));
    let mut client = bare_client(server.address);
    let calls = "order_query_vendor_calls_total{account=\"market\",outcome=";
    // Both tokens are refused; after that none is fetched for a while.
    for _ in 0..2 {
        client.get_order(question(Provider::Wechat, "54")).await.unwrap_err();
    }
    // Nothing listens there, so nothing is sent.
    client.get_order(question(Provider::Haoka, "one")).await.unwrap_err();
    let page = page(&server).await;
    assert_reported(
        &page,
        &[
            "order_query_tokens_refreshed_total{account=\"market\",outcome=\"OK\"} 2",
            "order_query_vendor_request_duration_seconds_count{account=\"market\",operation=\"token\"} 2",
            "order_query_vendor_request_duration_seconds_count{account=\"market\",operation=\"order\"} 2",
            &format!("{calls}\"PROVIDER_CREDENTIALS_REJECTED\"}} 1"),
            &format!("{calls}\"TOKEN_REFUSED\"}} 1"),
            &format!("{calls}\"OK\"}} 0"),
        ],
    );
    let unsent =
        "order_query_vendor_calls_total{account=\"cards\",outcome=\"PROVIDER_UNAVAILABLE\"}";
    assert_eq!(value(&page, unsent), None);
}

#[tokio::test]
async fn clock_skew_and_retries_are_reported() {
    let answered = Arc::new(AtomicUsize::new(0));
    let vendor = Played::start(move |_| {
        let is_well = answered.fetch_add(1, Ordering::SeqCst) < 10;
        let mut answer = if is_well { answer(200, ANSWER.as_str()) } else { answer(503, "") };
        let date = SystemClock.wall() - Duration::from_secs(1000);
        answer.headers_mut().insert("date", httpdate::fmt_http_date(date).parse().unwrap());
        async { answer }
    })
    .await;
    let account = |name: &str| {
        format!(
            "[accounts.{name}]\nprovider = \"dingshang\"\nbase_url = \"{}\"\napp_id = \"{name}\"\n\
             app_secret = \"s\"\nmachine_no = \"16327129\"\n",
            vendor.url()
        )
    };
    let server = Serving::start(&format!("{}default = true\n{}", account("one"), account("two")));
    let mut client = bare_client(server.address);
    let ask = GetOrderRequest {
        max_age: Some(prost_types::Duration::default()),
        ..question(Provider::Dingshang, "54")
    };
    // Ten calls fund one retry.
    for call in 0..11 {
        assert_eq!(client.get_order(ask.clone()).await.is_ok(), call < 10);
    }
    let page = page(&server).await;
    assert_reported(
        &page,
        &[
            "order_query_vendor_retries_total{account=\"one\"} 1",
            "order_query_vendor_calls_total{account=\"one\",outcome=\"OK\"} 10",
            "order_query_vendor_calls_total{account=\"one\",outcome=\"PROVIDER_UNAVAILABLE\"} 2",
        ],
    );
    let ahead = value(&page, "order_query_vendor_clock_difference_seconds{account=\"one\"}");
    assert!((-1002.0..=-1000.0).contains(&ahead.unwrap()), "{page}");
    let unasked = "order_query_vendor_clock_difference_seconds{account=\"two\"}";
    assert_eq!(value(&page, unasked), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unavailable_shared_store_is_reported() {
    let vendor = vendor().await;
    let mut redis = RedisServer::start();
    let store = format!("store.url = \"{}\"\n", redis.url());
    let server = Serving::start(&format!("{store}{}", cards(&vendor.url(), "")));
    let left = "order_query_quota_left{account=\"cards\",limit=\"calls_per_minute\"}";
    until_reported(&server, &["order_query_ready 1", &format!("{left} 200")]).await;
    redis.kill();
    let mut client = bare_client(server.address);
    client.get_order(question(Provider::Haoka, "one")).await.unwrap_err();
    let page = page(&server).await;
    assert_eq!(value(&page, left), None, "{page}");
    assert_reported(&page, &["order_query_ready 1"]);
    let errors = value(&page, "order_query_store_errors_total{operation=\"get\"}");
    assert!(errors.unwrap() >= 1.0, "{page}");
}
