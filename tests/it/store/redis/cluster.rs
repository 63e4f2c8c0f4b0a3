//! The shared store in a Redis Cluster.

mod losses;
mod parts;
mod words;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use order_query::clock::{Clock as _, ManualClock, SystemClock};
use order_query::store::{Redis, Store};
use tokio::time::Instant;

use crate::store::Fixture;
use crate::store::redis::faults::{assert_all_work, once_open};
use crate::store::redis::shared::call;
use crate::support::redis_cluster::RedisCluster;
use crate::support::{CACHE_BYTES, manual_clock};

/// A cluster that several checks use in turn, and the stores that they have opened.
#[derive(Clone)]
struct Shared {
    cluster: Arc<RedisCluster>,
    opened: Arc<Mutex<Vec<Arc<Redis>>>>,
}

tokio::task_local! {
    static SHARED: Shared;
}

/// Runs checks that use one cluster in turn.
pub async fn with_one(checks: impl Future<Output = ()>) {
    let cluster = Arc::new(RedisCluster::start().await);
    SHARED.scope(Shared { cluster, opened: Arc::default() }, checks).await;
}

/// A store in the cluster of [`with_one`].
pub struct ClusterStore {
    clock: ManualClock,
    store: Arc<Redis>,
}

impl ClusterStore {
    async fn open(clock: ManualClock) -> Self {
        let Shared { cluster, opened } = SHARED.get();
        // A membership that goes on would be in the way.
        let before = std::mem::take(&mut *opened.lock().unwrap());
        for store in before {
            store.close().await;
        }
        let time = || Arc::new(clock.clone());
        let store = Redis::open(&cluster.url(), CACHE_BYTES, time()).unwrap().timed_by(time());
        let store = Arc::new(store);
        opened.lock().unwrap().push(Arc::clone(&store));
        Self { clock, store }
    }
}

impl Fixture for ClusterStore {
    const SLACK: Duration = Duration::ZERO;

    async fn start() -> Self {
        let fixture = Self::open(manual_clock()).await;
        SHARED.get().cluster.clear();
        fixture
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// Another replica replaces it.
    async fn restart(self) -> Self {
        Self::open(self.clock).await
    }

    async fn restart_earlier(self, by: Duration) -> Self {
        Self::open(ManualClock::new(self.clock.now() - by)).await
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
