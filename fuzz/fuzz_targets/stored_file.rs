//! Whatever stands in a store file: pages that something has damaged, and rows that others may have
//! written.
#![no_main]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, UNIX_EPOCH};

use libfuzzer_sys::fuzz_target;
use order_query::clock::ManualClock;
use order_query::pb::Order;
use order_query::providers::{Token, TokenStore as _};
use order_query::store::{Call, File, Limit, Reservation, Store as _, Window};
use order_query_fuzz::block_on;
use prost::Message as _;
use prost_types::Timestamp;
use redb::{Database, TableDefinition};
use tempfile::TempDir;

// The file's format, written down once more: files of before must be read for ever.
const ORDERS: TableDefinition<&str, &[u8]> = TableDefinition::new("orders");
const SLOTS: TableDefinition<(&str, &str), u64> = TableDefinition::new("slots");
const CLOSURES: TableDefinition<&str, (u64, u64, bool)> = TableDefinition::new("closures");
const TOKENS: TableDefinition<&str, (&str, u64)> = TableDefinition::new("tokens");

const NOW: Duration = Duration::from_secs(1_790_000_000);

/// For how long an order is remembered that is not terminal, in seconds.
const ORDER_LIFE: i64 = 30 * 24 * 60 * 60;

/// Nobody removes it: the process ends without a word to its parts. `scripts/fuzz` cleans up.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

/// A store file with one of everything.
static WHOLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let path = path();
    block_on(async {
        let store = open(&path).expect("a new file");
        store.put(&"ended".into(), &ended()).await.expect("kept");
        store.save("us", &token()).await.expect("saved");
        store.pause(&"closed".into(), Duration::from_mins(1), true).await.expect("closed");
        assert_eq!(store.reserve(&call("account")).await, Ok(Reservation::Reserved));
    });
    fs::read(path).expect("the file")
});

/// Where something stands in it: most of it is zeros, and nobody reads them.
static PLACES: LazyLock<Vec<usize>> =
    LazyLock::new(|| (0..WHOLE.len()).filter(|place| WHOLE[*place] != 0).collect());

fuzz_target!(
    init: {
        // redb panics over some files, and the store makes an error of it: libFuzzer's hook would
        // end the process before. What no one catches still ends it.
        drop(std::panic::take_hook());
        std::panic::set_hook(Box::new(|info| eprintln!("{info}")));
        LazyLock::force(&WHOLE);
    },
    |input: &[u8]| match input {
        [0, patches @ ..] => block_on(damaged(patches)),
        [1, rows @ ..] => block_on(planted(rows)),
        _ => {}
    }
);

fn path() -> PathBuf {
    FOLDER.path().join("orders.redb")
}

fn open(path: &Path) -> Result<File, String> {
    File::open(path, 1 << 20, Arc::new(ManualClock::new(UNIX_EPOCH + NOW)))
}

fn ended() -> Order {
    let observe_time = Some(Timestamp { seconds: 1_790_000_000, nanos: 7 });
    Order { id: "ended".to_owned(), terminal: true, observe_time, ..Order::default() }
}

fn token() -> Token {
    Token { value: "token".into(), renew_at: UNIX_EPOCH + NOW + Duration::from_hours(2) }
}

fn call(account: &str) -> Call {
    let (limit, period) = (Limit::PerMinute, Duration::from_mins(1));
    let window = Window { key: "w".into(), limit, max_calls: 9, period };
    let in_flight = Duration::from_secs(5);
    Call {
        id: "call".to_owned(),
        account: account.into(),
        windows: vec![window],
        in_flight,
        lease: None,
    }
}

/// Puts bytes in the place of others, or cuts the file off: it is refused and stays as it is, or
/// nothing is lost.
async fn damaged(mut patches: &[u8]) {
    let mut bytes = WHOLE.clone();
    while let [length, a, b, rest @ ..] = patches {
        let place = PLACES[usize::from(u16::from_be_bytes([*a, *b])) % PLACES.len()];
        let (patch, rest) = rest.split_at(rest.len().min((*length).into()));
        if patch.is_empty() {
            bytes.truncate(place);
        }
        let there = bytes.iter_mut().skip(place);
        there.zip(patch).for_each(|(byte, new)| *byte = *new);
        patches = rest;
    }
    let path = path();
    fs::write(&path, &bytes).expect("written");
    let Ok(store) = open(&path) else {
        assert!(fs::read(&path).expect("the file") == bytes, "a refused file was changed");
        return;
    };
    let known =
        store.get(&"ended".into(), Some(&"w".into())).await.expect("recalled").unwrap_or_default();
    assert_eq!((known.state, known.spent.len()), (Some(ended()), 1), "something was lost");
    assert_eq!(store.load("us").await, Ok(Some(token())), "the token was lost");
    let taken = store.reserve(&Call { id: "other".to_owned(), ..call("closed") }).await;
    assert_eq!(taken, Ok(Reservation::Paused(Duration::from_mins(1))), "the pause was lost");
}

/// Writes rows as the format has them: the store reads what stands there, or says that it cannot.
async fn planted(rows: &[u8]) {
    let (numbers, bytes) = rows.split_at(rows.len().min(24));
    let mut numbers = numbers
        .chunks(8)
        .map(|number| number.iter().fold(0_u64, |whole, byte| whole << 8 | u64::from(*byte)));
    let [a, b, c] = std::array::from_fn(|_| numbers.next().unwrap_or_default());
    let text = String::from_utf8_lossy(bytes);
    let path = path();
    fs::write(&path, &*WHOLE).expect("written");
    plant(&path, [a, b, c], bytes, &text).expect("planted");

    let store = open(&path).expect("every row is of the format");
    let known = store.get(&"planted".into(), None).await;
    let there = Order::decode(bytes);
    assert_eq!(known.is_err(), there.is_err(), "what cannot be read is not nothing");
    let state = known.ok().flatten().and_then(|known| known.state);
    let oldest = 1_790_000_000 - ORDER_LIFE;
    // What is not the last and was seen long ago is forgotten.
    let there = there.ok().filter(|order| {
        order.terminal || order.observe_time.is_some_and(|time| time.seconds >= oldest)
    });
    assert_eq!(state, there, "another state");
    let (now, day) = (UNIX_EPOCH + NOW, Duration::from_hours(24));
    // What lies further away than any rule allows is cut, and of such a token nobody knows the end.
    let longest = |longest: Duration| now + longest + Duration::from_secs(1);
    let free = UNIX_EPOCH + Duration::from_millis(a);
    let flown = day + Duration::from_mins(26);
    let free = if free > longest(flown) { now + flown } else { free };
    let taken = store.peek(&"nothing".into(), Some(&"planted".into())).unwrap_or_default().spent;
    assert!(taken.iter().eq([free].iter().filter(|free| **free > now)), "other slots");
    let kept = store.load("planted").await.expect("loaded");
    let there = (UNIX_EPOCH + Duration::from_millis(b) <= longest(day)).then_some(&*text);
    assert_eq!(kept.as_ref().map(|token| token.value.expose()), there, "another token");
    let _ = store.reserve(&call("planted")).await.expect("decided");
    let _ = store.put(&"planted".into(), &ended()).await;
}

fn plant(path: &Path, [a, b, c]: [u64; 3], bytes: &[u8], text: &str) -> Result<(), redb::Error> {
    let database = Database::open(path)?;
    let txn = database.begin_write()?;
    txn.open_table(ORDERS)?.insert("planted", bytes)?;
    txn.open_table(SLOTS)?.insert(("planted", "planted"), a)?;
    txn.open_table(CLOSURES)?.insert("planted", (b, c, a % 2 == 0))?;
    txn.open_table(TOKENS)?.insert("planted", (text, b))?;
    Ok(txn.commit()?)
}
