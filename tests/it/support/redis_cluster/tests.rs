//! What the tests of the shared store rely on.

use super::{Failover, Layout, RedisCluster};

/// The error of a command that is refused.
fn refused(cluster: &RedisCluster, node: usize, words: &[&str]) -> String {
    cluster.ask(node, words).expect_err("refused").code().unwrap_or_default().to_owned()
}

/// The node that has a key, and another primary.
fn both(cluster: &RedisCluster, key: &str) -> (usize, usize) {
    let slot = cluster.slot_of(key);
    (cluster.primary_of(slot), cluster.other_than(slot))
}

#[tokio::test]
async fn each_primary_has_its_slots_and_its_copy() {
    let cluster = RedisCluster::start().await;
    for primary in 0..3 {
        assert!(cluster.is_primary(primary) && !cluster.is_primary(primary + 3));
        assert_eq!(cluster.copies_of(primary), [primary + 3]);
    }
    assert_eq!([0, 5461, 16383].map(|slot| cluster.primary_of(slot)), [0, 1, 2]);
    let url = cluster.url();
    assert!((0..6).all(|node| url.contains(&cluster.address(node))), "{url}");
    let (owner, other) = both(&cluster, "a");
    let () = cluster.say(owner, &["SET", "a", "1"]);
    assert_eq!(refused(&cluster, other, &["SET", "a", "2"]), "MOVED");
    cluster.wait_copied().await;
    assert_eq!(cluster.say::<u64>(owner + 3, &["DBSIZE"]), 1);
    cluster.clear();
    cluster.wait_copied().await;
    assert!((0..6).all(|node| cluster.say::<u64>(node, &["DBSIZE"]) == 0));
}

#[tokio::test]
async fn the_stores_user_finds_the_nodes() {
    let cluster = RedisCluster::start_as(Layout { copies: 0, ..Layout::default() }).await;
    let url = format!("redis://order-query:least@{}", cluster.address(0));
    let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
    let slots = redis::cmd("CLUSTER").arg("SLOTS").clone();
    slots.exec(&mut connection).unwrap();
    cluster.set_rights(&["-@all"]);
    assert!(slots.exec(&mut connection).is_err());
}

#[tokio::test]
async fn a_killed_primary_is_replaced_by_its_copy() {
    let mut cluster = RedisCluster::start().await;
    let key = cluster.slot_of("a");
    let dead = cluster.primary_of(key);
    let () = cluster.say(dead, &["SET", "a", "1"]);
    cluster.wait_copied().await;
    cluster.kill(dead);
    cluster.wait_promoted(dead + 3).await;
    cluster.wait_whole().await;
    assert_eq!(cluster.primary_of(key), dead + 3);
    assert_eq!(cluster.say::<String>(dead + 3, &["GET", "a"]), "1");
    // It comes back as a copy.
    cluster.restart(dead);
    cluster.wait_whole().await;
    assert_eq!(cluster.copies_of(dead + 3), [dead]);
}

#[tokio::test]
async fn a_primary_that_restarts_at_once_is_empty() {
    let mut cluster = RedisCluster::start().await;
    let (owner, _) = both(&cluster, "a");
    let () = cluster.say(owner, &["SET", "a", "1"]);
    cluster.wait_copied().await;
    // Nobody may replace it.
    cluster.freeze(owner + 3);
    cluster.kill(owner);
    cluster.restart(owner);
    cluster.thaw(owner + 3);
    cluster.wait_whole().await;
    assert!(cluster.is_primary(owner));
    assert_eq!(cluster.say::<Option<String>>(owner, &["GET", "a"]), None);
}

#[tokio::test]
async fn a_frozen_primary_is_replaced_and_wakes_up_as_a_copy() {
    let mut cluster = RedisCluster::start().await;
    cluster.freeze(0);
    cluster.wait_promoted(3).await;
    cluster.thaw(0);
    cluster.wait_whole().await;
    assert_eq!(cluster.copies_of(3), [0]);
}

#[tokio::test]
async fn a_copy_becomes_the_primary_on_command() {
    let cluster = RedisCluster::start().await;
    for (copy, how) in [(3, Failover::Agreed), (4, Failover::Force), (5, Failover::Takeover)] {
        cluster.failover(copy, how).await;
        cluster.wait_whole().await;
        assert_eq!(cluster.copies_of(copy), [copy - 3]);
    }
}

#[tokio::test]
async fn a_moved_slot_is_served_elsewhere() {
    let cluster = RedisCluster::start().await;
    let slot = cluster.slot_of("{a}1");
    let (from, to) = both(&cluster, "{a}1");
    for key in ["{a}1", "{a}2"] {
        let () = cluster.say(from, &["SET", key, "1"]);
    }
    cluster.move_slot(slot, to).await;
    assert_eq!(cluster.primary_of(slot), to);
    assert_eq!(cluster.say::<u64>(to, &["EXISTS", "{a}1", "{a}2"]), 2);
    assert_eq!(refused(&cluster, from, &["GET", "{a}1"]), "MOVED");
    cluster.wait_whole().await;
}

#[tokio::test]
async fn a_slot_that_moves_is_half_at_each_primary() {
    let cluster = RedisCluster::start_as(Layout { copies: 0, ..Layout::default() }).await;
    let slot = cluster.slot_of("{a}1");
    let (from, to) = both(&cluster, "{a}1");
    for key in ["{a}1", "{a}2"] {
        let () = cluster.say(from, &["SET", key, "1"]);
    }
    cluster.open_slot(slot, to);
    cluster.move_keys(slot, to, &["{a}1"]);
    assert_eq!(refused(&cluster, from, &["GET", "{a}1"]), "ASK");
    assert_eq!(refused(&cluster, from, &["MGET", "{a}1", "{a}2"]), "TRYAGAIN");
    assert_eq!(cluster.say::<String>(from, &["GET", "{a}2"]), "1");
    assert_eq!(refused(&cluster, to, &["GET", "{a}1"]), "MOVED", "without ASKING");
    assert_eq!(cluster.keys_in(slot), ["{a}2"]);
    // It may stay so, or go on.
    cluster.abandon_slot(slot, to);
    assert_eq!(cluster.say::<Option<String>>(from, &["GET", "{a}1"]), None);
    cluster.move_slot(slot, to).await;
    assert_eq!(cluster.say::<String>(to, &["GET", "{a}2"]), "1");
}

#[tokio::test]
async fn a_lost_slot_closes_the_cluster_only_with_full_coverage() {
    for full_coverage in [true, false] {
        let layout = Layout { copies: 0, full_coverage, ..Layout::default() };
        let mut cluster = RedisCluster::start_as(layout).await;
        let (owner, _) = both(&cluster, "a");
        let lost = (owner + 1) % 3;
        cluster.kill(lost);
        cluster.wait_lost(lost).await;
        let answer = cluster.ask(owner, &["GET", "a"]);
        assert_eq!(answer.is_err(), full_coverage, "{answer:?}");
    }
}
