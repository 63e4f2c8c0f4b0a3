//! Transport faults, at every vendor.

use order_query::pb::Provider;
use serde_json::Value;

use super::{KNOWN, START, World};

#[tokio::test]
async fn every_vendor_simulates_the_faults() {
    let world = World::new().await;
    for vendor in KNOWN {
        for (number, name, status, start) in [
            (9001, "fault-500", 500, "<html>"),
            (9002, "fault-503", 503, "<html>"),
            (9003, "fault-404", 404, "<html>"),
            (9004, "fault-429", 429, "<html>"),
            (9005, "fault-redirect", 302, "<html>"),
            (9006, "fault-html", 200, "<html>"),
            (9007, "fault-empty", 200, ""),
            (9008, "fault-truncated", 200, "{"),
            (9009, "fault-types", 200, "{\"errcode\":[]"),
            (9010, "fault-nested", 200, "{\"errcode\":0,\"code\":0,\"order\":[[[["),
            (9016, "fault-list", 200, "[]"),
            (9017, "fault-bytes", 200, "{\"code\":0,\"message\":\"\u{fffd}"),
            (9018, "fault-cut", 200, "{\"note\":\"号\u{fffd}\","),
            (9019, "fault-block", 403, "<html>"),
        ] {
            let number = number.to_string();
            let id = if vendor == Provider::Dingshang { number.as_str() } else { name };
            let response = world.order(vendor, id).await;
            assert_eq!(response.status(), status, "{vendor:?} {id}");
            let header = |name| response.headers().get(name).map(|value| value.to_str().unwrap());
            assert_eq!(header("retry-after"), (status == 429).then_some("30"));
            assert_eq!(header("location"), (status == 302).then_some("/sandbox/redirected"));
            assert!(response.text().await.unwrap().starts_with(start), "{vendor:?} {id}");
        }
        let redirected = world.http.get(world.url(vendor, "/sandbox/redirected")).send().await;
        assert_eq!(redirected.unwrap().status(), 404);
    }
}

#[tokio::test]
async fn a_truncated_answer_is_half_of_an_order() {
    let world = World::new().await;
    let body = world.haoka("fault-truncated").await.text().await.unwrap();
    assert!(serde_json::from_str::<Value>(&body).unwrap_err().is_eof(), "{body}");
}

#[tokio::test]
async fn a_huge_answer_is_100_mib_without_a_length() {
    let world = World::new().await;
    let mut response = world.haoka("fault-huge").await;
    assert_eq!(response.content_length(), None);
    let mut bytes = 0;
    while let Some(piece) = response.chunk().await.unwrap() {
        bytes += piece.len();
    }
    assert!(bytes > 100 * 1024 * 1024);
}

#[tokio::test]
async fn a_reset_cuts_the_body_in_the_middle() {
    let world = World::new().await;
    let mut response = world.haoka("fault-reset").await;
    assert!(response.chunk().await.unwrap().is_some());
    assert!(response.chunk().await.is_err());
}

#[tokio::test]
async fn an_endless_answer_continues_until_the_sandbox_is_dropped() {
    let world = World::new().await;
    let mut response = world.haoka("fault-endless").await;
    assert!(response.chunk().await.unwrap().is_some());
    drop(world.sandbox);
    // A chunk may be in flight already; an error must follow.
    while response.chunk().await.is_ok_and(|piece| {
        assert!(piece.is_some(), "the body ended as if it were whole");
        true
    }) {}
}

#[tokio::test]
async fn dropping_the_sandbox_cuts_hanging_answers_and_frees_the_ports() {
    let world = World::new().await;
    let form = world.card_form("fault-hang", &START.to_string());
    let url = world.url(Provider::Haoka, "/api/order/GetOrderInfo");
    let hanging = tokio::spawn(world.http.post(url.clone()).form(&form).send());
    while world.sandbox.arrivals().is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(!hanging.is_finished());
    drop(world.sandbox);
    assert!(hanging.await.unwrap().is_err());
    assert!(world.http.post(url).send().await.unwrap_err().is_connect());
}
