//! The simulated WeChat: tokens, statuses and codes.

use std::time::Duration;

use order_query::pb::Provider;
use serde_json::json;

use super::{World, read};

#[tokio::test]
async fn wechat_returns_the_documented_sample() {
    let world = World::new().await;
    let answer = read(world.order(Provider::Wechat, "DD2981741311549200000").await).await;
    assert_eq!(answer["order"]["orderPrice"], "1");
    assert_eq!(answer["order"]["usage"], json!({"used": "0", "all": "1000"}));
    assert_eq!(answer["order"]["orderProductInfo"]["validityEndTime"], 1_718_801_856);
}

#[tokio::test]
async fn wechat_has_an_order_for_every_status_under_both_names() {
    let world = World::new().await;
    for status in [1, 2, 3, 5, 6, 7, 9] {
        for id in [format!("status-{status}"), format!("DD100000000000000000{status}")] {
            let order = read(world.order(Provider::Wechat, &id).await).await["order"].clone();
            assert_eq!(order["status"], status);
            assert_eq!(order["orderId"], id);
            let paid = ![1, 3, 9].contains(&status);
            assert_eq!(order.get("usage").is_some(), paid, "{id}");
            assert_eq!(order["payInfo"].get("finishPayTime").is_some(), paid, "{id}");
        }
    }
}

#[tokio::test]
async fn wechat_returns_the_code_in_the_id() {
    let world = World::new().await;
    for (id, errcode) in [
        ("errcode-45009", 45009),
        ("errcode--1", -1),
        ("errcode-x", 10_120_800),
        ("nobody", 10_120_800),
        ("a b", 10_120_002),
        ("", 10_120_002),
    ] {
        let response = world.order(Provider::Wechat, id).await;
        assert_eq!(response.status(), 200);
        assert_eq!(read(response).await["errcode"], errcode, "{id}");
    }
}

#[tokio::test]
async fn wechat_refuses_missing_unknown_and_expired_tokens() {
    let world = World::new().await;
    let id = "status-2";
    let token = world.token().await;
    assert!(token.len() >= 512);
    assert_eq!(read(world.wechat("", id).await).await["errcode"], 41001);
    assert_eq!(read(world.wechat("other", id).await).await["errcode"], 40001);
    world.clock.advance(Duration::from_secs(7199));
    assert_eq!(read(world.wechat(&token, id).await).await["errcode"], 0);
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(read(world.wechat(&token, id).await).await["errcode"], 42001);
}

#[tokio::test]
async fn wechat_distinguishes_wrong_credentials_on_both_token_calls() {
    let world = World::new().await;
    let app = world.account("wechat-sandbox", "app_id");
    for (app_id, secret, errcode) in [
        ("wx0000000000000000", "x", 40013),
        (&app, "wrong", 40125),
        ("wxerrcode40164", "x", 40164),
        ("wxerrcode-1", "x", -1),
    ] {
        assert_eq!(world.stable(app_id, secret).await["errcode"], errcode);
        assert_eq!(world.classic(app_id, secret).await["errcode"], errcode);
    }
}

#[tokio::test]
async fn wechat_issues_one_stable_token_and_a_new_classic_one_each_time() {
    let world = World::new().await;
    let app = world.account("wechat-sandbox", "app_id");
    let secret = world.account("wechat-sandbox", "app_secret");
    let first = world.stable(&app, &secret).await;
    assert_eq!(first["expires_in"], 7200);
    world.clock.advance(Duration::from_secs(100));
    let again = world.stable(&app, &secret).await;
    assert_eq!(again["access_token"], first["access_token"]);
    assert_eq!(again["expires_in"], 7100);
    let one = world.classic(&app, &secret).await;
    let two = world.classic(&app, &secret).await;
    assert_ne!(one["access_token"], two["access_token"]);
    let one = one["access_token"].as_str().unwrap();
    assert_eq!(read(world.wechat(one, "status-2").await).await["errcode"], 0);
    world.clock.advance(Duration::from_mins(5));
    assert_eq!(read(world.wechat(one, "status-2").await).await["errcode"], 42001);
}

#[tokio::test]
async fn wechat_expires_a_token_once_and_accepts_the_next() {
    let world = World::new().await;
    let app = world.account("wechat-sandbox", "app_id");
    let secret = world.account("wechat-sandbox", "app_secret");
    let other = world.classic(&app, &secret).await["access_token"].as_str().unwrap().to_owned();
    let first = world.token().await;
    let refused = read(world.wechat(&first, "token-refused-once").await).await;
    assert_eq!(refused["errcode"], 40001);
    assert_eq!(read(world.wechat(&first, "status-2").await).await["errcode"], 40001);
    let second = world.token().await;
    assert_ne!(first, second);
    let order = read(world.wechat(&second, "token-refused-once").await).await;
    assert_eq!(order["order"]["orderId"], "token-refused-once");
    assert_eq!(read(world.wechat(&other, "status-2").await).await["errcode"], 0);
}
