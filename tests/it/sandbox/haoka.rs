//! The simulated Haoka: both forms, statuses and signatures.

use order_query::pb::Provider;
use serde_json::json;

use super::{START, World, read};
use crate::support::md5;

#[tokio::test]
async fn haoka_reads_both_forms_and_states_the_sandbox_time() {
    let world = World::new().await;
    let response = world.haoka("sample").await;
    assert_eq!(response.headers()["date"], "Tue, 14 Nov 2023 22:13:20 GMT");
    let answer = read(response).await;
    assert_eq!((&answer["code"], &answer["data"]["name"]), (&json!(0), &json!("田**")));

    let fields = world.card_form("card-activated", &START.to_string());
    let form = fields
        .into_iter()
        .fold(reqwest::multipart::Form::new(), |form, (name, value)| form.text(name, value));
    let url = world.url(Provider::Haoka, "/api/order/GetOrderInfo");
    let answer = read(world.http.post(url).multipart(form).send().await.unwrap()).await;
    assert_eq!(answer["data"]["cardStatus"], "已激活");
    assert_eq!(answer["data"]["downOrderNo"], "card-activated");
}

#[tokio::test]
async fn haoka_has_an_order_for_every_status() {
    let world = World::new().await;
    for (id, status) in [
        ("pending", "待处理"),
        ("submitted", "已提运营商"),
        ("shipped", "已发货"),
        ("completed", "已完成"),
        ("withdrawn", "已撤单"),
        ("rejected", "审核不通过"),
        ("canceled", "已取消"),
        ("settled", "已结算"),
        ("unsettleable", "无法结算"),
        ("entering", "正在进单"),
        ("review-failed", "审核失败"),
    ] {
        assert_eq!(read(world.haoka(id).await).await["data"]["orderStatus"], status);
    }
}

#[tokio::test]
async fn haoka_checks_sign_user_and_time() {
    let world = World::new().await;
    let now = world.seconds();
    let mut wrong_sign = world.card_form("shipped", &now.to_string());
    wrong_sign[3].1 = wrong_sign[3].1.to_uppercase();
    let mut wrong_user = world.card_form("shipped", &now.to_string());
    let secret = world.account("haoka-sandbox", "secret");
    wrong_user[0].1 = "other".into();
    wrong_user[3].1 = md5(&format!("DownOrderID=shipped&Timestamp={now}&user_id=other{secret}"));
    for (form, message) in [
        (world.card_form("nobody", &now.to_string()), "订单不存在"),
        (world.card_form("shipped", &(now - 300).to_string()), "成功"),
        (world.card_form("shipped", &(now - 301).to_string()), "时间戳错误"),
        (world.card_form("shipped", &format!("{now}000")), "时间戳错误"),
        (world.card_form("shipped", &format!("0{now}")), "时间戳错误"),
        (wrong_sign, "签名错误"),
        (wrong_user, "签名错误"),
    ] {
        let answer = read(world.cards(&form).await).await;
        assert_eq!(answer["message"], message);
        assert_eq!(answer["code"], if message == "成功" { 0 } else { -1 });
    }
    let form = world.card_form("shipped", &now.to_string());
    let answer = read(world.cards(&form[..3]).await).await;
    assert_eq!(answer["code"], -1);
}
