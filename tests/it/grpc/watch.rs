//! `WatchOrder`: the order now and at every change, from one poller, within the vendor's rules.

use order_query::clock::Clock as _;
use order_query::pb::{
    GetOrderRequest, OrderRef, OrderStatus, Provider, Source, WatchOrderRequest, WatchOrderResponse,
};
use tonic::{Code, Status, Streaming};

use crate::orders::rules::Fixture;
use crate::support::child::PATIENCE;
use crate::support::{Failed, Scripted, Server, manual_clock, question};

async fn watch(server: &Server, provider: Provider, id: &str) -> Streaming<WatchOrderResponse> {
    let order = OrderRef { provider: provider.into(), id: id.to_owned(), ..OrderRef::default() };
    let request = WatchOrderRequest { order: Some(order), ..Default::default() };
    server.client.clone().watch_order(request).await.unwrap().into_inner()
}

async fn next(stream: &mut Streaming<WatchOrderResponse>) -> Result<(OrderStatus, Source), Status> {
    let message = tokio::time::timeout(PATIENCE, stream.message()).await.expect("news");
    let news = message?.expect("the stream goes on");
    Ok((news.order.as_ref().unwrap().status(), news.source()))
}

fn haoka(status: &str) -> String {
    format!("{{\"code\":0,\"data\":{{\"orderNo\":\"1\",\"orderStatus\":\"{status}\"}}}}")
}

/// A server with one Haoka account, its vendor, and the clock.
async fn scripted() -> (Scripted, Server, order_query::clock::ManualClock) {
    scripted_with("").await
}

/// The same, with more settings of the account.
async fn scripted_with(more: &str) -> (Scripted, Server, order_query::clock::ManualClock) {
    let vendor = Scripted::start().await;
    let clock = manual_clock();
    let config = format!(
        "[accounts.h]\nprovider = \"haoka\"\nuser_id = \"a\"\nsecret = \"b\"\n\
         base_url = \"http://{}\"\n{more}\n",
        vendor.address
    );
    let server = Server::start_at(&config, std::sync::Arc::new(clock.clone())).await;
    (vendor, server, clock)
}

#[tokio::test]
async fn a_watcher_receives_every_change_up_to_the_terminal_state() {
    let (vendor, server, clock) = scripted().await;
    vendor.answers(200, haoka("待处理"));
    let mut stream = watch(&server, Provider::Haoka, "A1").await;
    assert_eq!(next(&mut stream).await.unwrap(), (OrderStatus::Accepted, Source::Live));
    // An unchanged state is not sent; the next change is.
    for (status, expected) in [
        ("已提运营商", OrderStatus::Submitted),
        ("已发货", OrderStatus::Shipped),
        ("已结算", OrderStatus::Settled),
    ] {
        vendor.answers(200, haoka(status));
        clock.advance(std::time::Duration::from_hours(6));
        assert_eq!(next(&mut stream).await.unwrap().0, expected);
    }
    assert!(stream.message().await.unwrap().is_none(), "OK after a terminal order");
    assert_eq!(vendor.asked().len(), 4);
}

#[tokio::test]
async fn watchers_share_one_poller_and_receive_updates_from_other_calls() {
    let (vendor, server, clock) = scripted().await;
    vendor.answers(200, haoka("待处理"));
    let mut first = watch(&server, Provider::Haoka, "A1").await;
    assert_eq!(next(&mut first).await.unwrap(), (OrderStatus::Accepted, Source::Live));
    let mut others = Vec::new();
    for _ in 0..20 {
        let mut stream = watch(&server, Provider::Haoka, "A1").await;
        assert_eq!(next(&mut stream).await.unwrap(), (OrderStatus::Accepted, Source::Cache));
        others.push(stream);
    }
    assert_eq!(vendor.asked().len(), 1);
    // Another caller fetches the order: the watchers receive the update without a call of their own.
    vendor.answers(200, haoka("已发货"));
    clock.advance(std::time::Duration::from_secs(10));
    let max_age = Some(prost_types::Duration::default());
    server.get(GetOrderRequest { max_age, ..question(Provider::Haoka, "A1") }).await.unwrap();
    for stream in others.iter_mut().chain([&mut first]) {
        assert_eq!(next(stream).await.unwrap(), (OrderStatus::Shipped, Source::Live));
    }
    assert_eq!(vendor.asked().len(), 2);
}

#[tokio::test]
async fn a_watcher_that_waits_for_a_later_state_lets_the_poller_ask_soon() {
    let (vendor, server, clock) = scripted().await;
    vendor.answers(200, haoka("待处理"));
    let mut first = watch(&server, Provider::Haoka, "A1").await;
    assert_eq!(next(&mut first).await.unwrap(), (OrderStatus::Accepted, Source::Live));
    // The account's freshness would let the poller wait for 15 minutes.
    clock.advance(std::time::Duration::from_secs(10));
    let order =
        OrderRef { provider: Provider::Haoka.into(), id: "A1".into(), ..Default::default() };
    let min_observe_time = Some(clock.now().into());
    let request = WatchOrderRequest { order: Some(order), min_observe_time };
    for source in [Source::Live, Source::Cache] {
        let mut later = server.client.clone().watch_order(request.clone()).await.unwrap();
        // The state is the same as before, and is sent all the same.
        let message = later.get_mut().message();
        let news = tokio::time::timeout(PATIENCE, message).await.expect("news").unwrap().unwrap();
        assert_eq!(news.source(), source);
        assert_eq!(news.order.unwrap().observe_time, min_observe_time);
    }
    assert_eq!(vendor.asked().len(), 2);
    // To the first watcher it is no news.
    vendor.answers(200, haoka("已发货"));
    clock.advance(std::time::Duration::from_hours(6));
    assert_eq!(next(&mut first).await.unwrap().0, OrderStatus::Shipped);
}

#[tokio::test]
async fn a_not_found_from_before_does_not_end_a_watch() {
    let (vendor, server, clock) = scripted().await;
    vendor.answers(200, r#"{"code":-1,"message":"订单不存在"}"#);
    server.get(question(Provider::Haoka, "A1")).await.unwrap_err();
    vendor.answers(200, haoka("待处理"));
    clock.advance(std::time::Duration::from_secs(1));
    let order =
        OrderRef { provider: Provider::Haoka.into(), id: "A1".into(), ..Default::default() };
    let min_observe_time = Some(clock.now().into());
    let request = WatchOrderRequest { order: Some(order), min_observe_time };
    let mut stream = server.client.clone().watch_order(request).await.unwrap().into_inner();
    assert_eq!(next(&mut stream).await.unwrap(), (OrderStatus::Accepted, Source::Live));
}

#[tokio::test]
async fn a_watcher_waits_for_a_state_that_is_late_enough() {
    // With an answer that is as fresh as the account is configured for, and with a stale one.
    for minutes in [1, 60] {
        let (vendor, server, clock) = scripted_with("calls_per_order_per_day = 1").await;
        vendor.answers(200, haoka("待处理"));
        server.get(question(Provider::Haoka, "A1")).await.unwrap();
        clock.advance(std::time::Duration::from_mins(minutes));
        let order =
            OrderRef { provider: Provider::Haoka.into(), id: "A1".into(), ..Default::default() };
        let min_observe_time = Some(clock.now().into());
        let request = WatchOrderRequest { order: Some(order), min_observe_time };
        let mut waits = server.client.clone().watch_order(request).await.unwrap().into_inner();
        // Who sets nothing gets the older state, from the same poller.
        let mut content = watch(&server, Provider::Haoka, "A1").await;
        assert_eq!(next(&mut content).await.unwrap().0, OrderStatus::Accepted);
        vendor.answers(200, haoka("已发货"));
        let silence = std::time::Duration::from_millis(200);
        let heard = tokio::time::timeout(silence, waits.message()).await;
        assert!(heard.is_err(), "no call is left, and all that is known is older: {heard:?}");
        clock.advance(std::time::Duration::from_hours(24));
        for stream in [&mut waits, &mut content] {
            assert_eq!(next(stream).await.unwrap(), (OrderStatus::Shipped, Source::Live));
        }
        assert_eq!(vendor.asked().len(), 2);
    }
}

#[tokio::test]
async fn a_watch_survives_vendor_failures() {
    let (vendor, server, clock) = scripted().await;
    vendor.answers(503, "");
    let mut stream = watch(&server, Provider::Haoka, "A1").await;
    while vendor.asked().is_empty() {
        tokio::task::yield_now().await;
    }
    vendor.answers(200, haoka("已发货"));
    let news = tokio::spawn(async move { next(&mut stream).await.unwrap() });
    // The poller waits for a second of a clock that only this loop advances.
    while !news.is_finished() {
        clock.advance(std::time::Duration::from_millis(100));
        tokio::task::yield_now().await;
    }
    assert_eq!(news.await.unwrap(), (OrderStatus::Shipped, Source::Live));
    assert_eq!(vendor.asked().len(), 2);
}

#[tokio::test]
async fn a_watch_ends_on_a_permanent_error() {
    let fixture = Fixture::new().await;
    let cases = [
        (Provider::Haoka, "nobody", Code::NotFound, "ORDER_NOT_FOUND"),
        (
            Provider::Haoka,
            "error-signature",
            Code::FailedPrecondition,
            "PROVIDER_CREDENTIALS_REJECTED",
        ),
        (Provider::Dingshang, "40005", Code::FailedPrecondition, "ORDER_EXPIRED"),
    ];
    for (provider, id, code, reason) in cases {
        let mut stream = watch(&fixture.server, provider, id).await;
        let failed = Failed::from(&next(&mut stream).await.unwrap_err());
        assert_eq!((failed.code, failed.reason.as_str()), (code, reason));
        assert_eq!(failed.metadata["account"], format!("{}-sandbox", provider.word()));
    }
    for (provider, id, code) in [
        (Provider::Haoka, "a/b", Code::InvalidArgument),
        (Provider::Unspecified, "1", Code::InvalidArgument),
    ] {
        let order =
            OrderRef { provider: provider.into(), id: id.to_owned(), ..OrderRef::default() };
        let request = WatchOrderRequest { order: Some(order), ..Default::default() };
        let status = fixture.server.client.clone().watch_order(request).await.unwrap_err();
        assert_eq!(status.code(), code);
    }
}

#[tokio::test]
async fn a_watch_of_a_terminal_order_sends_it_and_ends() {
    let fixture = Fixture::new().await;
    fixture.server.get(question(Provider::Haoka, "settled")).await.unwrap();
    for _ in 0..2 {
        let mut stream = watch(&fixture.server, Provider::Haoka, "settled").await;
        assert_eq!(next(&mut stream).await.unwrap(), (OrderStatus::Settled, Source::Cache));
        assert!(stream.message().await.unwrap().is_none());
    }
    assert_eq!(fixture.asked(Provider::Haoka, "settled").len(), 1);
}

#[tokio::test]
async fn watches_end_when_the_server_stops() {
    let fixture = Fixture::new().await;
    let mut stream = watch(&fixture.server, Provider::Haoka, "shipped").await;
    next(&mut stream).await.unwrap();
    let Server { app, .. } = fixture.server;
    let stopped = tokio::spawn(app.stop());
    let failed = Failed::from(&next(&mut stream).await.unwrap_err());
    assert_eq!((failed.code, failed.reason.as_str()), (Code::Unavailable, "SERVER_DRAINING"));
    stopped.await.unwrap();
}

#[tokio::test]
async fn a_poller_stops_with_its_last_watcher() {
    let (vendor, server, clock) = scripted().await;
    vendor.answers(200, haoka("待处理"));
    let mut stream = watch(&server, Provider::Haoka, "A1").await;
    next(&mut stream).await.unwrap();
    drop(stream);
    // The next watcher finds no poller, or the old one before it has stopped.
    clock.advance(std::time::Duration::from_hours(24));
    vendor.answers(200, haoka("已发货"));
    let mut stream = watch(&server, Provider::Haoka, "A1").await;
    loop {
        if next(&mut stream).await.unwrap().0 == OrderStatus::Shipped {
            break;
        }
    }
    assert!(vendor.asked().len() <= 3);
}

#[tokio::test]
async fn pollers_use_at_most_half_of_the_limit_per_minute() {
    let fixture =
        Fixture::with(|accounts| accounts.replace("user_id", "calls_per_minute = 4\nuser_id"))
            .await;
    let mut streams = Vec::new();
    for id in ["pending", "submitted"] {
        let mut stream = watch(&fixture.server, Provider::Haoka, id).await;
        next(&mut stream).await.unwrap();
        streams.push(stream);
    }
    // The third poller waits for the pollers' half; the other half is for callers.
    let mut third = watch(&fixture.server, Provider::Haoka, "entering").await;
    for id in ["shipped", "completed"] {
        fixture.server.get(question(Provider::Haoka, id)).await.unwrap();
    }
    assert_eq!(fixture.asked(Provider::Haoka, "entering").len(), 0);
    let news = tokio::spawn(async move { next(&mut third).await.unwrap() });
    while !news.is_finished() {
        fixture.pass(1);
        tokio::task::yield_now().await;
    }
    assert_eq!(news.await.unwrap().0, OrderStatus::Accepted);
    assert!(fixture.asked(Provider::Haoka, "entering")[0] >= 60);
}
