//! Remembers in a file of this machine, for one process at a time: whatever a method has carried
//! out is there again after a restart, a crash or `kill -9`. `app` opens it.
//!
//! Spent calls, paused accounts and tokens are held in memory too; orders, as far as they fit. So
//! what changes nothing asks no disk: a full window, an account without limits. Leases are held in
//! memory alone, because nobody else uses the file.

mod disk;
mod tables;
mod writer;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use self::disk::{Draft, Locked};
use self::tables::Put;
use self::writer::{Job, Report, Shared, Writer};
use super::cache::{Cache, encoded};
use super::ends::Ahead;
use super::leases::Leases;
use super::ledger::{Fact, Ledger};
use super::{AccountKey, Call, Held, Known, OrderKey, Outcome, Reservation, Store, WindowKey};
use crate::clock::Clock;
use crate::error::Error;
use crate::pb::Order;
use crate::providers::{Token, TokenStore};

/// Whose time stands in the file.
const CLOCK: &str = "this machine's";

/// How many changes wait for the thread that writes. Whoever has one more waits with it.
const QUEUE: usize = 1024;

/// A store in a file.
pub struct File {
    shared: Arc<Shared>,
    leases: Mutex<Leases>,
    /// `None` once the store is being dropped.
    jobs: Option<mpsc::Sender<Job>>,
    writer: Option<JoinHandle<()>>,
}

impl File {
    /// Opens the file, or makes one where there is none, in a folder that exists. Only its owner
    /// may read a new one: it holds access tokens and personal data. `cache_bytes` of orders are held in
    /// memory too.
    ///
    /// Reads the whole file: that takes as long as the disk needs for it, so call it where
    /// blocking is fine. Orders that are not terminal and were last observed more than 30 days
    /// ago are forgotten.
    ///
    /// # Errors
    /// A text for the operator: the file is in use by another process, damaged or not one of
    /// ours, its folder is missing, the disk is full. A file that is refused stays as it was.
    pub fn open(path: &Path, cache_bytes: usize, clock: Arc<dyn Clock>) -> Result<Self, String> {
        Self::open_or_create(path, cache_bytes, clock)
            .map_err(|problem| format!("the store file {} {problem}", path.display()))
    }

    /// Whether another process has the file now.
    #[must_use]
    pub fn is_held(path: &Path) -> bool {
        disk::is_held(path)
    }

    /// Whether the file can be opened, or made where there is none. Opens no store, and touches
    /// nothing.
    ///
    /// # Errors
    /// What [`open`](Self::open) would fail with.
    pub fn check(path: &Path) -> Result<(), String> {
        disk::check(path).map_err(|problem| format!("the store file {} {problem}", path.display()))
    }

    /// Proves that the file can be made, or written where it is there: by another one beside it, which
    /// is gone again. The file itself is not touched.
    ///
    /// # Errors
    /// A text for the operator.
    pub fn prove_writes(path: &Path) -> Result<(), String> {
        disk::prove_writes(path)
            .map_err(|problem| format!("the store file {} {problem}", path.display()))
    }

    fn open_or_create(
        path: &Path,
        cache_bytes: usize,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, String> {
        if let Some(file) = disk::open(path)? {
            return Self::start(file, cache_bytes, clock);
        }
        let draft = Draft::beside(path)?;
        let (disk, database) = writer::open_database(&draft.file)?;
        tables::guarded(|| tables::found(&database))?;
        drop(database);
        disk.go_live().map_err(|error| disk::unwritten(&error.to_string()))?;
        let file = Arc::clone(&draft.file);
        if draft.publish(path)? {
            return Self::start(file, cache_bytes, clock);
        }
        // Another process was faster.
        let file = disk::open(path)?.ok_or("was removed while it was being made")?;
        Self::start(file, cache_bytes, clock)
    }

    fn start(file: Locked, cache_bytes: usize, clock: Arc<dyn Clock>) -> Result<Self, String> {
        const DAMAGED: &str = "It was left as it is: put it back from a backup, or move it away \
             to begin anew (then spent calls are forgotten: ask no vendor with a daily limit for \
             24 hours)";
        let damaged = |problem: String| format!("is damaged: {problem}. {DAMAGED}");
        if disk::is_empty(&file) {
            return Err(damaged("it is empty".to_owned()));
        }
        let (disk, database) = writer::open_database(&file).map_err(damaged)?;
        tables::check_format(&database)?;
        let mut ledger = tables::load(&database).map_err(damaged)?;
        let unwritten = |problem: String| disk::unwritten(&problem);
        disk.go_live().map_err(|error| unwritten(error.to_string()))?;
        let now = clock.now();
        let cut = ledger.beyond(now);
        let facts = [cut.facts, ledger.expired(now)].concat();
        tables::prune(&database, &facts, now).map_err(unwritten)?;
        for fact in facts {
            ledger.set(fact);
        }
        let ahead = Ahead::default();
        ahead.report(CLOCK, cut.ahead);
        let shared = Arc::new(Shared {
            clock,
            ledger: Mutex::new(ledger),
            recent: Cache::new(cache_bytes),
            database: RwLock::new(Arc::new(database)),
            ahead,
        });
        let (jobs, asked) = mpsc::channel(QUEUE);
        let writer = Writer::new(Arc::clone(&shared), file, disk);
        let writer = thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run(asked))
            .map_err(|error| format!("has no thread to write it: {error}"))?;
        Ok(Self { shared, leases: Mutex::default(), jobs: Some(jobs), writer: Some(writer) })
    }

    /// Decides, and notes in the file what that changes. Decides twice where it changes anything:
    /// the second time is the one that counts, after all the changes before it.
    async fn change<T: Send + 'static>(
        &self,
        decide: impl Fn(&Ledger, SystemTime) -> (T, Vec<Fact>) + Send + 'static,
    ) -> Result<T, Error> {
        let (outcome, facts) = decide(&self.shared.ledger(), self.shared.clock.now());
        if facts.is_empty() {
            return Ok(outcome);
        }
        self.submit(decide, None).await
    }

    /// Has the thread decide, and write what that changes and the state.
    async fn submit<T: Send + 'static>(
        &self,
        decide: impl Fn(&Ledger, SystemTime) -> (T, Vec<Fact>) + Send + 'static,
        put: Option<Put>,
    ) -> Result<T, Error> {
        let (done, written) = oneshot::channel();
        let decide = move |ledger: &Ledger, now| {
            let (outcome, facts) = decide(ledger, now);
            let report: Report = Box::new(move |written: Result<(), Error>| {
                // Whoever asked may be gone: that changes nothing.
                let _ = done.send(written.map(|()| outcome));
            });
            (facts, report)
        };
        let gone = || Error::store_unavailable("the thread that writes the store file has ended");
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.send(Job { decide: Box::new(decide), put }).await.map_err(|_| gone())?;
        written.await.map_err(|_| gone())?
    }

    /// Notes in the file what happened.
    async fn note(
        &self,
        happened: impl Fn(&Ledger, SystemTime) -> Vec<Fact> + Send + 'static,
    ) -> Result<(), Error> {
        self.change(move |ledger, now| ((), happened(ledger, now))).await
    }

    /// Cuts what cannot be true of a call's windows: opened, the file told no window's period.
    async fn cut(&self, call: &Call) -> Result<(), Error> {
        let cut = self.shared.ledger().beyond_windows(&call.windows, self.shared.clock.now());
        if cut.facts.is_empty() {
            return Ok(());
        }
        self.shared.ahead.report(CLOCK, cut.ahead);
        let windows = call.windows.clone();
        self.note(move |ledger, now| ledger.beyond_windows(&windows, now).facts).await
    }

    async fn reserve_slots(&self, call: Call) -> Result<Reservation, Error> {
        self.cut(&call).await?;
        self.change(move |ledger, now| ledger.reserve(&call, now)).await
    }

    fn spent_now(&self, window: &WindowKey) -> Vec<SystemTime> {
        self.shared.ledger().spent(window, self.shared.clock.now())
    }

    fn leases<T>(&self, work: impl FnOnce(&mut Leases, SystemTime) -> T) -> T {
        let now = self.shared.clock.now();
        work(&mut self.leases.lock().unwrap_or_else(PoisonError::into_inner), now)
    }
}

fn put(order: &OrderKey, state: &Order) -> Put {
    Put { order: order.to_string(), state: state.clone(), encoded: encoded(state) }
}

impl Drop for File {
    /// Waits for what is under way, so that the file can be opened again at once.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            // One that panicked has nothing left to write.
            let _ = writer.join();
        }
    }
}

#[async_trait]
impl Store for File {
    fn peek(&self, order: &OrderKey, window: Option<&WindowKey>) -> Option<Known> {
        let spent = window.map(|window| self.spent_now(window)).unwrap_or_default();
        Known { state: self.shared.recent.get(order.as_str()), spent }.some()
    }

    async fn get(
        &self,
        order: &OrderKey,
        window: Option<&WindowKey>,
    ) -> Result<Option<Known>, Error> {
        let mut state = self.shared.recent.get(order.as_str());
        if state.is_none() {
            state = self.shared.read(order.to_string()).await?;
        }
        let spent = window.map(|window| self.spent_now(window)).unwrap_or_default();
        Ok(Known { state, spent }.some())
    }

    async fn put(&self, order: &OrderKey, state: &Order) -> Result<(), Error> {
        self.submit(|_, _| ((), Vec::new()), Some(put(order, state))).await
    }

    async fn reserve(&self, call: &Call) -> Result<Reservation, Error> {
        if !self.leases(|leases, now| leases.take(call.lease.as_ref(), now)) {
            return Ok(Reservation::Leased);
        }
        let reservation = self.reserve_slots(call.clone()).await;
        if !matches!(reservation, Ok(Reservation::Reserved)) {
            self.leases(|leases, _| leases.end(call.lease.as_ref()));
        }
        reservation
    }

    async fn finish(&self, call: &Call, outcome: Outcome<'_>) -> Result<Vec<SystemTime>, Error> {
        let (finished, resumes) = (call.clone(), outcome != Outcome::Counted);
        let decide = move |ledger: &Ledger, now| ((), ledger.finish(&finished, resumes, now));
        if let Outcome::Found(order, state) = outcome {
            self.submit(decide, Some(put(order, state))).await?;
            self.leases(|leases, _| leases.end(call.lease.as_ref()));
        } else {
            self.change(decide).await?;
        }
        Ok(call.order_window().map(|window| self.spent_now(window)).unwrap_or_default())
    }

    async fn cancel(&self, call: &Call) -> Result<(), Error> {
        let call = call.clone();
        self.note(move |ledger, now| ledger.cancel(&call, now)).await
    }

    async fn pause(&self, account: &AccountKey, wait: Duration, probe: bool) -> Result<(), Error> {
        let account = account.clone();
        self.note(move |_, now| Fact::paused(&account, wait, probe, now)).await
    }

    async fn spent(&self, window: &WindowKey) -> Result<Vec<SystemTime>, Error> {
        Ok(self.spent_now(window))
    }

    async fn ping(&self) -> Result<(), Error> {
        // Opening has written the file. What becomes of its disk later is told by what fails.
        Ok(())
    }

    fn held(&self) -> Held {
        let (cache, spent_calls) = (self.shared.recent.bytes(), self.shared.ledger().bytes());
        Held { cache, terminal: 0, spent_calls }
    }

    fn is_shared(&self) -> bool {
        false
    }
}

#[async_trait]
impl TokenStore for File {
    async fn load(&self, identity: &str) -> Result<Option<Token>, Error> {
        Ok(self.shared.ledger().token(identity).cloned())
    }

    async fn save(&self, identity: &str, token: &Token) -> Result<(), Error> {
        let (identity, token) = (identity.to_owned(), token.clone());
        self.note(move |_, _| Fact::token(&identity, &token)).await
    }

    async fn remove_if(&self, identity: &str, token: &Token) -> Result<(), Error> {
        let (identity, token) = (identity.to_owned(), token.clone());
        self.note(move |ledger, _| ledger.drop_token(&identity, &token)).await
    }

    async fn lease(&self, what: &str, owner: &str, life: Duration) -> Result<bool, Error> {
        Ok(self.leases(|leases, now| leases.lease(what, owner, life, now)))
    }

    async fn release(&self, what: &str, owner: &str) -> Result<(), Error> {
        self.leases(|leases, _| leases.release(what, owner));
        Ok(())
    }
}
