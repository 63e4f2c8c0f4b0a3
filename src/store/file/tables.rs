//! The tables of the file and their encoding. Used by the file store only.
//!
//! Times are milliseconds since 1970. A time before which something must not happen is rounded up, so
//! that it never happens early.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message as _;
use redb::{
    Database, ReadableDatabase as _, ReadableTable as _, Table, TableDefinition, WriteTransaction,
};

use super::super::cache::Encoded;
use super::super::ends;
use super::super::ledger::{Fact, Ledger};
use super::super::newer;
use super::super::slots::Pause;
use super::keys::Keys;
use crate::pb::Order;
use crate::providers::Token;

/// Identifies the file: the name of this program and the version of these tables.
const FORMAT: TableDefinition<&str, u64> = TableDefinition::new("format");
const FORMAT_NAME: &str = "order-query";
const FORMAT_VERSION: u64 = 1;

/// An order's last state, in the contract's encoding.
const ORDERS: TableDefinition<&str, &[u8]> = TableDefinition::new("orders");
/// When a call's slot in a window becomes free, by the call's mark.
const SLOTS: TableDefinition<(&str, &str), u64> = TableDefinition::new("slots");
/// When an account's pause ends, how long to wait after each probe, and whether a probe was admitted.
const PAUSES: TableDefinition<&str, (u64, u64, bool)> = TableDefinition::new("closures");
/// An access token, and when to renew it.
const TOKENS: TableDefinition<&str, (&str, u64)> = TableDefinition::new("tokens");

/// How long an order that is not terminal is stored.
const ORDER_LIFE: Duration = Duration::from_hours(30 * 24);

/// A state to store.
#[derive(Debug, Clone)]
pub(super) struct Put {
    pub(super) order: String,
    pub(super) state: Order,
    pub(super) encoded: Encoded,
}

/// The result of storing a state.
pub(super) enum Stored {
    /// It replaced the known state, which seemed to be observed this far in the future.
    Written(Duration),
    /// The known state is newer, or terminal.
    Passed,
    /// The known state cannot be read, and might be terminal: it stays.
    Unreadable(String),
}

/// Begins a transaction that is durable once committed. It uses two-phase commit: otherwise redb would
/// take a page damaged after a crash for an unfinished commit, and silently fall back to the commit
/// before it.
fn begin(db: &Database) -> Result<WriteTransaction, redb::Error> {
    let mut txn = db.begin_write()?;
    txn.set_two_phase_commit(true);
    Ok(txn)
}

/// Sets up our tables in an empty database.
pub(super) fn found(db: &Database) -> Result<(), redb::Error> {
    let txn = begin(db)?;
    txn.open_table(FORMAT)?.insert(FORMAT_NAME, FORMAT_VERSION)?;
    txn.open_table(ORDERS)?;
    txn.open_table(SLOTS)?;
    txn.open_table(PAUSES)?;
    txn.open_table(TOKENS)?;
    Ok(txn.commit()?)
}

/// Checks that the database is ours.
///
/// # Errors
/// Why it is not.
pub(super) fn check_format(db: &Database) -> Result<(), String> {
    match format_version(db) {
        Some(FORMAT_VERSION) => Ok(()),
        Some(version) => Err(format!(
            "has version {version}, but this program supports version {FORMAT_VERSION}; run the \
             program that wrote it, or name another file"
        )),
        None => Err("is a database of another program; name another file".to_owned()),
    }
}

fn format_version(db: &Database) -> Option<u64> {
    let txn = db.begin_read().ok()?;
    let version = txn.open_table(FORMAT).ok()?.get(FORMAT_NAME).ok()??.value();
    Some(version)
}

/// Reads everything but the orders.
///
/// # Errors
/// The data that contradicts the format.
pub(super) fn load(db: &Database) -> Result<Ledger, String> {
    guarded(|| load_facts(db))
}

fn load_facts(db: &Database) -> Result<Ledger, redb::Error> {
    let txn = db.begin_read()?;
    let mut ledger = Ledger::default();
    for row in txn.open_table(SLOTS)?.iter()? {
        let (key, free_at) = row?;
        let (window, call) = key.value();
        ledger.set(Fact::Slot {
            window: window.to_owned(),
            call: call.to_owned(),
            free_at: Some(time(free_at.value())),
        });
    }
    for row in txn.open_table(PAUSES)?.iter()? {
        let (account, pause) = row?;
        let (until, probe_every, probing) = pause.value();
        let (until, probe_every) = (time(until), Duration::from_millis(probe_every));
        let pause = Some(Pause { until, probe_every, probing });
        ledger.set(Fact::Pause { account: account.value().to_owned(), pause });
    }
    for row in txn.open_table(TOKENS)?.iter()? {
        let (identity, token) = row?;
        let (value, renew_at) = token.value();
        let token = Some(Token { value: value.into(), renew_at: time(renew_at) });
        ledger.set(Fact::Token { identity: identity.value().to_owned(), token });
    }
    Ok(ledger)
}

/// Deletes orders that are not terminal and were last observed long ago, writes these facts, and puts
/// the keys of the remaining orders into `keys`.
pub(super) fn prune(
    db: &Database,
    facts: &[Fact],
    now: SystemTime,
    keys: &Keys,
) -> Result<(), String> {
    let oldest = now.checked_sub(ORDER_LIFE).map_or(0, millis);
    guarded(|| {
        let txn = begin(db)?;
        txn.open_table(ORDERS)?.retain(|key, bytes| {
            let order = Order::decode(bytes);
            // An order that cannot be decoded stays: it may be terminal.
            let stays = !order.is_ok_and(|order| !order.terminal && observed(&order) < oldest);
            if stays {
                keys.insert(key);
            }
            stays
        })?;
        note(&txn, facts)?;
        Ok(txn.commit()?)
    })
}

/// Reads an order.
///
/// # Errors
/// The order cannot be read: it may or may not be stored.
pub(super) fn read_order(db: &Database, order: &str) -> Result<Option<Order>, String> {
    let bytes = guarded(|| {
        let row = db.begin_read()?.open_table(ORDERS)?.get(order)?;
        Ok(row.map(|bytes| bytes.value().to_vec()))
    })?;
    bytes.map(|bytes| decode(&bytes)).transpose()
}

/// Writes facts and states, all or nothing. Returns the result for each order.
///
/// # Errors
/// The failure. The write may have been carried out all the same.
pub(super) fn write(
    db: &Database,
    facts: &[Fact],
    puts: &[Put],
    now: SystemTime,
) -> Result<Vec<Stored>, String> {
    guarded(|| {
        let txn = begin(db)?;
        note(&txn, facts)?;
        let stored = {
            let mut orders = txn.open_table(ORDERS)?;
            puts.iter().map(|new| put(&mut orders, new, now)).collect::<Result<Vec<_>, _>>()?
        };
        if facts.is_empty() && !stored.iter().any(|one| matches!(one, Stored::Written(_))) {
            txn.abort()?;
        } else {
            txn.commit()?;
        }
        Ok(stored)
    })
}

fn put(orders: &mut Table<&str, &[u8]>, new: &Put, now: SystemTime) -> Result<Stored, redb::Error> {
    let known = orders.get(new.order.as_str())?.map(|bytes| decode(bytes.value()));
    Ok(match known.transpose() {
        Err(detail) => Stored::Unreadable(detail),
        Ok(Some(known)) if !newer(&new.state, &known, now) => Stored::Passed,
        Ok(known) => {
            orders.insert(new.order.as_str(), new.encoded.bytes())?;
            Stored::Written(known.map_or(Duration::ZERO, |known| ends::ahead(&known, now)))
        }
    })
}

fn note(txn: &WriteTransaction, facts: &[Fact]) -> Result<(), redb::Error> {
    let mut slots = txn.open_table(SLOTS)?;
    let mut pauses = txn.open_table(PAUSES)?;
    let mut tokens = txn.open_table(TOKENS)?;
    for fact in facts {
        match fact {
            Fact::Slot { window, call, free_at: Some(free_at) } => {
                slots.insert((window.as_str(), call.as_str()), millis_up(*free_at))?;
            }
            Fact::Slot { window, call, free_at: None } => {
                slots.remove((window.as_str(), call.as_str()))?;
            }
            Fact::Pause { account, pause: Some(Pause { until, probe_every, probing }) } => {
                let probe_every = whole(probe_every.as_nanos().div_ceil(NANOS_PER_MILLI));
                pauses.insert(account.as_str(), (millis_up(*until), probe_every, *probing))?;
            }
            Fact::Pause { account, pause: None } => {
                pauses.remove(account.as_str())?;
            }
            Fact::Token { identity, token: Some(token) } => {
                // Rounded down: renewing a token early is better than using it too long.
                let row = (token.value.expose(), millis(token.renew_at));
                tokens.insert(identity.as_str(), row)?;
            }
            Fact::Token { identity, token: None } => {
                tokens.remove(identity.as_str())?;
            }
        }
    }
    Ok(())
}

fn decode(bytes: &[u8]) -> Result<Order, String> {
    Order::decode(bytes).map_err(|error| format!("an order in the store file: {error}"))
}

/// When an order was observed, in milliseconds.
fn observed(order: &Order) -> u64 {
    let seconds = order.observe_time.map_or(0, |time| time.seconds);
    u64::try_from(seconds).unwrap_or(0).saturating_mul(1000)
}

const NANOS_PER_MILLI: u128 = 1_000_000;

fn millis(time: SystemTime) -> u64 {
    whole(since_1970(time).as_millis())
}

fn millis_up(time: SystemTime) -> u64 {
    whole(since_1970(time).as_nanos().div_ceil(NANOS_PER_MILLI))
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn whole(number: u128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn time(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis)
}

/// Runs work on the database. redb promises not to panic on a file that only it has changed. On a file
/// changed by others it may; such a panic becomes an ordinary error here.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(_panic) => Err("its pages contradict one another".to_owned()),
    }
}
