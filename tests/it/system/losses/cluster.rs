//! The same in a Redis Cluster, where one node loses what it knows, and the others do not.

use std::time::Duration;

use tokio::time::Instant;

use super::{BACK, Fixture, LIMIT};
use crate::support::redis_cluster::RedisCluster;

/// The windows of the account.
const WINDOWS: &str = "order-query:{a:*}:slots:*";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_primary_of_a_cluster_with_a_lost_tail_admits_no_call_too_many() {
    let mut cluster = RedisCluster::start().await;
    let fixture = Fixture::new(&cluster.url()).await;
    let primary = cluster.owner_of(WINDOWS);
    cluster.wait_copied().await;
    let copies = cluster.stall_copies(primary);
    fixture.calls("lost", 7).await;
    assert_eq!(fixture.arrivals(), LIMIT / 2);
    let kill = async {
        tokio::time::sleep(Duration::from_millis(15)).await;
        cluster.kill(primary);
        for copy in &copies {
            cluster.thaw(*copy);
        }
    };
    tokio::join!(fixture.calls("load", 60), kill);
    let killed = Instant::now();
    fixture.calls("rest", 40).await;
    assert!(killed.elapsed() < BACK);
    // A call that the primary may have reserved when it died is not sent, and counts.
    let arrivals = fixture.arrivals();
    assert!((LIMIT / 2..=LIMIT).contains(&arrivals), "{arrivals}");
    assert_eq!(cluster.owner_of(WINDOWS), copies[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_of_one_primary_of_a_cluster_at_full_admits_no_call_too_many() {
    let cluster = RedisCluster::start().await;
    let fixture = Fixture::new(&cluster.url()).await;
    fixture.calls("full", 40).await;
    assert_eq!(fixture.arrivals(), LIMIT);
    for primary in [cluster.owner_of(WINDOWS), cluster.owner_of("order-query:{fence}")] {
        let () = cluster.say(primary, &["FLUSHALL"]);
        fixture.calls("more", 40).await;
        assert_eq!(fixture.arrivals(), LIMIT);
    }
}
