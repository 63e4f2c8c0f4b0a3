//! A Redis server that refuses the store's commands: the real binary is not ready until it accepts
//! them, and its log (once) and `check --live` report why. Also: which rights are needed.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use order_query::store::Store as _;
use serde_json::Value;

use crate::store::redis::faults::assert_all_work;
use crate::support::CACHE_BYTES;
use crate::support::child::{Ended, Serving, run, write};
use crate::support::redis_server::{RedisServer, rights};

/// What an operator does to a server.
type Words = &'static [&'static [&'static str]];

/// A server that refuses.
struct Case {
    /// The code of its error.
    word: &'static str,
    /// The log's message about it.
    message: &'static str,
    spoil: Words,
    /// How to fix it, where a running server can be fixed.
    mend: Option<Words>,
}

const REFUSES: &str = "the shared store refuses commands";
const NOT_CONNECTED: &str = "the shared store is not connected";

const CASES: &[Case] = &[
    Case {
        word: "NOPERM",
        message: REFUSES,
        spoil: &[&["ACL", "SETUSER", "order-query", "-zadd"]],
        mend: Some(&[&["ACL", "SETUSER", "order-query", "+zadd"]]),
    },
    Case {
        word: "READONLY",
        message: REFUSES,
        spoil: &[&["REPLICAOF", "127.0.0.1", "1"]],
        mend: Some(&[&["REPLICAOF", "NO", "ONE"]]),
    },
    Case {
        word: "NOREPLICAS",
        message: REFUSES,
        spoil: &[&["CONFIG", "SET", "min-replicas-to-write", "1"]],
        mend: Some(&[&["CONFIG", "SET", "min-replicas-to-write", "0"]]),
    },
    Case {
        word: "OOM",
        message: REFUSES,
        spoil: &[&["CONFIG", "SET", "maxmemory", "1"]],
        mend: Some(&[&["CONFIG", "SET", "maxmemory", "0"]]),
    },
    Case {
        word: "MASTERDOWN",
        message: REFUSES,
        spoil: &[
            &["CONFIG", "SET", "replica-serve-stale-data", "no"],
            &["REPLICAOF", "127.0.0.1", "1"],
        ],
        mend: Some(&[&["REPLICAOF", "NO", "ONE"]]),
    },
    Case {
        word: "WRONGPASS",
        message: NOT_CONNECTED,
        spoil: &[&["ACL", "SETUSER", "order-query", "resetpass", ">another"]],
        mend: Some(&[&["ACL", "SETUSER", "order-query", ">least"]]),
    },
];

/// A store in that server, and an account that is not used.
fn config(url: &str) -> String {
    format!(
        "store.url = \"{url}\"\n[accounts.cards]\nprovider = \"haoka\"\nuser_id = \"agent\"\n\
         secret = \"hunter2\"\nbase_url = \"http://127.0.0.1:1\"\n"
    )
}

fn is_ready(server: &Serving) -> bool {
    let endpoint = format!("http://{}", server.admin_address);
    run(["health", "--endpoint", &endpoint]).code == Some(0)
}

/// The server waits, and its log and `check --live` report why.
fn refused(url: &str, word: &str, message: &str) -> Serving {
    let config = config(url);
    let mut server = Serving::start(&config);
    let line = server.child.err.ever(message);
    let line: Value = serde_json::from_str(&line).unwrap();
    let why = line["why"].as_str().unwrap();
    assert!(why == word || why == format!("cannot be reached: {word}"), "{line}");
    assert_eq!(line["level"], "WARN", "{line}");
    let advice = line["advice"].as_str().expect("what to do");
    assert!(!is_ready(&server), "{word}");

    let directory = tempfile::tempdir().unwrap();
    let checked = run(["check", "--live", "--config", &write(&directory, &config)]);
    assert_eq!(checked.code, Some(1), "{checked:?}");
    let line =
        checked.out.lines().find(|line| line.starts_with("failed: store.url: cannot be used ("));
    let line = line.unwrap_or_else(|| panic!("{word}: {checked:?}"));
    assert!(line.contains(word) && line.ends_with(&format!("; {advice}")), "{line}");
    server
}

/// It was logged once, and without a password.
#[track_caller]
fn assert_logged_once(ended: &Ended, word: &str, message: &str) {
    let said = ended.err.lines().filter(|line| line.contains(message));
    assert_eq!(said.filter(|line| line.contains(word)).count(), 1, "{}", ended.err);
    for secret in ["least", "hunter2", "another"] {
        assert!(!ended.err.contains(&format!("{secret}@")), "{}", ended.err);
        assert!(!ended.err.contains(&format!(">{secret}")), "{}", ended.err);
    }
}

fn until(mut so: impl FnMut() -> bool, what: &str) {
    for _ in 0..600 {
        if so() {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("never: {what}");
}

/// The server is not ready until Redis is fixed, and then it is.
fn recovers(mut server: Serving, word: &str, message: &str, mend: impl FnOnce()) {
    mend();
    until(|| is_ready(&server), word);
    let again = "the shared store accepts commands again";
    if message == REFUSES {
        server.child.err.ever(again);
    }
    let ended = server.stop();
    assert_logged_once(&ended, word, message);
    assert_eq!(ended.err.contains(again), message == REFUSES, "{}", ended.err);
}

#[test]
fn a_refusing_server_is_retried_and_reported_once() {
    let play = |case: &Case| {
        let redis = RedisServer::start();
        let say =
            |words: Words| words.iter().for_each(|words| drop(redis.say::<redis::Value>(words)));
        say(case.spoil);
        let server = refused(&redis.url(), case.word, case.message);
        if let Some(mend) = case.mend {
            recovers(server, case.word, case.message, || say(mend));
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = CASES.iter().map(|case| scope.spawn(move || play(case))).collect();
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_server_that_cannot_save_is_reported() {
    let redis = RedisServer::start();
    let _: redis::Value = redis.say(&["CONFIG", "SET", "save", "3600 100000"]);
    redis.remove_directory();
    let _ = redis.try_say(&["BGSAVE"]);
    let failed =
        || redis.say::<String>(&["INFO", "persistence"]).contains("rdb_last_bgsave_status:err");
    until(failed, "the save fails");
    let server = refused(&redis.url(), "MISCONF", REFUSES);
    recovers(server, "MISCONF", REFUSES, || {
        let _: redis::Value = redis.say(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]);
    });
}

#[test]
fn a_url_without_credentials_is_reported() {
    let redis = RedisServer::start();
    let _: redis::Value = redis.say(&["CONFIG", "SET", "requirepass", "hunter2"]);
    // With a database to select, the first error is that of the connection.
    for (database, message) in [(0, REFUSES), (1, NOT_CONNECTED)] {
        let url = format!("redis://127.0.0.1:{}/{database}", redis.port);
        let ended = refused(&url, "NOAUTH", message).stop();
        assert_logged_once(&ended, "NOAUTH", message);
    }
}

#[test]
fn a_cluster_node_is_reported() {
    let redis = RedisServer::start_cluster_node();
    let ended = refused(&redis.url(), "CLUSTERDOWN", REFUSES).stop();
    assert_logged_once(&ended, "CLUSTERDOWN", REFUSES);
    // A node with all slots is refused too: related keys would be in different slots.
    let _: redis::Value = redis.say(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    let is_up = || redis.say::<String>(&["CLUSTER", "INFO"]).contains("cluster_state:ok");
    until(is_up, "the cluster is up");
    let ended = refused(&redis.url(), "CROSSSLOT", REFUSES).stop();
    assert_logged_once(&ended, "CROSSSLOT", REFUSES);
}

/// What a server replies to every command while it loads its data.
#[test]
fn a_loading_server_is_reported() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut answers = stream.try_clone().unwrap();
                // A command is one array, prefixed with its length.
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let loading = b"-LOADING Redis is loading the dataset in memory\r\n";
                    if line.starts_with('*') && answers.write_all(loading).is_err() {
                        return;
                    }
                }
            });
        }
    });
    for (database, message) in [(0, REFUSES), (1, NOT_CONNECTED)] {
        let url = format!("redis://127.0.0.1:{port}/{database}");
        let ended = refused(&url, "LOADING", message).stop();
        assert_logged_once(&ended, "LOADING", message);
    }
}

#[tokio::test]
async fn the_documented_rights_are_sufficient_and_each_is_necessary() {
    let redis = RedisServer::start();
    let store = redis.store();
    let rights = rights();
    redis.set_rights(&rights);
    assert_all_work(&store, "1").await;
    store.ping().await.unwrap();
    let mut needed = 0;
    // Without these it warns: see `words.rs`, `fence.rs` and `news.rs`.
    let optional = ["+info", "+publish", "+subscribe"];
    let needs = |right: &str| right.starts_with(['+', '~']) && !optional.contains(&right);
    for right in rights.iter().filter(|right| needs(right)) {
        let fewer: Vec<_> = rights.iter().copied().filter(|other| other != right).collect();
        redis.set_rights(&fewer);
        // A cached script need not be sent.
        let _: redis::Value = redis.say(&["SCRIPT", "FLUSH"]);
        let error = redis.store().ping().await.expect_err(right);
        assert_eq!(error.detail.as_deref(), Some("redis refuses: NOPERM"), "{right}");
        assert!(error.advice.is_some_and(|advice| advice.contains("configuration.md")));
        needed += 1;
    }
    assert!(needed > 10, "{rights:?}");
    redis.set_rights(&rights);
    redis.store().ping().await.unwrap();
    // Another database needs one more right.
    let elsewhere = redis.url().replace("/0", "/1");
    let clock = std::sync::Arc::new(order_query::clock::SystemClock);
    let store = order_query::store::Redis::open(&elsewhere, CACHE_BYTES, clock).unwrap();
    let error = store.ping().await.unwrap_err();
    assert_eq!(error.detail.as_deref(), Some("redis: cannot be reached: NOPERM"));
    redis.set_rights(&[&rights[..], &["+select"]].concat());
    tokio::time::timeout(Duration::from_secs(20), store.opened()).await.unwrap();
}

#[tokio::test]
async fn a_ping_leaves_no_keys() {
    let redis = RedisServer::start();
    for _ in 0..3 {
        redis.store().ping().await.unwrap();
    }
    let mut keys: Vec<String> = redis.say(&["KEYS", "*"]);
    keys.retain(|key| key != "order-query:fence");
    assert_eq!(keys, [""; 0]);
    redis.clear();
    // If the ping is interrupted, its key expires soon.
    redis.set_rights(&rights().into_iter().filter(|right| *right != "+del").collect::<Vec<_>>());
    redis.store().ping().await.unwrap_err();
    let keys: Vec<String> = redis.say(&["KEYS", "*"]);
    assert!(!keys.is_empty());
    for key in keys {
        let left: i64 = redis.say(&["PTTL", &key]);
        assert!((1..=10_000).contains(&left), "{key}: {left}");
    }
}

/// The documented table has the same error words as the code.
#[test]
fn the_error_words_are_documented() {
    let document = fs::read_to_string("docs/configuration.md").unwrap();
    for word in CASES.iter().map(|case| case.word).chain([
        "NOAUTH",
        "MISCONF",
        "CLUSTERDOWN",
        "CROSSSLOT",
        "MOVED",
        "LOADING",
    ]) {
        assert!(document.contains(&format!("`{word}`")), "{word}");
    }
}
