//! The shared store in a Redis Cluster.

mod losses;
mod parts;
mod words;

use std::sync::Arc;
use std::time::Duration;

use order_query::clock::{Clock as _, ManualClock, SystemClock};
use order_query::store::{Redis, Store};
use tokio::time::Instant;

use crate::store::Fixture;
use crate::store::redis::faults::{assert_all_work, once_open};
use crate::store::redis::shared::call;
use crate::support::redis_cluster::RedisCluster;
use crate::support::{CACHE_BYTES, manual_clock};

tokio::task_local! {
    static CLUSTER: Arc<RedisCluster>;
}

/// Runs checks that use one cluster in turn.
pub async fn with_one(checks: impl Future<Output = ()>) {
    let cluster = Arc::new(RedisCluster::start().await);
    CLUSTER.scope(cluster, checks).await;
}

/// A store in the cluster of [`with_one`].
pub struct ClusterStore {
    clock: ManualClock,
    cluster: Arc<RedisCluster>,
    store: Arc<Redis>,
}

impl ClusterStore {
    fn open(cluster: Arc<RedisCluster>, clock: ManualClock) -> Self {
        let time = || Arc::new(clock.clone());
        let store = Redis::open(&cluster.url(), CACHE_BYTES, time()).unwrap().timed_by(time());
        Self { clock, cluster, store: Arc::new(store) }
    }
}

impl Fixture for ClusterStore {
    const SLACK: Duration = Duration::ZERO;

    async fn start() -> Self {
        let cluster = CLUSTER.get();
        cluster.clear();
        Self::open(cluster, manual_clock())
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// Another replica replaces it.
    async fn restart(self) -> Self {
        Self::open(self.cluster, self.clock)
    }

    async fn restart_earlier(self, by: Duration) -> Self {
        Self::open(self.cluster, ManualClock::new(self.clock.now() - by))
    }
}

fn open(cluster: &RedisCluster) -> Redis {
    Redis::open(&cluster.url(), CACHE_BYTES, Arc::new(SystemClock)).unwrap()
}

#[tokio::test]
async fn a_call_is_reserved_in_a_cluster() {
    let cluster = RedisCluster::start().await;
    let store = open(&cluster);
    // The first replica of an empty cluster waits for nobody: else it takes as long as a membership.
    let begun = Instant::now();
    once_open(&store, &call("1", "minute", 9)).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_all_work(&store, "1").await;
}
