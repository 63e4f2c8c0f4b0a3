//! The store of a server that may be running: a new WeChat classic token invalidates its
//! predecessor, so tokens are shared with the server or not requested.

use std::fs;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use order_query::providers::TokenStore as _;
use order_query::sandbox::{Kind, Sandbox};
use tempfile::TempDir;

use super::{Ended, check, check_at, count, sandbox};
use crate::support::child::{Child, Serving, with_listeners, write};
use crate::support::played::{Played, answer};
use crate::support::redis_server::RedisServer;

const WECHAT: &str = "accounts.wechat-sandbox";

/// An order of WeChat's.
const ORDER: [&str; 4] = ["wechat", "status-2", "--max-age", "0s"];

/// The sandbox's accounts, with that store and that way to WeChat's tokens.
fn config(sandbox: &Sandbox, store: &str, token: &str) -> String {
    let account = "[accounts.wechat-sandbox]\n";
    let accounts = sandbox.accounts();
    let accounts = accounts.replace(account, &format!("{account}token = \"{token}\"\n"));
    format!("store.url = \"{store}\"\n{accounts}")
}

/// All accounts but WeChat's pass, and that one is not called.
#[track_caller]
fn assert_not_asked(checked: &Ended, why: &str) {
    let line = checked.line(&format!("not asked: {WECHAT}"));
    assert!(line.contains(why), "{line}");
    for account in ["dingshang", "haoka"] {
        checked.line(&format!("ok: accounts.{account}-sandbox"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_file_in_use_by_a_server_is_not_opened() {
    let sandbox = sandbox().await;
    let directory = tempfile::tempdir().unwrap();
    let store = format!("file:{}/orders.redb", directory.path().display());
    let classic = config(&sandbox, &store, "classic");
    let server = Serving::start(&classic);
    let checked = check(&classic);
    assert_eq!((checked.code, checked.err.as_str()), (Some(0), ""), "{checked:?}");
    assert_not_asked(&checked, "store in use: ");
    assert_eq!(count(&sandbox, Kind::Token), 0);
    // A stable token is the same for everyone, so it needs no store.
    let checked = check(&config(&sandbox, &store, "stable"));
    assert_eq!(checked.code, Some(0), "{checked:?}");
    checked.line(&format!("ok: {WECHAT}"));
    assert_eq!(count(&sandbox, Kind::Token), 1);
    server.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_saved_in_a_store_file_not_in_use() {
    let sandbox = sandbox().await;
    let directory = tempfile::tempdir().unwrap();
    let classic =
        config(&sandbox, &format!("file:{}/orders.redb", directory.path().display()), "classic");
    Serving::start(&classic).stop();
    let checked = check(&classic);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    checked.line(&format!("ok: {WECHAT}"));
    let server = Serving::start(&classic);
    let got = server.get(&ORDER);
    assert_eq!(got.code, Some(0), "{got:?}");
    assert_eq!(count(&sandbox, Kind::Token), 1, "the server has the token of the proof");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_store_file_is_not_created() {
    let sandbox = sandbox().await;
    for token in ["classic", "stable"] {
        let directory = tempfile::tempdir().unwrap();
        let path = write(&directory, &config(&sandbox, "file:orders.redb", token));
        let checked = check_at(&path);
        assert_eq!(checked.code, Some(0), "{checked:?}");
        checked.line(&format!("ok: {WECHAT}"));
        assert_eq!(names(&directory), ["order-query.toml"]);
    }
    assert_eq!(count(&sandbox, Kind::Token), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unusable_store_file_fails_the_check_that_needs_it() {
    let sandbox = sandbox().await;
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("orders.redb"), "no store").unwrap();
    let path = write(&directory, &config(&sandbox, "file:orders.redb", "classic"));
    let checked = check_at(&path);
    assert_eq!((checked.code, checked.err.as_str()), (Some(1), "error: failed checks: 1\n"));
    assert!(checked.line("failed: store.url").contains("is damaged"), "{checked:?}");
    assert_not_asked(&checked, "the store cannot be used");
    let path = write(&directory, &config(&sandbox, "file:orders.redb", "stable"));
    assert_eq!(check_at(&path).code, Some(0));
    assert_eq!(fs::read(directory.path().join("orders.redb")).unwrap(), b"no store");
    assert_eq!(count(&sandbox, Kind::Token), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_store_folder_is_reported_before_any_vendor_call() {
    let sandbox = sandbox().await;
    for token in ["classic", "stable"] {
        let directory = tempfile::tempdir().unwrap();
        let path = write(&directory, &config(&sandbox, "file:data/orders.redb", token));
        let checked = check_at(&path);
        assert_eq!((checked.code, checked.out.as_str()), (Some(78), ""), "{checked:?}");
        let told = "/data/orders.redb is in a folder that does not exist; create it\n";
        assert!(
            checked.err.contains("\nstore.url: ") && checked.err.ends_with(told),
            "{checked:?}"
        );
        assert_eq!(names(&directory), ["order-query.toml"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_instead_of_a_store_file_does_not_block() {
    let sandbox = sandbox().await;
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("orders.redb");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let path = write(&directory, &config(&sandbox, "file:orders.redb", "classic"));
    let checked = check_at(&path);
    assert_eq!((checked.code, checked.out.as_str()), (Some(78), ""), "{checked:?}");
    assert!(checked.err.ends_with("orders.redb is not a regular file\n"), "{checked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_cannot_be_saved_is_a_failure() {
    let redis = RedisServer::start();
    let url = redis.url();
    let redis = Arc::new(Mutex::new(redis));
    // The vendor answers after the store is gone.
    let vendor = Played::start(move |_| {
        redis.lock().unwrap().kill();
        async { answer(200, r#"{"access_token":"t","expires_in":7200}"#) }
    })
    .await;
    let checked = check(&format!(
        "store.url = \"{url}\"\n[accounts.market]\nprovider = \"wechat\"\nbase_url = \"{}\"\n\
         app_id = \"wx\"\napp_secret = \"s\"\ntoken = \"classic\"\n",
        vendor.url()
    ));
    assert_eq!(checked.code, Some(1), "{checked:?}");
    let line = checked.line("failed: accounts.market");
    assert!(line.starts_with("the store cannot be used ("), "{line}");
    assert!(line.contains("; run the command again once the store works: "), "{line}");
}

fn names(directory: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(directory.path()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_store_of_a_server_skips_the_token_check() {
    let sandbox = sandbox().await;
    let checked = check(&config(&sandbox, "memory:", "classic"));
    assert_eq!((checked.code, checked.err.as_str()), (Some(0), ""), "{checked:?}");
    assert_not_asked(&checked, "the store is memory:");
    assert_eq!(count(&sandbox, Kind::Token), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_check_shares_its_token_through_redis_under_the_lease() {
    let sandbox = sandbox().await;
    let redis = RedisServer::start();
    let classic = config(&sandbox, &redis.url(), "classic");
    let first = Serving::start(&classic);
    assert_eq!(first.get(&ORDER).code, Some(0));
    assert_eq!(count(&sandbox, Kind::Token), 1);
    let checked = check(&classic);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    checked.line(&format!("ok: {WECHAT}"));
    assert_eq!(count(&sandbox, Kind::Token), 2, "proved anew");
    let second = Serving::start(&classic);
    for server in [&first, &second] {
        let got = server.get(&ORDER);
        assert_eq!(got.code, Some(0), "{got:?}");
    }
    assert_eq!(count(&sandbox, Kind::Token), 2, "the servers have the token of the proof");

    // Renewing the token requires the lease.
    let address = sandbox.address("wechat").unwrap();
    let lease = format!("http://{address}/ wxfeed5a0db0c00001 Classic lease");
    let store = redis.store();
    assert!(store.lease(&lease, "somebody", Duration::from_mins(1)).await.unwrap());
    let checked = check(&classic);
    assert_eq!(checked.code, Some(1), "{checked:?}");
    let line = checked.line(&format!("failed: {WECHAT}"));
    assert!(line.contains("is renewing") && line.ends_with("; run the command again"), "{line}");
    store.release(&lease, "somebody").await.unwrap();
    assert_eq!(check(&classic).code, Some(0));
    assert!(store.lease(&lease, "somebody", Duration::from_mins(1)).await.unwrap(), "was released");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreachable_redis_is_a_failure() {
    let sandbox = sandbox().await;
    let mut redis = RedisServer::start();
    redis.kill();
    for token in ["classic", "stable"] {
        let checked = check(&config(&sandbox, &redis.url(), token));
        assert_eq!((checked.code, checked.err.as_str()), (Some(1), "error: failed checks: 1\n"));
        let line = checked.line("failed: store.url");
        assert!(line.starts_with("not reached within 2s (redis: "), "{line}");
        assert!(!line.contains(&redis.port.to_string()), "{line}");
        if token == "classic" {
            assert_not_asked(&checked, "the store cannot be used");
        } else {
            checked.line(&format!("ok: {WECHAT}"));
        }
    }
}

/// The real binary, unable to extend any file, as on a full disk.
fn on_a_full_disk(arguments: &[&str]) -> Ended {
    let script = "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_order-query")]).args(arguments);
    Child::start(command).end()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unwritable_store_file_is_a_failure_for_every_account() {
    let sandbox = sandbox().await;
    // Not even root can create files there.
    let checked = check(&config(&sandbox, "file:/sys/orders.redb", "stable"));
    assert_eq!(checked.code, Some(1), "{checked:?}");
    let line = checked.line("failed: store.url");
    assert!(line.starts_with("the store file /sys/orders.redb cannot be created: "), "{line}");
    for exists in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let orders = directory.path().join("orders.redb");
        let store = format!("file:{}", orders.display());
        let path = write(&directory, &with_listeners(&config(&sandbox, &store, "stable")));
        if exists {
            Serving::start(&config(&sandbox, &store, "stable")).stop();
            assert_eq!(check_at(&path).code, Some(0));
        }
        let before = fs::read(&orders).ok();
        let checked = on_a_full_disk(&["check", "--live", "--config", &path]);
        assert_eq!(checked.code, Some(1), "{checked:?}");
        let line = checked.line("failed: store.url");
        assert!(
            line.contains("orders.redb cannot be written: ") && line.contains("; free disk space")
        );
        // `serve` reports the same and does not start.
        let served = on_a_full_disk(&["serve", "--config", &path]);
        assert_eq!(served.code, Some(1), "{served:?}");
        assert!(served.err.contains("orders.redb cannot be written: "), "{served:?}");
        assert!(served.err.contains("; free disk space"), "{served:?}");
        assert!(fs::read(&orders).ok() == before, "it stays as it was");
        let mut expected = vec!["order-query.toml".to_owned()];
        expected.extend(exists.then(|| "orders.redb".to_owned()));
        let mut names = names(&directory);
        names.sort_unstable();
        assert_eq!(names, expected);
    }
}
