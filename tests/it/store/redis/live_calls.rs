//! The cost of one live answer in a shared store: how many scripts run in a real Redis, and how many
//! of them the caller waits for.

use std::sync::Arc;
use std::time::Duration;

use order_query::clock::SystemClock;
use order_query::pb::order_service_client::OrderServiceClient;
use order_query::pb::{GetOrderRequest, Provider, Source};

use crate::support::child::Serving;
use crate::support::redis_server::RedisServer;
use crate::support::{connect, question, sandbox_at};

/// How many scripts the server has run.
fn scripts(redis: &RedisServer) -> u64 {
    let stats: String = redis.say(&["INFO", "commandstats"]);
    let calls = |command: &str| -> u64 {
        let line = stats.lines().find_map(|line| line.strip_prefix(command)).unwrap_or("calls=0,");
        line.split("calls=").nth(1).unwrap().split(',').next().unwrap().parse().unwrap()
    };
    // A script that the server has not cached is sent in full after one attempt.
    calls("cmdstat_evalsha:") + calls("cmdstat_eval:")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_answer_costs_three_scripts_with_or_without_limits() {
    let sandbox = sandbox_at(Arc::new(SystemClock)).await;
    for (provider, ids, limits) in [
        (Provider::Haoka, ["shipped", "pending", "submitted"], "limits"),
        (Provider::Dingshang, ["54", "101", "106"], "no limits"),
    ] {
        let redis = RedisServer::start();
        let config = format!("store.url = \"{}\"\n{}", redis.url(), sandbox.accounts());
        let server = Serving::start(&config);
        let mut client = OrderServiceClient::new(connect(server.address).await);
        let mut live = async || {
            for id in ids {
                let max_age = Some(Duration::ZERO.try_into().unwrap());
                let request = GetOrderRequest { max_age, ..question(provider, id) };
                let answer = client.get_order(request).await.unwrap().into_inner();
                assert_eq!(answer.source(), Source::Live);
            }
        };
        // From here on the server has cached the scripts.
        live().await;
        let before = scripts(&redis);
        live().await;
        live().await;
        // A beat of the fence may be among them.
        assert_eq!((scripts(&redis) - before) / (2 * 3), 3, "{limits}");
    }
}
