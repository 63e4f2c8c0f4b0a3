//! Data stored by version 0.1.0, in a file and in Redis, is still read. See
//! `tests/stored/README.md` for how it was written.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use order_query::clock::{Clock as _, ManualClock};
use order_query::pb::OrderStatus;
use order_query::store::{File, Reservation, Store};

use super::{Call, call};
use crate::support::CACHE_BYTES;
use crate::support::redis_server::RedisServer;

const HAOKA: &str = "[\"haoka\",\"http://127.0.0.1:7602/ sandbox-agent\"";
const WECHAT: &str = "[\"wechat\",\"http://127.0.0.1:7600/ wxfeed5a0db0c00001\"";
const TOKEN: &str = "http://127.0.0.1:7600/ wxfeed5a0db0c00001 Stable";

fn fixture(name: &str) -> PathBuf {
    ["tests/stored/0.1.0", name].iter().collect()
}

/// Shortly after both were written.
fn clock() -> ManualClock {
    ManualClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_934_598))
}

/// The complete content of both.
async fn assert_read(store: &dyn Store, clock: &ManualClock) {
    for (account, id, status, terminal) in [
        (HAOKA, "settled", OrderStatus::Settled, true),
        (HAOKA, "shipped", OrderStatus::Shipped, false),
        (WECHAT, "status-2", OrderStatus::Paid, false),
    ] {
        let order = format!("{account},\"{id}\",\"\"]");
        let day = format!("{order} day").into();
        let known = store.get(&order.into(), Some(&day)).await.unwrap().unwrap();
        let state = known.state.unwrap();
        assert_eq!((state.id.as_str(), state.status(), state.terminal), (id, status, terminal));
        assert_eq!(known.spent.len(), usize::from(account == HAOKA), "{id}");
        for free_at in known.spent {
            let left = free_at.duration_since(clock.now()).unwrap();
            assert!(
                left > Duration::from_hours(23) && left <= Duration::from_hours(24),
                "{left:?}"
            );
        }
    }
    let minute = format!("{HAOKA}] minute").into();
    assert_eq!(store.spent(&minute).await.unwrap().len(), 3);
    let next = Call { account: format!("{HAOKA}]").into(), ..call("next", &[]) };
    let paused = store.reserve(&next).await.unwrap();
    let Reservation::Paused(wait) = paused else { panic!("{paused:?}, not paused") };
    assert!(wait > Duration::from_secs(50) && wait <= Duration::from_mins(1), "{wait:?}");
    clock.advance(wait);
    assert_eq!(store.reserve(&next).await.unwrap(), Reservation::Reserved);
    let token = store.load(TOKEN).await.unwrap().unwrap();
    assert!(token.renew_at > clock.now() + Duration::from_hours(1));
}

#[tokio::test]
async fn a_file_of_version_0_1_0_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.redb");
    fs::copy(fixture("orders.redb"), &path).unwrap();
    let clock = clock();
    let store = File::open(&path, CACHE_BYTES, Arc::new(clock.clone())).unwrap();
    assert_read(&store, &clock).await;
}

#[tokio::test]
async fn keys_of_version_0_1_0_in_redis_are_read() {
    let server = RedisServer::start();
    let dump = fs::read_to_string(fixture("redis.dump")).unwrap();
    for line in dump.lines() {
        let (key, value) = line.split_once('\t').unwrap();
        let value: Vec<u8> = (0..value.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&value[at..at + 2], 16).unwrap())
            .collect();
        server.restore(key, &value);
    }
    let clock = clock();
    let time = Arc::new(clock.clone());
    let store = server.store_at(time.clone()).timed_by(time);
    assert_read(&store, &clock).await;
}
