//! The only thread that writes the file: all changes that arrive during one write go into the next
//! transaction. Used by the file store only.
//!
//! A failed write leaves memory unchanged. redb refuses every operation after a failed write, so the
//! database is reopened at once, for reading. It is written again once the disk accepts the changes
//! staged at that opening; this is tried at most once a second, and less often while it keeps failing.

use std::iter;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use redb::{Builder, Database};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::super::cache::{Cache, Encoded};
use super::super::ends::Ahead;
use super::super::ledger::{Fact, Ledger};
use super::disk::{Disk, Locked};
use super::keys::Keys;
use super::tables::{self, Put, Stored};
use crate::clock::Clock;
use crate::error::Error;
use crate::pb::Order;

/// The maximum number of changes in one transaction.
const BATCH_LIMIT: usize = 1000;

/// The size of redb's page cache, in bytes.
const PAGE_CACHE: usize = 32 << 20;

/// How long to wait before a disk that rejected a write is tried again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(16);

/// The state shared by the store and its thread.
pub(super) struct Shared {
    pub(super) clock: Arc<dyn Clock>,
    /// Ahead of the file during a transaction, and never behind it.
    pub(super) ledger: Mutex<Ledger>,
    /// Orders as they are stored in the file.
    pub(super) recent: Cache,
    pub(super) keys: Keys,
    pub(super) database: RwLock<Arc<Database>>,
    pub(super) ahead: Ahead,
}

impl Shared {
    /// Locks the ledger. Nobody holds this lock during disk I/O.
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads an order from the file.
    pub(super) async fn read(self: &Arc<Self>, order: &str) -> Result<Option<Order>, Error> {
        if !self.keys.may_contain(order) {
            return Ok(None);
        }
        let order = order.to_owned();
        let shared = Arc::clone(self);
        let read = spawn_blocking(move || {
            let state = tables::read_order(&shared.database(), &order)?;
            if let Some(state) = state.as_ref().filter(|state| state.terminal) {
                // A terminal order cannot have changed meanwhile; any other order can.
                shared.recent.put(&order, Encoded::new(state));
            }
            Ok(state)
        });
        let read = read.await.unwrap_or_else(|error| Err(error.to_string()));
        read.map_err(Error::store_unavailable)
    }

    /// The current database.
    fn database(&self) -> Arc<Database> {
        Arc::clone(&self.database.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Reports to the caller whether its change is in the file.
pub(super) type Report = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// Decides which facts to write.
pub(super) type Decide = Box<dyn FnOnce(&Ledger, SystemTime) -> (Vec<Fact>, Report) + Send>;

/// A request to the thread: a change of the ledger, and perhaps an order's state to store with it.
pub(super) struct Job {
    pub(super) decide: Decide,
    pub(super) put: Option<Put>,
}

/// The contents of one transaction, and the callers to notify.
#[derive(Default)]
struct Batch {
    facts: Vec<Fact>,
    /// The facts that were replaced in the ledger.
    before: Vec<Fact>,
    puts: Vec<Put>,
    /// Each with whether one of the states belongs to it; reports and states are in the same order.
    reports: Vec<(Report, bool)>,
}

impl Batch {
    /// Makes all the decisions; each one sees the changes of those before it.
    fn decided(jobs: Vec<Job>, ledger: &mut Ledger, now: SystemTime) -> Self {
        let mut batch = Self::default();
        for Job { decide, put } in jobs {
            let (facts, report) = decide(ledger, now);
            batch.note(ledger, facts);
            batch.reports.push((report, put.is_some()));
            batch.puts.extend(put);
        }
        let free_again = ledger.sweep(now);
        batch.note(ledger, free_again);
        batch
    }

    fn note(&mut self, ledger: &mut Ledger, facts: Vec<Fact>) {
        self.before.extend(facts.iter().map(|fact| ledger.set(fact.clone())));
        self.facts.extend(facts);
    }

    /// The batch is in the file.
    fn succeeded(self, stored: Vec<Stored>, shared: &Shared) {
        let mut stored = self.puts.into_iter().zip(stored);
        for (report, has_put) in self.reports {
            let outcome = match has_put.then(|| stored.next()).flatten() {
                Some((Put { order, encoded, .. }, Stored::Written(ahead))) => {
                    shared.ahead.report(super::CLOCK, ahead);
                    shared.recent.put(&order, encoded);
                    Ok(())
                }
                Some((_, Stored::Unreadable(detail))) => Err(Error::store_unavailable(detail)),
                Some((_, Stored::Passed)) | None => Ok(()),
            };
            report(outcome);
        }
    }

    /// The batch is not in the file, as far as can be known.
    fn failed(self, detail: &str, ledger: &Mutex<Ledger>) {
        {
            let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
            for fact in self.before.into_iter().rev() {
                ledger.set(fact);
            }
        }
        let error = Error::store_unavailable(detail);
        for (report, _) in self.reports {
            report(Err(error.clone()));
        }
    }
}

/// Opens the database without changing the file until the disk goes live.
pub(super) fn open_database(file: &Locked) -> Result<(Disk, Database), String> {
    let disk = Disk::staged(file);
    let backend = disk.clone();
    let database = tables::guarded(|| {
        // Check every page: an unclean shutdown requires it anyway, and damage is found before anything
        // depends on it.
        let mut builder = Builder::new();
        builder.set_cache_size(PAGE_CACHE).set_check_integrity_on_open(true);
        Ok(builder.create_with_backend(backend)?)
    })?;
    Ok((disk, database))
}

/// The thread's own state.
pub(super) struct Writer {
    shared: Arc<Shared>,
    file: Locked,
    disk: Disk,
    failure: Option<WriteFailure>,
}

/// The disk rejects writes.
struct WriteFailure {
    detail: String,
    /// Whether the database was reopened since the failure.
    reopened: bool,
    tried_at: SystemTime,
    pause: Duration,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, file: Locked, disk: Disk) -> Self {
        Self { shared, file, disk, failure: None }
    }

    /// Runs until every sender is dropped.
    pub(super) fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(first) = jobs.blocking_recv() {
            let mut batch = vec![first];
            batch.extend(iter::from_fn(|| jobs.try_recv().ok()).take(BATCH_LIMIT - 1));
            self.carry_out(batch);
        }
    }

    fn carry_out(&mut self, jobs: Vec<Job>) {
        let now = self.shared.clock.now();
        let batch = Batch::decided(jobs, &mut self.shared.ledger(), now);
        match self.write(&batch.facts, &batch.puts) {
            Ok(stored) => batch.succeeded(stored, &self.shared),
            Err(detail) => batch.failed(&detail, &self.shared.ledger),
        }
    }

    /// Writes, unless the disk is failing.
    fn write(&mut self, facts: &[Fact], puts: &[Put]) -> Result<Vec<Stored>, String> {
        if facts.is_empty() && puts.is_empty() {
            return Ok(Vec::new());
        }
        self.recover()?;
        for put in puts {
            self.shared.keys.insert(put.order.as_str());
        }
        let written = tables::write(&self.shared.database(), facts, puts, self.shared.clock.now());
        match &written {
            Ok(_) => {
                if self.failure.take().is_some() {
                    tracing::info!("the store file can be written again");
                }
            }
            Err(detail) => {
                self.write_failed(detail.clone());
                // These may be in the file all the same: only the file can say.
                for put in puts {
                    self.shared.recent.remove(&put.order);
                }
            }
        }
        written
    }

    /// Prepares to write again after a failure.
    fn recover(&mut self) -> Result<(), String> {
        let now = self.shared.clock.now();
        let Some(failure) = &mut self.failure else { return Ok(()) };
        // A clock that was set back must not prolong the wait.
        if now.duration_since(failure.tried_at).is_ok_and(|since| since < failure.pause) {
            return Err(failure.detail.clone());
        }
        failure.tried_at = now;
        failure.pause = LAST_PAUSE.min(failure.pause * 2);
        if !failure.reopened {
            self.reopen()?;
        }
        self.disk.go_live().map_err(|error| error.to_string())
    }

    fn write_failed(&mut self, detail: String) {
        if self.failure.is_none() {
            tracing::error!(%detail, "the store file cannot be written");
        }
        let pause = self.failure.as_ref().map_or(FIRST_PAUSE, |failure| failure.pause);
        let tried_at = self.shared.clock.now();
        self.failure = Some(WriteFailure { detail, reopened: false, tried_at, pause });
        // Reopen at once, so that the file can still be read.
        if let Err(detail) = self.reopen() {
            tracing::error!(%detail, "the store file cannot be read");
        }
    }

    fn reopen(&mut self) -> Result<(), String> {
        let mut database = self.shared.database.write().unwrap_or_else(PoisonError::into_inner);
        self.disk.retire();
        let (disk, new) = open_database(&self.file)?;
        self.disk = disk;
        *database = Arc::new(new);
        if let Some(failure) = &mut self.failure {
            failure.reopened = true;
        }
        Ok(())
    }
}
