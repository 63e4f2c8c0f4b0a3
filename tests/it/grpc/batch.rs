//! `BatchGetOrders`: each order has its own result.

use order_query::pb::order_result::Result as Outcome;
use order_query::pb::{
    BatchGetOrdersRequest, ErrorReason, OrderError, OrderRef, OrderResult, Provider, Source,
};
use tonic::Code;

use crate::orders::rules::Fixture;
use crate::support::{Failed, Scripted, Server};

fn order(provider: Provider, id: &str) -> OrderRef {
    OrderRef { provider: provider.into(), id: id.to_owned(), ..OrderRef::default() }
}

async fn batch(fixture: &Fixture, orders: Vec<OrderRef>) -> Result<Vec<OrderResult>, Failed> {
    let max_age = Some(prost_types::Duration::default());
    let request = BatchGetOrdersRequest { orders, max_age, ..Default::default() };
    let answer = fixture.server.client.clone().batch_get_orders(request).await;
    answer.map(|answer| answer.into_inner().results).map_err(|status| Failed::from(&status))
}

fn error(result: &OrderResult) -> &OrderError {
    match result.result.as_ref().unwrap() {
        Outcome::Error(error) => error,
        Outcome::Found(found) => panic!("{found:?}"),
    }
}

#[tokio::test]
async fn results_keep_the_requested_order_and_duplicates_share_a_call() {
    let fixture = Fixture::new().await;
    let orders = vec![
        order(Provider::Haoka, "shipped"),
        order(Provider::Wechat, "nobody"),
        order(Provider::Dingshang, "54"),
        order(Provider::Haoka, "a/b"),
        order(Provider::Haoka, "shipped"),
        order(Provider::Wechat, "errcode-45011"),
        order(Provider::Unspecified, "1"),
        OrderRef { account: "nobody".to_owned(), ..order(Provider::Haoka, "shipped") },
    ];
    let results = batch(&fixture, orders).await.unwrap();
    assert_eq!(results.len(), 8);
    for (place, id) in [(0, "shipped"), (2, "54"), (4, "shipped")] {
        let Some(Outcome::Found(found)) = &results[place].result else { panic!("{place}") };
        assert_eq!(found.order.as_ref().unwrap().id, id);
        assert_eq!(found.source(), Source::Live);
    }
    let expected = [
        (1, Code::NotFound, ErrorReason::OrderNotFound, ""),
        (3, Code::InvalidArgument, ErrorReason::InvalidRequest, "id"),
        (5, Code::ResourceExhausted, ErrorReason::ProviderQuotaExhausted, ""),
        (6, Code::InvalidArgument, ErrorReason::InvalidRequest, "provider"),
        (7, Code::FailedPrecondition, ErrorReason::ProviderNotConfigured, ""),
    ];
    for (place, code, reason, field) in expected {
        let error = error(&results[place]);
        assert_eq!(
            (error.code, error.reason(), error.field.as_str()),
            (code.into(), reason, field)
        );
        assert!(!error.message.is_empty());
    }
    assert_eq!(error(&results[1]).provider_code, "10120800");
    assert_eq!(error(&results[5]).retry_delay.unwrap().seconds, 60);
    assert_eq!(fixture.asked(Provider::Haoka, "shipped").len(), 1);
}

#[tokio::test]
async fn a_batch_has_1_to_100_orders() {
    let fixture = Fixture::new().await;
    for count in [0, 101] {
        let failed =
            batch(&fixture, vec![order(Provider::Haoka, "shipped"); count]).await.unwrap_err();
        assert_eq!((failed.code, failed.field.as_deref()), (Code::InvalidArgument, Some("orders")));
        assert_eq!(failed.reason, "INVALID_REQUEST");
    }
    assert_eq!(fixture.sandbox.arrivals(), []);
    let results = batch(&fixture, vec![order(Provider::Haoka, "shipped"); 100]).await.unwrap();
    assert_eq!(results.len(), 100);
    assert_eq!(fixture.asked(Provider::Haoka, "shipped").len(), 1);
    let orders = (0..100).map(|n| order(Provider::Dingshang, &(18_000_000 + n).to_string()));
    let results = batch(&fixture, orders.collect()).await.unwrap();
    assert!(results.iter().all(|result| error(result).reason() == ErrorReason::OrderNotFound));
}

#[tokio::test]
async fn the_deadline_covers_the_batch_and_results_in_time_are_returned() {
    let fixture = Fixture::with(|accounts| {
        format!("{accounts}\n").replace("base_url", "timeout = \"1m\"\nbase_url")
    })
    .await;
    let orders = vec![order(Provider::Haoka, "shipped"), order(Provider::Dingshang, "9014")];
    let mut request = tonic::Request::new(BatchGetOrdersRequest { orders, ..Default::default() });
    request.metadata_mut().insert("grpc-timeout", "300m".parse().unwrap());
    let mut client = crate::support::bare_client(fixture.server.app.address);
    let results = client.batch_get_orders(request).await.unwrap().into_inner().results;
    assert!(matches!(results[0].result, Some(Outcome::Found(_))));
    assert_eq!(error(&results[1]).reason(), ErrorReason::DeadlineExceeded);
}

/// More than gRPC clients accept by default.
#[tokio::test]
async fn a_batch_response_over_4_mib_is_refused() {
    let vendor = Scripted::start().await;
    let server = Server::start(&format!(
        "[accounts.d]\nprovider = \"dingshang\"\nbase_url = \"http://{}\"\napp_id = \"d\"\n\
         app_secret = \"s\"\nmachine_no = \"16327129\"\nfreshness = \"1h\"\n",
        vendor.address
    ))
    .await;
    let record = r#"{"id":70,"product_id":121,"quantity":1,"price":"2.50","status":"WAITING_PICKED_UP","notify_sent":"0"}"#;
    let records = vec![record; 1000].join(",");
    vendor.answers(
        200,
        format!(
            r#"{{"code":0,"message":"ok","data":{{"order_id":54,"trade_id":"t","date":"2024-04-26","amount":"2.50","status":"SUCCESS","records":[{records}]}}}}"#
        ),
    );
    let batch = async |count| {
        let orders = vec![order(Provider::Dingshang, "54"); count];
        let request = BatchGetOrdersRequest { orders, ..Default::default() };
        let client = server.client.clone().max_decoding_message_size(usize::MAX);
        let answer = { client }.batch_get_orders(request).await;
        answer.map(|answer| answer.into_inner().results).map_err(|status| Failed::from(&status))
    };
    let results = batch(10).await.unwrap();
    assert!(results.iter().all(|result| matches!(result.result, Some(Outcome::Found(_)))));
    let failed = batch(100).await.unwrap_err();
    assert_eq!((failed.code, failed.field.as_deref()), (Code::InvalidArgument, Some("orders")));
    assert!(failed.message.contains("4 MiB"), "{}", failed.message);
}
