//! Retries: when a call is retried, when it must not be, and how often.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::HeaderValue;
use axum::http::header::CONNECTION;
use futures_util::future::join_all;
use order_query::accounts::Caller;
use order_query::clock::SystemClock;
use order_query::error::Error;
use order_query::orders::Wanted;
use order_query::pb::{ErrorReason, Order, OrderRef, Provider};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::support::facts::ANSWER;
use crate::support::fake_vendor::FakeVendor;
use crate::support::played::answer;
use crate::support::secured::Secured;
use crate::support::{Failed, Reply, Scripted, Server, question};

/// How many retries an account starts with.
const RESERVE: usize = 5;

/// How many calls fund one more.
const PAID: usize = 10;

const TOKEN: &str = r#"{"access_token":"t","expires_in":7200}"#;

/// A server with one account, after `calls` answered calls.
async fn after(calls: usize, provider: Provider, more: &str) -> (Scripted, Server) {
    let vendor = Scripted::start().await;
    vendor.answers(200, ANSWER.as_str());
    vendor.answers_at("/cgi-bin/", 200, TOKEN);
    let keys = match provider {
        Provider::Haoka => "user_id = \"agent\"\nsecret = \"s\"",
        _ => "app_id = \"ds\"\napp_secret = \"s\"",
    };
    let server = Server::start(&format!(
        "[accounts.one]\nprovider = \"{}\"\nbase_url = \"http://{}\"\n{keys}\n{more}\n",
        provider.word(),
        vendor.address
    ))
    .await;
    for _ in 0..calls {
        ask(&server, provider).await.unwrap();
    }
    (vendor, server)
}

/// Fetches the order live.
async fn ask(server: &Server, provider: Provider) -> Result<(), Failed> {
    let mut question = question(provider, "54");
    question.max_age = Some(prost_types::Duration::default());
    if provider == Provider::Dingshang {
        "16327129".clone_into(&mut question.machine_no);
    }
    server.get(question).await.map(drop)
}

#[tokio::test]
async fn a_call_is_retried_only_where_useful_and_permitted() {
    let reply = Reply::new;
    let later = || Reply { headers: vec![("retry-after", "1".to_owned())], ..reply(503, "") };
    let busy = || reply(200, r#"{"errcode":-1,"errmsg":"system error"}"#);
    let limited = "calls_per_minute = 1000";
    let cases = [
        (Provider::Wechat, "", busy(), true),
        (Provider::Wechat, "", reply(500, ""), true),
        (Provider::Wechat, limited, busy(), false),
        (Provider::Dingshang, "", reply(503, ""), true),
        (Provider::Dingshang, "", reply(408, ""), true),
        // It states a retry delay.
        (Provider::Dingshang, "", later(), false),
        // It may have been counted.
        (Provider::Dingshang, limited, reply(503, ""), false),
        (Provider::Haoka, "calls_per_order_per_day = 10", reply(503, ""), false),
        // It is answered.
        (Provider::Dingshang, "", reply(404, ""), false),
        (Provider::Dingshang, "", reply(429, ""), false),
        (Provider::Dingshang, "", reply(200, "<html>"), false),
        (Provider::Dingshang, "", reply(200, r#"{"code":80002}"#), false),
    ];
    for (provider, more, failure, is_repeated) in cases {
        let case = format!("{provider:?} {more} {failure:?}");
        // The first call of a server, and a later one.
        for calls in [0, PAID - 1] {
            let (vendor, server) = after(calls, provider, more).await;
            let path = if provider == Provider::Wechat { "/wxa/" } else { "" };
            vendor.replies_at(path, [failure.clone(), reply(200, ANSWER.as_str())]);
            let asked =
                || vendor.asked().iter().filter(|a| !a.uri.path().contains("token")).count();
            let before = asked();
            let outcome = ask(&server, provider).await;
            assert_eq!(outcome.is_ok(), is_repeated, "{case}: {outcome:?}");
            assert_eq!(asked() - before, 1 + usize::from(is_repeated), "{case}");
        }
    }
}

#[tokio::test]
async fn retries_are_funded_by_a_reserve_and_by_calls() {
    let (vendor, server) = after(0, Provider::Dingshang, "").await;
    let mut calls = 0;
    let mut retries_of = async |fails: bool| {
        calls += 1;
        let before = vendor.asked().len();
        let failure = fails.then(|| Reply::new(503, ""));
        vendor.replies_at("", failure.into_iter().chain([Reply::new(200, ANSWER.as_str())]));
        let outcome = ask(&server, Provider::Dingshang).await;
        let retries = vendor.asked().len() - before - 1;
        assert_eq!(outcome.is_ok(), !fails || retries == 1, "{calls}: {outcome:?}");
        retries
    };
    for _ in 0..RESERVE {
        assert_eq!(retries_of(true).await, 1);
    }
    assert_eq!(retries_of(true).await, 0);
    for _ in RESERVE + 2..PAID {
        assert_eq!(retries_of(false).await, 0);
    }
    // Failed calls count too, and so did the first ones.
    assert_eq!(retries_of(true).await, 1, "paid for by ten calls");
    for _ in 1..PAID {
        assert_eq!(retries_of(false).await, 0);
    }
    assert_eq!(retries_of(true).await, 1, "paid for by ten more");
    assert_eq!(retries_of(true).await, 0);
}

#[tokio::test]
async fn a_call_is_retried_at_most_once_whatever_the_budget() {
    let (vendor, server) = after(4 * PAID, Provider::Dingshang, "").await;
    let before = vendor.asked().len();
    vendor.answers(503, "");
    ask(&server, Provider::Dingshang).await.unwrap_err();
    assert_eq!(vendor.asked().len() - before, 2);
}

/// A proxy to a vendor that closes its `nth` connection before any data.
async fn broken_once(vendor: &Secured, nth: usize) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let accepted = Arc::new(AtomicUsize::new(0));
    let (count, vendor) = (Arc::clone(&accepted), vendor.vendor.address);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            if count.fetch_add(1, Ordering::SeqCst) + 1 == nth {
                continue;
            }
            tokio::spawn(async move {
                let mut far = TcpStream::connect(vendor).await.unwrap();
                let _ = copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (url, accepted)
}

#[tokio::test]
async fn a_limited_account_retries_unsent_calls_and_counts_them_once() {
    // Each call has its own connection.
    let vendor = Secured::answering("127.0.0.1", || {
        let mut answer = answer(200, r#"{"code":0,"data":{"orderStatus":"已发货"}}"#);
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        answer
    })
    .await;
    let (url, accepted) = broken_once(&vendor, PAID).await;
    let server = Server::start(&format!(
        "[accounts.cards]\nprovider = \"haoka\"\nbase_url = \"{url}\"\n{}\n\
         calls_per_order_per_day = 1\nuser_id = \"agent\"\nsecret = \"s\"\n",
        vendor.ca_file()
    ))
    .await;
    for n in 1..=PAID {
        let outcome = server.order(Provider::Haoka, &format!("order-{n}")).await;
        assert!(outcome.is_ok(), "{n}: {outcome:?}");
    }
    assert_eq!(accepted.load(Ordering::SeqCst), PAID + 1);
    assert_eq!(vendor.vendor.asked().len(), PAID, "each order once");
}

#[tokio::test(start_paused = true)]
async fn retries_to_a_flaky_vendor_are_capped_at_the_reserve_plus_a_tenth() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&attempts);
    let vendor = FakeVendor::new(move |query| {
        let fails = count.fetch_add(1, Ordering::SeqCst).is_multiple_of(3);
        async move {
            if fails {
                return Err(Error::failed("busy"));
            }
            Ok(Order { id: query.id, ..Order::default() })
        }
    });
    let orders = vendor.orders_in_memory(Arc::new(SystemClock));
    let mut failed = 0;
    for batch in 0..30 {
        let calls = (0..10).map(|n| {
            let order = OrderRef {
                provider: FakeVendor::PROVIDER.into(),
                id: format!("{batch}-{n}"),
                ..OrderRef::default()
            };
            let orders = orders.clone();
            async move {
                let deadline = Instant::now() + Duration::from_mins(1);
                orders.get(&Caller::default(), &order, Wanted::default(), deadline).await
            }
        });
        for outcome in join_all(calls).await {
            if let Err(error) = outcome {
                assert_eq!(error.reason, ErrorReason::ProviderUnavailable);
                failed += 1;
            }
        }
    }
    let attempts = attempts.load(Ordering::SeqCst);
    // Retries funded by calls of the last batch may be unspent.
    assert!((333..=335).contains(&attempts), "{attempts} attempts for 300 calls");
    assert!(failed < 110 - 20, "{failed} of 300 failed: retries help");
}
