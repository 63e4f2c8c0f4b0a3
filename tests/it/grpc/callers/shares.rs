//! `vendor_calls_per_minute`: a caller's share of the vendor calls, counted like the vendors' own
//! limits, and without effect on other callers.

use std::time::Duration;

use futures_util::future::join_all;
use order_query::pb::order_result::Result as Outcome;
use order_query::pb::{BatchGetOrdersRequest, ErrorReason, OrderRef, Provider};
use tonic::Code;
use tonic_types::StatusExt as _;

use super::{AUDIT, BILLING, Fixture, haoka, order, with_token};
use crate::support::redis_server::RedisServer;
use crate::support::{Scripted, Server, question};

/// Billing has two calls a minute, audit as many as the account.
fn clients() -> String {
    format!(
        "clients.billing = {{ token = \"{BILLING}\", vendor_calls_per_minute = 2 }}\n\
         clients.audit.token = \"{AUDIT}\"\n"
    )
}

async fn fixture() -> Fixture {
    Fixture::new(&format!("{}{}", clients(), haoka("h"))).await
}

fn reason<T: std::fmt::Debug>(outcome: Result<T, crate::support::Failed>) -> String {
    outcome.unwrap_err().reason
}

#[tokio::test]
async fn an_exhausted_share_is_an_exhausted_limit_with_the_callers_name() {
    let fixture = fixture().await;
    for id in ["A1", "A2"] {
        assert_eq!(fixture.get(BILLING, &order(id)).await.unwrap(), "SOURCE_LIVE");
    }
    let request = with_token(question(Provider::Haoka, "A3"), BILLING);
    let status = fixture.server.client.clone().get_order(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "PROVIDER_QUOTA_EXHAUSTED");
    let violation = &details.quota_failure().unwrap().violations[0];
    assert_eq!(violation.subject, "client/billing vendor_calls_per_minute");
    assert_eq!(
        status.message(),
        "the limit vendor_calls_per_minute is exhausted; wait before retrying"
    );
    let wait = details.retry_info().unwrap().retry_delay.unwrap();
    assert_eq!(wait, Duration::from_mins(1));
    assert_eq!(fixture.vendor.asked().len(), 2);
    // A cached answer costs nothing, and a stale answer replaces the error.
    assert_eq!(fixture.get(BILLING, &order("A1")).await.unwrap(), "SOURCE_CACHE");
    fixture.clock.advance(Duration::from_secs(1));
    assert_eq!(reason(fixture.get_now(BILLING, &order("A1")).await), "PROVIDER_QUOTA_EXHAUSTED");
    // The other caller still has the whole limit of the account.
    for id in ["B1", "B2", "B3"] {
        assert_eq!(fixture.get(AUDIT, &order(id)).await.unwrap(), "SOURCE_LIVE");
    }
    // Its answers are cached for all callers.
    assert_eq!(fixture.get(BILLING, &order("B1")).await.unwrap(), "SOURCE_CACHE");
    fixture.clock.advance(wait);
    assert_eq!(fixture.get(BILLING, &order("A3")).await.unwrap(), "SOURCE_LIVE");
}

#[tokio::test]
async fn a_stale_answer_is_served_when_the_share_is_exhausted() {
    let fixture = fixture().await;
    fixture.get(BILLING, &order("A1")).await.unwrap();
    fixture.clock.advance(Duration::from_mins(16));
    for id in ["A2", "A3"] {
        fixture.get(BILLING, &order(id)).await.unwrap();
    }
    assert_eq!(fixture.get(BILLING, &order("A1")).await.unwrap(), "SOURCE_STALE");
    assert_eq!(fixture.vendor.asked().len(), 3);
}

#[tokio::test]
async fn a_batch_spends_the_share_in_order() {
    let fixture = fixture().await;
    let ids = ["A1", "A2", "A3", "A4"];
    let batch = BatchGetOrdersRequest { orders: ids.map(order).to_vec(), ..Default::default() };
    let answer = fixture.server.client.clone().batch_get_orders(with_token(batch, BILLING)).await;
    let results = answer.unwrap().into_inner().results;
    let refused = results.iter().filter(|result| match &result.result {
        Some(Outcome::Error(error)) => error.reason() == ErrorReason::ProviderQuotaExhausted,
        _ => false,
    });
    assert_eq!((refused.count(), fixture.vendor.asked().len()), (2, 2));
}

#[tokio::test]
async fn a_watch_waits_for_its_share_and_receives_updates_from_other_calls() {
    let fixture = fixture().await;
    for id in ["A1", "A2"] {
        fixture.get(BILLING, &order(id)).await.unwrap();
    }
    let mut own = fixture.watch(BILLING, &order("W1")).await.unwrap();
    let mut other = fixture.watch(AUDIT, &order("W1")).await.unwrap();
    // A caller without a share is not delayed by an exhausted one, and updates its watch.
    for stream in [&mut other, &mut own] {
        let news = stream.message().await.unwrap().unwrap();
        assert_eq!(news.order.unwrap().provider_status, "已发货");
    }
    assert_eq!(fixture.vendor.asked().len(), 3);
}

#[tokio::test]
async fn watching_an_order_already_polled_spends_no_share() {
    let fixture = fixture().await;
    let mut other = fixture.watch(AUDIT, &order("W1")).await.unwrap();
    other.message().await.unwrap().unwrap();
    let mut own = fixture.watch(BILLING, &order("W1")).await.unwrap();
    own.message().await.unwrap().unwrap();
    for id in ["A1", "A2"] {
        assert_eq!(fixture.get(BILLING, &order(id)).await.unwrap(), "SOURCE_LIVE");
    }
    assert_eq!(reason(fixture.get(BILLING, &order("A3")).await), "PROVIDER_QUOTA_EXHAUSTED");
}

#[tokio::test]
async fn a_poller_stops_with_the_watchers_whose_share_it_spends() {
    let account = haoka("h") + "freshness = \"1s\"\n";
    let fixture = Fixture::new(&format!("{}{account}", clients())).await;
    for id in ["A1", "A2"] {
        fixture.get(BILLING, &order(id)).await.unwrap();
    }
    let mut other = fixture.watch(AUDIT, &order("W1")).await.unwrap();
    other.message().await.unwrap().unwrap();
    let mut own = fixture.watch(BILLING, &order("W1")).await.unwrap();
    own.message().await.unwrap().unwrap();
    drop(other);
    // The remaining watcher's share is exhausted, and it cannot spend the other's.
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        fixture.clock.advance(Duration::from_secs(1));
    }
    let asked = fixture.vendor.asked().len();
    assert!(asked < 8, "{asked}");
    // A new watch after it has left finds a working poller.
    drop(own);
    tokio::time::sleep(Duration::from_millis(20)).await;
    fixture.vendor.answers(200, "{\"code\":0,\"data\":{\"orderStatus\":\"已结算\"}}");
    let mut again = fixture.watch(BILLING, &order("W1")).await.unwrap();
    let settled = async {
        while again.message().await.unwrap().unwrap().order.unwrap().provider_status != "已结算"
        {
        }
    };
    let passing = async {
        loop {
            tokio::time::sleep(Duration::from_millis(2)).await;
            fixture.clock.advance(Duration::from_secs(1));
        }
    };
    let patience = crate::support::child::PATIENCE;
    tokio::time::timeout(patience, async {
        tokio::select! { () = settled => {}, () = passing => {} }
    })
    .await
    .unwrap();
}

/// An account without limits of its own.
fn unlimited(vendor: &Scripted) -> String {
    format!(
        "[accounts.d]\nprovider = \"dingshang\"\nbase_url = \"http://{}\"\napp_id = \"d\"\n\
         app_secret = \"s\"\nmachine_no = \"16327129\"\n",
        vendor.address
    )
}

async fn ask(server: &Server, token: &str, id: usize) -> Result<(), String> {
    let request = with_token(question(Provider::Dingshang, &id.to_string()), token);
    server.ask(request).await.map(drop).map_err(|failed| failed.reason)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_count_a_callers_share_together() {
    let vendor = Scripted::start().await;
    vendor.answers(200, "{\"data\":{\"order_id\":1}}");
    let mut redis = RedisServer::start();
    let fresh = "token-of-a-fresh-one-1";
    let config = format!(
        "store.url = \"{}\"\n{}clients.c = {{ token = \"{fresh}\", vendor_calls_per_minute = 9 }}\n{}",
        redis.url(),
        clients(),
        unlimited(&vendor)
    );
    let servers = [Server::start(&config).await, Server::start(&config).await];
    let calls = (1..=10).map(|id| ask(&servers[id % 2], BILLING, id));
    let refused =
        |outcome: &Result<(), String>| *outcome == Err("PROVIDER_QUOTA_EXHAUSTED".to_owned());
    let outcomes = join_all(calls).await;
    assert_eq!(outcomes.iter().filter(|outcome| refused(outcome)).count(), 8, "{outcomes:?}");
    assert_eq!(vendor.asked().len(), 2);
    // Without the store a share cannot be counted; callers without one are unaffected.
    redis.kill();
    let asked = vendor.asked().len();
    assert_eq!(ask(&servers[0], fresh, 20).await, Err("STORE_UNAVAILABLE".to_owned()));
    assert_eq!(vendor.asked().len(), asked);
    let _ = ask(&servers[0], AUDIT, 21).await;
    assert_eq!(vendor.asked().len(), asked + 1);
}

/// A repeated order call counts as another call.
#[tokio::test]
async fn every_vendor_call_counts_against_the_share() {
    let fixture = Fixture::new(&format!(
        "{}[accounts.w]\nprovider = \"wechat\"\napp_id = \"wx\"\napp_secret = \"s\"\n\
         token = \"classic\"\nbase_url = \"VENDOR\"\n",
        clients()
    ))
    .await;
    fixture.vendor.answers(200, "{\"errcode\":40001}");
    let tokens = ["t1", "t2"].map(|token| {
        crate::support::Reply::new(
            200,
            format!("{{\"access_token\":\"{token}\",\"expires_in\":7200}}"),
        )
    });
    fixture.vendor.replies_at("/cgi-bin/", tokens);
    let order = |id: &str| OrderRef { provider: Provider::Wechat.into(), ..order(id) };
    assert_eq!(reason(fixture.get(BILLING, &order("A1")).await), "PROVIDER_CREDENTIALS_REJECTED");
    assert_eq!(reason(fixture.get(BILLING, &order("A2")).await), "PROVIDER_QUOTA_EXHAUSTED");
}
