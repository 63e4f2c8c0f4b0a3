//! A file store survives what its process does not: these tests start this same binary again, as
//! a process that they can kill, run out of space, and lock out.
#![allow(clippy::print_stdout, reason = "how a process reports")]

use std::env;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use order_query::clock::SystemClock;
use order_query::error::Error;
use order_query::pb::ErrorReason;
use order_query::store::{Call, File, Limit, Reservation, Store as _, Window};

use super::{call, ended, minute, observed, recalled};
use crate::support::child::exact;
use crate::support::{CACHE_BYTES, manual_clock};

/// Tells a child process its part, and which file to open.
const PART: &str = "ORDER_QUERY_TEST_PART";
const STORE_FILE: &str = "ORDER_QUERY_TEST_STORE";

/// The prefix of everything that a process reports.
const MARK: &str = "\u{1}";

/// This binary again, to run the test that is the child process.
fn process(part: &str, path: &Path) -> Command {
    let mut command = Command::new("sh");
    // Exceeding the file size limit is an error, and not fatal.
    command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(env::current_exe().unwrap());
    command.args([
        "--exact",
        &exact(module_path!(), "the_child_process_runs_its_part"),
        "--nocapture",
    ]);
    command.env(PART, part).env(STORE_FILE, path).stdout(Stdio::piped());
    command
}

/// What a process reports, until it ends.
fn reports(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    lines.filter_map(|line| Some(line.split_once(MARK)?.1.to_owned()))
}

/// Not a test by itself: the process that the tests below start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_child_process_runs_its_part() {
    let Ok(part) = env::var(PART) else { return };
    let path = PathBuf::from(env::var_os(STORE_FILE).unwrap());
    match part.as_str() {
        "open" => {
            let problem = File::open(&path, CACHE_BYTES, Arc::new(SystemClock)).err();
            println!("{MARK}{}", problem.unwrap_or_default());
        }
        "take" => take_for_ever(&path).await,
        "fill" => run_out_of_space(&path).await,
        _ => panic!("{part}"),
    }
}

/// For a day: no slot is freed while a test runs.
fn day(key: &str) -> Window {
    Window { period: Duration::from_hours(24), ..minute(key, 1) }
}

/// Reserves slots, several calls at a time, and reports each call that has one.
async fn take_for_ever(path: &Path) {
    let store = Arc::new(File::open(path, CACHE_BYTES, Arc::new(SystemClock)).unwrap());
    let run = std::process::id();
    let callers = (0..4).map(|caller| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for n in 0.. {
                let id = format!("{run} {caller} {n}");
                let call = call(&id, &[day(&id)]);
                assert_eq!(store.reserve(&call).await.unwrap(), Reservation::Reserved);
                store.put(&id.as_str().into(), &ended(1, &id)).await.unwrap();
                println!("{MARK}{id}");
            }
        })
    });
    join_all(callers).await;
}

#[tokio::test]
async fn reserved_slots_survive_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.redb");
    let mut taken = Vec::new();
    for round in 0..20 {
        let mut child = process("take", &path).spawn().unwrap();
        let mut reported = reports(&mut child);
        taken.extend(reported.by_ref().take(1 + round * 7 % 40));
        child.kill().unwrap();
        taken.extend(reported);
        assert!(!child.wait().unwrap().success());

        let store = File::open(&path, CACHE_BYTES, Arc::new(SystemClock)).unwrap();
        for id in &taken {
            let other = Call { windows: vec![day(id)], ..call("other", &[]) };
            let take = store.reserve(&other).await.unwrap();
            assert!(
                matches!(take, Reservation::Full(Limit::PerMinute, _)),
                "{id} in round {round}: {take:?}"
            );
            let state = store.get(&id.into(), None).await.unwrap().unwrap().state;
            assert_eq!(state, Some(ended(1, id)));
        }
    }
    assert!(taken.len() > 200);
}

#[test]
fn another_process_cannot_open_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.redb");
    let store = File::open(&path, CACHE_BYTES, Arc::new(SystemClock)).unwrap();
    let report = || {
        let mut child = process("open", &path).spawn().unwrap();
        let reported: Vec<_> = reports(&mut child).collect();
        assert!(child.wait().unwrap().success());
        reported.concat()
    };
    assert!(report().contains("is in use by another process"));
    drop(store);
    assert_eq!(report(), "");
}

#[test]
fn a_full_disk_blocks_limited_calls_until_space_is_freed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.redb");
    let child = process("fill", &path).stderr(Stdio::piped()).spawn().unwrap();
    let output = child.wait_with_output().unwrap();
    let (told, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}\n{complained}");
    assert!(told.contains(&format!("{MARK}done")), "{told}");
}

/// Limits the size of the files that this process writes; `None` removes the limit.
fn bound_files(bytes: Option<u64>) {
    let bound = bytes.map_or("unlimited".to_owned(), |bytes| bytes.to_string());
    let mut command = Command::new("prlimit");
    command.arg(format!("--pid={}", std::process::id())).arg(format!("--fsize={bound}:unlimited"));
    assert!(command.status().unwrap().success());
}

fn assert_unavailable(error: &Error) {
    assert_eq!(error.reason, ErrorReason::StoreUnavailable);
    assert_eq!(error.retry_after, Some(Duration::from_secs(1)));
}

async fn run_out_of_space(path: &Path) {
    let clock = manual_clock();
    let open = || Arc::new(File::open(path, CACHE_BYTES, Arc::new(clock.clone())).unwrap());
    let store = open();
    let full = [minute("full", 1)];
    store.put(&"known".into(), &ended(1, "known")).await.unwrap();
    store.reserve(&call("a", &full)).await.unwrap();
    drop(store);
    // Reopened: only the file has the order.
    let store = open();
    let dynamic = Arc::clone(&store) as Arc<dyn order_query::store::Store>;
    store.put(&"kept".into(), &observed(1, "kept")).await.unwrap();

    bound_files(Some(std::fs::metadata(path).unwrap().len()));
    // Each stores more: one of them runs out of space.
    let mut taken = 0;
    let refused = loop {
        let window = minute(&format!("{taken} {}", "x".repeat(2000)), 1);
        match store.reserve(&call("taken", &[window])).await {
            Ok(take) => assert_eq!(take, Reservation::Reserved),
            Err(error) => break error,
        }
        taken += 1;
    };
    assert_unavailable(&refused);
    let more = [minute(&format!("more {}", "x".repeat(100_000)), 1)];
    for attempt in 0..30 {
        // Operations that need no space still work.
        assert_eq!(store.peek(&"kept".into(), None).unwrap().state, Some(observed(1, "kept")));
        assert_eq!(recalled(&dynamic, "kept").await, Some(observed(1, "kept")));
        assert_eq!(recalled(&dynamic, "unknown").await, None);
        assert_eq!(store.reserve(&call("b", &[])).await.unwrap(), Reservation::Reserved);
        assert!(matches!(
            store.reserve(&call("c", &full)).await.unwrap(),
            Reservation::Full(Limit::PerMinute, _)
        ));
        // Those that need space are refused, whether the disk is retried or not.
        let refused = store.reserve(&call(&format!("refused {attempt}"), &more)).await;
        assert_unavailable(&refused.unwrap_err());
        assert_unavailable(
            &store.put(&"big".into(), &observed(1, &"x".repeat(9_000_000))).await.unwrap_err(),
        );
        clock.advance(Duration::from_secs(1));
    }
    assert_eq!(recalled(&dynamic, "known").await, Some(ended(1, "known")));

    bound_files(None);
    clock.advance(Duration::from_secs(16));
    let window = [minute(&format!("{taken} {}", "x".repeat(2000)), 1)];
    assert_eq!(store.reserve(&call("later", &window)).await.unwrap(), Reservation::Reserved);
    // Refused calls have taken no slots.
    assert_eq!(store.reserve(&call("later", &more)).await.unwrap(), Reservation::Reserved);
    store.put(&"kept".into(), &observed(2, "later")).await.unwrap();
    drop(dynamic);
    drop(Arc::into_inner(store).unwrap());

    let store = open();
    assert!(matches!(
        store.reserve(&call("e", &window)).await.unwrap(),
        Reservation::Full(Limit::PerMinute, _)
    ));
    assert_eq!(
        store.get(&"kept".into(), None).await.unwrap().unwrap().state,
        Some(observed(2, "later"))
    );
    println!("{MARK}done");
}
