//! The simulated Dingshang: signatures, statuses, codes and the ping.

use order_query::pb::Provider;
use serde_json::json;

use super::{World, read};

#[tokio::test]
async fn dingshang_returns_the_documented_sample() {
    let world = World::new().await;
    let answer = read(world.dingshang("54").await).await;
    assert_eq!(answer["code"], 0);
    assert_eq!(answer["data"]["trade_id"], "3f2a58ad69b74e86b8a1a3da6fd75cc1");
    assert_eq!(answer["data"]["records"][2]["id"], 72);
}

#[tokio::test]
async fn dingshang_has_an_order_for_every_status() {
    let world = World::new().await;
    let statuses = "SUCCESS REFUND CLOSED REVOKED USERPAYING PAYERROR PICKUPCODE NOTPAY TESTPAY";
    for (id, status) in (101..).zip(statuses.split(' ')) {
        let data = read(world.dingshang(&id.to_string()).await).await["data"].clone();
        assert_eq!((&data["status"], &data["order_id"]), (&json!(status), &json!(id)));
    }
    let records = "WAITING_PICKED_UP IS_DELIVERING IS_SUCCESS IS_PICKED_UP IS_FAILED IS_TIMEOUT \
                   IS_REFUND 未取货 已取货 订单取消";
    for (id, status) in (201..).zip(records.split_whitespace()) {
        let data = read(world.dingshang(&id.to_string()).await).await["data"].clone();
        assert_eq!(
            (&data["status"], &data["records"][0]["status"]),
            (&json!("SUCCESS"), &json!(status))
        );
    }
}

#[tokio::test]
async fn dingshang_returns_the_code_in_the_id() {
    let world = World::new().await;
    for (id, status, code) in [
        ("40005", 200, 40005),
        ("4001", 401, 4001),
        ("404", 404, 404),
        ("12345", 200, 80002),
        ("054", 200, 10001),
        ("x", 200, 10001),
        ("18446744073709551616", 200, 10001),
    ] {
        let response = world.dingshang(id).await;
        assert_eq!(response.status(), status, "{id}");
        let answer = read(response).await;
        assert_eq!((&answer["code"], &answer["data"]), (&json!(code), &json!({})), "{id}");
    }
}

#[tokio::test]
async fn dingshang_checks_headers_sign_machine_and_time() {
    let world = World::new().await;
    let path = "/api/openapi/v1/orders/54";
    let bare = world.http.post(world.url(Provider::Dingshang, path)).send().await.unwrap();
    assert_eq!(bare.status(), 401);
    assert_eq!(read(bare).await["code"], 4001);
    let stamp = world.seconds();
    let at = |seconds: u64| json!({"machine_no": "16327129", "timestamp": seconds.to_string()});
    for (payload, status, code) in [
        (at(stamp), 200, 0),
        (at(stamp - 300), 200, 0),
        (at(stamp - 301), 401, 4009),
        (at(stamp + 301), 401, 4009),
        (json!({"machine_no": "16327129", "timestamp": stamp}), 200, 10001),
        (json!({"machine_no": "16327129"}), 200, 10001),
        (json!({"timestamp": stamp.to_string()}), 200, 10001),
        (json!({"machine_no": "12345678", "timestamp": stamp.to_string()}), 200, 30003),
        (json!({"machine_no": "16327129", "timestamp": stamp.to_string(), "sign": "X"}), 401, 4006),
        (json!("text"), 200, 10001),
    ] {
        let response = world.vending(path, &payload).await;
        assert_eq!(response.status(), status, "{payload}");
        assert_eq!(read(response).await["code"], code, "{payload}");
    }
    let lower = world.payload()["sign"].as_str().unwrap().to_lowercase();
    let mut payload = world.payload();
    payload["sign"] = lower.into();
    assert_eq!(read(world.vending(path, &payload).await).await["code"], 4006);
}

#[tokio::test]
async fn dingshang_answers_a_ping_with_valid_credentials() {
    let world = World::new().await;
    let path = "/api/openapi/v1/ping";
    let pong = read(world.vending(path, &world.payload()).await).await;
    assert_eq!((&pong["code"], &pong["data"]), (&json!(0), &json!("pong")));
    let bare = world.http.post(world.url(Provider::Dingshang, path)).send().await.unwrap();
    assert_eq!(bare.status(), 401);
    let gotten = world.http.get(world.url(Provider::Dingshang, path)).send().await.unwrap();
    assert_eq!(gotten.status(), 404);
}
