//! How the file store handles files: foreign, damaged and old ones.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use order_query::clock::ManualClock;
use order_query::error::Error;
use order_query::pb::ErrorReason;
use order_query::store::{Call, File, Limit, Reservation, Store, Window};
use redb::{Database, ReadableDatabase as _, ReadableTableMetadata as _, TableDefinition};
use tempfile::TempDir;

use super::accounts::token;
use super::{IN_FLIGHT, MINUTE, call, ended, minute, observed};
use crate::support::{CACHE_BYTES, manual_clock};

const ORDERS: TableDefinition<&str, &[u8]> = TableDefinition::new("orders");
const SLOTS: TableDefinition<(&str, &str), u64> = TableDefinition::new("slots");

const DAY: Duration = Duration::from_hours(24);

/// A folder, and a file that does not exist yet.
fn place() -> (TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("orders.redb");
    (folder, path)
}

fn open(path: &Path) -> Result<File, String> {
    File::open(path, CACHE_BYTES, Arc::new(manual_clock()))
}

fn refusal(path: &Path) -> String {
    let problem = open(path).err().expect("the file is refused");
    assert!(problem.starts_with(&format!("the store file {} ", path.display())), "{problem}");
    problem
}

/// A store with one of everything.
async fn fill(store: &dyn Store) {
    store.put(&"open".into(), &observed(1, "open")).await.unwrap();
    store.put(&"ended".into(), &ended(1, "ended")).await.unwrap();
    store.pause(&"closed account".into(), MINUTE, true).await.unwrap();
    store.save("us", &token("value")).await.unwrap();
    for n in 0..3 {
        assert_eq!(
            store.reserve(&call(&n.to_string(), &[minute("w", 4)])).await.unwrap(),
            Reservation::Reserved
        );
    }
    store.reserve(&call("last", &[minute("w", 4)])).await.unwrap();
}

/// Whether everything is stored.
async fn is_whole(store: &dyn Store) -> bool {
    let state = async |order: &str| match store.get(&order.into(), Some(&"w".into())).await {
        Ok(Some(known)) if known.spent.len() == 4 => known.state,
        _ => None,
    };
    let knock = Call { account: "closed account".into(), ..call("x", &[]) };
    state("open").await == Some(observed(1, "open"))
        && state("ended").await == Some(ended(1, "ended"))
        && store.load("us").await == Ok(Some(token("value")))
        && store.reserve(&knock).await == Ok(Reservation::Paused(MINUTE))
}

/// The file is refused, for this reason, and unchanged.
fn assert_refused(path: &Path, reason: &str) {
    let before = fs::read(path).unwrap();
    let problem = refusal(path);
    assert!(problem.contains(reason), "{problem}");
    assert!(fs::read(path).unwrap() == before, "the file was changed");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "something was left");
}

/// The bytes of a filled store: as a crash leaves them, and closed.
async fn filled(path: &Path) -> [Vec<u8>; 2] {
    let store = open(path).unwrap();
    fill(&store).await;
    let crashed = fs::read(path).unwrap();
    drop(store);
    [crashed, fs::read(path).unwrap()]
}

#[test]
fn a_file_of_another_kind_is_refused() {
    let (_folder, path) = place();
    fs::write(&path, "").unwrap();
    assert_refused(&path, "is empty");
    fs::write(&path, "[store]\nurl = \"memory:\"\n").unwrap();
    assert_refused(&path, "is damaged");
    fs::write(&path, vec![0; 1 << 20]).unwrap();
    assert_refused(&path, "is damaged");
}

#[test]
fn a_database_of_another_program_or_version_is_refused() {
    let (_folder, path) = place();
    drop(Database::create(&path).unwrap());
    assert_refused(&path, "of another program");
    fs::remove_file(&path).unwrap();
    drop(open(&path).unwrap());
    raw(&path, |database| {
        let format: TableDefinition<&str, u64> = TableDefinition::new("format");
        let txn = database.begin_write().unwrap();
        txn.open_table(format).unwrap().insert("order-query", 2).unwrap();
        txn.commit().unwrap();
    });
    assert_refused(&path, "version 2");
}

#[test]
fn a_table_of_another_type_is_refused() {
    let (_folder, path) = place();
    drop(open(&path).unwrap());
    raw(&path, |database| {
        let other: TableDefinition<&str, &str> = TableDefinition::new("tokens");
        let txn = database.begin_write().unwrap();
        txn.delete_table(other).unwrap();
        txn.open_table(other).unwrap();
        txn.commit().unwrap();
    });
    assert_refused(&path, "is damaged");
}

/// Whether a damaged file is refused. If not, the damage must be outside of the stored data.
async fn is_refused(path: &Path, damaged: &[u8]) -> bool {
    fs::write(path, damaged).unwrap();
    match open(path) {
        Ok(store) => assert!(is_whole(&store).await, "damage was believed"),
        Err(_) => assert_refused(path, "is damaged"),
    }
    fs::read(path).unwrap() == damaged
}

#[tokio::test]
async fn a_truncated_file_is_refused_or_intact() {
    let (_folder, path) = place();
    let [crashed, closed] = filled(&path).await;
    for length in [1, 100, 4096, crashed.len() / 2, crashed.len() - 1] {
        assert!(is_refused(&path, &crashed[..length]).await, "{length}");
    }
    // Pages at the end may be free.
    is_refused(&path, &crashed[..crashed.len() - 4096]).await;
    for length in [1, 100, 4096, closed.len() / 2, closed.len() - 4096, closed.len() - 1] {
        assert!(is_refused(&path, &closed[..length]).await, "{length}");
    }
}

#[tokio::test]
async fn a_file_with_a_flipped_bit_is_refused_or_intact() {
    let (_folder, path) = place();
    for bytes in filled(&path).await {
        let mut refused = 0;
        // The pages in use are among those that are not empty.
        let used = (512..bytes.len()).filter(|at| bytes[*at] != 0).step_by(199);
        for at in used {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            refused += u32::from(is_refused(&path, &damaged).await);
        }
        assert_ne!(refused, 0);
    }
}

#[tokio::test]
async fn a_flipped_bit_in_stored_data_is_refused() {
    let (_folder, path) = place();
    for bytes in filled(&path).await {
        for text in ["value", "ended", "closed account", "last"] {
            let mut damaged = bytes.clone();
            let places = bytes.windows(text.len()).enumerate();
            for (at, _) in places.filter(|(_, there)| *there == text.as_bytes()) {
                damaged[at] ^= 1;
            }
            assert_ne!(damaged, bytes);
            fs::write(&path, &damaged).unwrap();
            assert_refused(&path, "is damaged");
        }
    }
}

#[tokio::test]
async fn a_file_belongs_to_one_store_at_a_time() {
    let (_folder, path) = place();
    let store = open(&path).unwrap();
    let problem = refusal(&path);
    assert!(problem.contains("is in use by another process; stop that process"), "{problem}");
    fill(&store).await;
    assert!(is_whole(&store).await);
    drop(store);
    open(&path).unwrap();
}

#[test]
fn exactly_one_of_several_concurrent_creators_gets_the_file() {
    for _ in 0..10 {
        let (folder, path) = place();
        let begin = std::sync::Barrier::new(8);
        let opened: Vec<_> = std::thread::scope(|scope| {
            let open = || {
                begin.wait();
                open(&path)
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(opened.iter().filter(|opened| opened.is_ok()).count(), 1);
        let mut problems = opened.iter().filter_map(|opened| opened.as_ref().err());
        assert!(problems.all(|problem| problem.contains("is in use")));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

#[test]
fn a_file_that_cannot_be_opened_is_explained() {
    let (folder, _) = place();
    let problem = refusal(&folder.path().join("missing/orders.redb"));
    assert!(problem.ends_with("is in a folder that does not exist; create it"), "{problem}");
    assert!(refusal(folder.path()).contains("cannot be opened"));
}

#[test]
fn a_new_file_is_accessible_to_its_owner_only() {
    let (folder, path) = place();
    let _store = open(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// Modifies a file that no store has open.
fn raw<T>(path: &Path, work: impl FnOnce(&Database) -> T) -> T {
    work(&Database::open(path).unwrap())
}

/// How many orders and slots are in the file.
fn rows(path: &Path) -> (u64, u64) {
    raw(path, |database| {
        let txn = database.begin_read().unwrap();
        let orders = txn.open_table(ORDERS).unwrap().len().unwrap();
        (orders, txn.open_table(SLOTS).unwrap().len().unwrap())
    })
}

#[tokio::test]
async fn expired_entries_are_removed_when_the_file_opens() {
    let (_folder, path) = place();
    let clock = manual_clock();
    let open =
        |clock: &ManualClock| File::open(&path, CACHE_BYTES, Arc::new(clock.clone())).unwrap();
    let store = open(&clock);
    let days = |days: i64| days * 24 * 60 * 60;
    for (order, state) in [
        ("old", observed(-days(1), "")),
        ("young", observed(0, "")),
        ("ended", ended(-days(1), "")),
    ] {
        store.put(&order.into(), &state).await.unwrap();
    }
    let long = Window { period: 100 * DAY, ..minute("long", 9) };
    store.reserve(&call("a", &[minute("w", 9), long])).await.unwrap();
    drop(store);
    assert_eq!(rows(&path), (3, 2));

    clock.advance(30 * DAY);
    let store = open(&clock);
    assert_eq!(store.get(&"old".into(), None).await.unwrap(), None);
    assert!(store.get(&"young".into(), None).await.unwrap().is_some());
    assert!(store.get(&"ended".into(), Some(&"w".into())).await.unwrap().unwrap().spent.is_empty());
    drop(store);
    assert_eq!(rows(&path), (2, 1));

    clock.advance(3650 * DAY);
    let store = open(&clock);
    assert!(store.get(&"ended".into(), None).await.unwrap().is_some());
    drop(store);
    assert_eq!(rows(&path), (1, 0));
}

#[tokio::test]
async fn expired_slots_are_removed_by_the_next_call() {
    let (_folder, path) = place();
    let clock = manual_clock();
    let store = File::open(&path, CACHE_BYTES, Arc::new(clock.clone())).unwrap();
    for n in 0..20 {
        let call = call(&n.to_string(), &[minute("w", 9)]);
        assert_eq!(store.reserve(&call).await.unwrap(), Reservation::Reserved);
        clock.advance(IN_FLIGHT + MINUTE);
    }
    drop(store);
    assert_eq!(rows(&path), (0, 1));
}

#[tokio::test]
async fn an_unreadable_order_is_an_error_and_not_unknown() {
    let (_folder, path) = place();
    let store = open(&path).unwrap();
    fill(&store).await;
    drop(store);
    raw(&path, |database| {
        let txn = database.begin_write().unwrap();
        txn.open_table(ORDERS).unwrap().insert("open", b"\xff".as_slice()).unwrap();
        txn.commit().unwrap();
    });
    let store = open(&path).unwrap();
    assert_unavailable(&store.get(&"open".into(), None).await.unwrap_err());
    // It may be terminal, so nothing replaces it.
    assert_unavailable(&store.put(&"open".into(), &observed(9, "later")).await.unwrap_err());
    assert_unavailable(&store.get(&"open".into(), None).await.unwrap_err());
    assert!(store.get(&"ended".into(), None).await.unwrap().is_some());
}

fn assert_unavailable(error: &Error) {
    assert_eq!(error.reason, ErrorReason::StoreUnavailable);
    assert_eq!(error.retry_after, Some(Duration::from_secs(1)));
    assert!(error.detail.as_ref().is_some_and(|detail| !detail.is_empty()));
}

#[tokio::test]
async fn reopening_the_file_never_frees_a_slot_early() {
    let (_folder, path) = place();
    let clock = manual_clock();
    clock.advance(Duration::from_nanos(1));
    let open = || File::open(&path, CACHE_BYTES, Arc::new(clock.clone())).unwrap();
    let windows = [minute("w", 1)];
    let store = open();
    store.reserve(&call("a", &windows)).await.unwrap();
    store.pause(&"closed".into(), MINUTE + Duration::from_nanos(1), true).await.unwrap();
    drop(store);
    let store = open();
    // Rounded up to the next millisecond, and no more.
    let more = Duration::from_nanos(999_999);
    let full = store.reserve(&call("b", &windows)).await.unwrap();
    assert_eq!(full, Reservation::Full(Limit::PerMinute, IN_FLIGHT + MINUTE + more));
    let knock = Call { account: "closed".into(), ..call("c", &[]) };
    let closed = store.reserve(&knock).await.unwrap();
    assert_eq!(closed, Reservation::Paused(MINUTE + more));
}

#[tokio::test]
async fn peek_returns_orders_put_or_read_since_the_file_opened() {
    let (_folder, path) = place();
    let store = open(&path).unwrap();
    fill(&store).await;
    let peek =
        |store: &File, order: &str| store.peek(&order.into(), Some(&"w".into())).unwrap().state;
    assert_eq!(peek(&store, "open"), Some(observed(1, "open")));
    assert_eq!(peek(&store, "ended"), Some(ended(1, "ended")));
    drop(store);
    let store = open(&path).unwrap();
    assert_eq!(peek(&store, "ended"), None);
    assert_eq!(store.peek(&"ended".into(), Some(&"w".into())).unwrap().spent.len(), 4);
    store.get(&"ended".into(), None).await.unwrap();
    assert_eq!(peek(&store, "ended"), Some(ended(1, "ended")));
}
