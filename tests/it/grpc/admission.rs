//! More calls than permits, on the real binary: excess calls are shed at once, and the others and
//! the probes are unaffected.

use std::sync::Arc;

use futures_util::future::join_all;
use order_query::pb::{
    BatchGetOrdersRequest, GetOrderResponse, OrderRef, Provider, Source, WatchOrderRequest,
    WatchOrderResponse,
};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::{Code, Request, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::child::{PATIENCE, Serving};
use crate::support::played::{Played, answer};
use crate::support::{Failed, bare_client, connect, question};

/// A vendor that answers when the test permits it, and a server that calls it.
struct Held {
    vendor: Played,
    gate: Arc<Semaphore>,
    server: Serving,
}

impl Held {
    async fn start(limits: &str) -> Self {
        let gate = Arc::new(Semaphore::new(0));
        let opened = Arc::clone(&gate);
        let vendor = Played::start(move |_| {
            let gate = Arc::clone(&opened);
            async move {
                gate.acquire().await.unwrap().forget();
                answer(200, r#"{"code":0,"data":{"orderNo":"1","orderStatus":"已发货"}}"#)
            }
        })
        .await;
        let config = format!(
            "{limits}\n[accounts.cards]\nprovider = \"haoka\"\nbase_url = \"{}\"\n\
             timeout = \"1m\"\nuser_id = \"agent\"\nsecret = \"s\"\n",
            vendor.url()
        );
        Self { vendor, gate, server: Serving::start(&config) }
    }

    /// Starts a call for an order.
    fn ask(
        &self,
        id: &str,
        grpc_timeout: Option<&str>,
    ) -> impl Future<Output = Result<GetOrderResponse, Failed>> + Send + 'static {
        let mut request = Request::new(question(Provider::Haoka, id));
        if let Some(text) = grpc_timeout {
            request.metadata_mut().insert("grpc-timeout", text.parse().unwrap());
        }
        let mut client = bare_client(self.server.address);
        async move {
            let answer = timeout(PATIENCE, client.get_order(request)).await.unwrap();
            answer.map(tonic::Response::into_inner).map_err(|status| Failed::from(&status))
        }
    }

    /// Waits until a call is admitted again: one that ends at once.
    async fn until_admitted(&self) {
        let let_in =
            async { while self.ask("a/b", None).await.unwrap_err().reason != "INVALID_REQUEST" {} };
        timeout(PATIENCE, let_in).await.unwrap();
    }

    async fn watch(&self, id: &str) -> Result<Streaming<WatchOrderResponse>, Failed> {
        let order = Some(order(id));
        let answer = bare_client(self.server.address)
            .watch_order(WatchOrderRequest { order, ..Default::default() })
            .await;
        answer.map(tonic::Response::into_inner).map_err(|status| Failed::from(&status))
    }

    async fn batch(&self, orders: Vec<OrderRef>) -> Result<usize, Failed> {
        let request = BatchGetOrdersRequest { orders, ..Default::default() };
        let answer = bare_client(self.server.address).batch_get_orders(request).await;
        answer
            .map(|answer| answer.into_inner().results.len())
            .map_err(|status| Failed::from(&status))
    }

    /// Both listeners report that the server is serving.
    async fn assert_serving(&self) {
        for address in [self.server.address, self.server.admin_address] {
            for service in ["", "readiness", "liveness", "account/cards"] {
                let mut health = HealthClient::new(connect(address).await);
                let request = HealthCheckRequest { service: service.to_owned() };
                let told = timeout(PATIENCE, health.check(request)).await.unwrap().unwrap();
                assert_eq!(told.into_inner().status(), ServingStatus::Serving, "{service}");
            }
        }
    }
}

fn order(id: &str) -> OrderRef {
    OrderRef { provider: Provider::Haoka.into(), id: id.to_owned(), ..OrderRef::default() }
}

#[track_caller]
fn assert_overloaded(failed: &Failed) {
    assert_eq!(failed.code, Code::ResourceExhausted, "{failed:?}");
    assert_eq!(failed.reason, "SERVER_OVERLOADED");
    assert_eq!(failed.domain, "orderquery");
    assert_eq!(failed.retry_delay, Some(std::time::Duration::from_secs(1)));
    assert_eq!(failed.pushback.as_deref(), Some("1000"));
    assert!(failed.metadata.is_empty(), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_triple_load_two_thirds_are_shed_and_the_rest_are_unaffected() {
    let held = Held::start("server.max_in_flight = 10").await;
    let mut calls = JoinSet::new();
    for call in 0..30 {
        calls.spawn(held.ask(&format!("order-{call}"), None));
    }
    for _ in 0..20 {
        assert_overloaded(&calls.join_next().await.unwrap().unwrap().unwrap_err());
    }
    held.vendor.until_asked(10).await;
    held.assert_serving().await;
    assert_overloaded(&held.ask("one-more", Some("1S")).await.unwrap_err());
    held.gate.add_permits(10);
    for answered in calls.join_all().await {
        assert_eq!(answered.unwrap().source(), Source::Live);
    }
    assert_eq!(held.vendor.asked().len(), 10, "nothing was sent for the others");
    held.gate.add_permits(1);
    held.ask("one-more", None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_releases_its_permit_however_it_ends() {
    let held = Held::start("server.max_in_flight = 1").await;
    // At its deadline, while the vendor has not answered.
    let failed = held.ask("late", Some("50m")).await.unwrap_err();
    assert_eq!(failed.code, Code::DeadlineExceeded);
    assert_eq!(held.ask("a/b", None).await.unwrap_err().reason, "INVALID_REQUEST");
    // When its caller leaves.
    let gone = tokio::spawn(held.ask("gone", None));
    held.vendor.until_asked(2).await;
    assert_overloaded(&held.ask("a/b", None).await.unwrap_err());
    gone.abort();
    held.until_admitted().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_have_their_own_permits() {
    let held = Held::start("server.max_in_flight = 1\nserver.max_watches = 2").await;
    held.gate.add_permits(100);
    let mut watches = Vec::new();
    for id in ["one", "two"] {
        let mut watch = held.watch(id).await.unwrap();
        assert!(next(&mut watch).await.is_ok());
        watches.push(watch);
    }
    assert_overloaded(&held.watch("three").await.unwrap_err());
    assert_eq!(held.vendor.asked().len(), 2);
    // The two limits are independent, and health watches count against neither.
    held.ask("four", None).await.unwrap();
    held.assert_serving().await;
    // A watcher that leaves frees its permit, and so does a watch that ends.
    drop(watches.pop());
    let mut third = loop {
        match held.watch("a/b").await.unwrap_err() {
            failed if failed.reason == "INVALID_REQUEST" => break held.watch("three").await,
            failed => assert_overloaded(&failed),
        }
    };
    assert!(next(third.as_mut().unwrap()).await.is_ok());
    assert_overloaded(&held.watch("four").await.unwrap_err());
}

async fn next(watch: &mut Streaming<WatchOrderResponse>) -> Result<WatchOrderResponse, Status> {
    let told = timeout(PATIENCE, watch.message()).await.unwrap()?;
    Ok(told.expect("the stream goes on"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_takes_a_permit_for_each_distinct_order() {
    let held = Held::start("server.max_in_flight = 3").await;
    let hanging = tokio::spawn(held.ask("hangs", None));
    held.vendor.until_asked(1).await;
    let orders = |ids: &[&str]| ids.iter().map(|id| order(id)).collect::<Vec<_>>();
    assert_overloaded(&held.batch(orders(&["a/1", "a/2", "a/3"])).await.unwrap_err());
    assert_eq!(held.batch(orders(&["a/1", "a/2", "a/1", "a/2"])).await, Ok(4));
    assert_eq!(held.vendor.asked().len(), 1);
    held.gate.add_permits(1);
    hanging.await.unwrap().unwrap();
    // A batch larger than the limit takes all permits.
    let many: Vec<_> = (0..100).map(|number| order(&format!("a/{number}"))).collect();
    assert_eq!(held.batch(many).await, Ok(100));
    let all = ["order-1", "order-2", "order-3", "order-4"];
    let batch = held.batch(orders(&all));
    let meanwhile = async {
        held.vendor.until_asked(5).await;
        assert_overloaded(&held.ask("a/b", None).await.unwrap_err());
        held.gate.add_permits(4);
    };
    let (answered, ()) = tokio::join!(batch, meanwhile);
    assert_eq!(answered, Ok(4));
    let after = all.map(|id| held.ask(id, None));
    for answer in join_all(after.into_iter().take(3)).await {
        assert_eq!(answer.unwrap().source(), Source::Cache);
    }
}

/// A server with an account at the hanging vendor and another at a responsive one.
async fn beside_another(limits: &str, own: &str) -> (Held, Played) {
    let other = Played::start(move |_| async move {
        answer(200, r#"{"code":0,"data":{"orderNo":"1","orderStatus":"已发货"}}"#)
    })
    .await;
    let mut held = Held::start("server.max_in_flight = 100").await;
    let config = format!(
        "{limits}\n[accounts.cards]\nprovider = \"haoka\"\nbase_url = \"{}\"\ndefault = true\n\
         timeout = \"1m\"\nuser_id = \"agent\"\nsecret = \"s\"\n{own}\n\
         [accounts.other]\nprovider = \"haoka\"\nbase_url = \"{}\"\nuser_id = \"o\"\nsecret = \"s\"\n",
        held.vendor.url(),
        other.url()
    );
    held.server = Serving::start(&config);
    (held, other)
}

/// The result of a call to the other vendor.
async fn ask_other(server: &Serving) -> Result<(), Failed> {
    let question = order_query::pb::GetOrderRequest {
        account: "other".to_owned(),
        ..question(Provider::Haoka, "A1")
    };
    let answer = timeout(PATIENCE, bare_client(server.address).get_order(question)).await.unwrap();
    answer.map(drop).map_err(|status| Failed::from(&status))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_account_takes_no_more_than_its_share_of_the_permits() {
    for (own, share) in [("", 2), ("max_in_flight = 3", 3), ("max_in_flight = 1", 1)] {
        let (held, _other) = beside_another("server.max_in_flight = 4", own).await;
        let mut calls = JoinSet::new();
        for call in 0..share {
            calls.spawn(held.ask(&format!("order-{call}"), None));
        }
        held.vendor.until_asked(share).await;
        let refused = held.ask("one-more", None).await.unwrap_err();
        assert_eq!(refused.reason, "PROVIDER_UNAVAILABLE", "{own}");
        assert_eq!(refused.retry_delay, Some(std::time::Duration::from_secs(1)), "{own}");
        ask_other(&held.server).await.unwrap();
        held.assert_serving().await;
        held.gate.add_permits(share + 1);
        for answered in calls.join_all().await {
            assert_eq!(answered.unwrap().source(), Source::Live, "{own}");
        }
        held.ask("one-more", None).await.unwrap();
        // A cached answer needs no permit.
        assert_eq!(held.ask("order-0", None).await.unwrap().source(), Source::Cache);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_client_takes_no_more_than_its_own_permits() {
    const SMALL: &str = "token-of-the-small-one";
    const OTHER: &str = "token-of-the-other-one";
    let clients = format!(
        "server.max_in_flight = 10\nclients.small = {{ token = \"{SMALL}\", max_in_flight = 2 }}\n\
         clients.other.token = \"{OTHER}\""
    );
    let (held, _vendor) = beside_another(&clients, "").await;
    let ask = |token: &str, id: &str| {
        let mut request = Request::new(question(Provider::Haoka, id));
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        let mut client = bare_client(held.server.address);
        async move {
            let answer = timeout(PATIENCE, client.get_order(request)).await.unwrap();
            answer.map(tonic::Response::into_inner).map_err(|status| Failed::from(&status))
        }
    };
    let mut calls = JoinSet::new();
    for id in ["A1", "A2"] {
        calls.spawn(ask(SMALL, id));
    }
    held.vendor.until_asked(2).await;
    assert_overloaded(&ask(SMALL, "A3").await.unwrap_err());
    calls.spawn(ask(OTHER, "A3"));
    held.vendor.until_asked(3).await;
    held.gate.add_permits(4);
    for answered in calls.join_all().await {
        answered.unwrap();
    }
    ask(SMALL, "A4").await.unwrap();
}
