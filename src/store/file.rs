//! A store in a file on this machine, for one process at a time. Everything a method has carried out
//! survives a restart, a crash and `kill -9`. `app` opens it.
//!
//! Spent calls, paused accounts and tokens are also held in memory; orders are too, as far as they fit.
//! So an operation that changes nothing needs no disk access: a full window, for example, or an account
//! without limits. Leases are held in memory only, because no other process uses the file.

mod disk;
mod keys;
mod tables;
mod writer;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use self::disk::{Draft, Locked};
use self::keys::Keys;
use self::tables::Put;
use self::writer::{Job, Report, Shared, Writer};
use super::cache::{Cache, Encoded};
use super::ends::Ahead;
use super::leases::Leases;
use super::ledger::{Fact, Ledger};
use super::{
    AccountKey, Call, Held, Known, OrderKey, Outcome, Reservation, Snapshot, Store, WindowKey,
};
use crate::clock::Clock;
use crate::error::Error;
use crate::pb::Order;
use crate::providers::{Token, TokenStore};

/// Which clock wrote the times in the file.
const CLOCK: &str = "this machine's";

/// How many changes may wait for the writer thread. Further callers wait for space in the queue.
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
    /// Opens the file, or creates it in an existing folder. Only its owner may read a new file: it
    /// holds access tokens and personal data. Up to `cache_bytes` of orders are also held in memory.
    ///
    /// This reads the whole file and blocks while the disk is read, so call it where blocking is fine.
    /// Orders that are not terminal and were last observed more than 30 days ago are deleted.
    ///
    /// # Errors
    /// A text for the operator: the file is in use by another process, damaged or not ours, its folder
    /// is missing, or the disk is full. A rejected file stays unchanged.
    pub fn open(path: &Path, cache_bytes: usize, clock: Arc<dyn Clock>) -> Result<Self, String> {
        Self::open_or_create(path, cache_bytes, clock)
            .map_err(|problem| format!("the store file {} {problem}", path.display()))
    }

    /// Whether another process uses the file now.
    #[must_use]
    pub fn is_held(path: &Path) -> bool {
        disk::is_held(path)
    }

    /// Checks that the file can be opened, or created if there is none. It opens no store and changes
    /// nothing.
    ///
    /// # Errors
    /// The same as [`open`](Self::open).
    pub fn check(path: &Path) -> Result<(), String> {
        disk::check(path).map_err(|problem| format!("the store file {} {problem}", path.display()))
    }

    /// Proves that the file can be created, or written if it exists, by writing another file beside it
    /// and deleting that one. The file itself stays unchanged.
    ///
    /// # Errors
    /// A text for the operator.
    pub fn check_writable(path: &Path) -> Result<(), String> {
        disk::check_writable(path)
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
        // Another process created the file first.
        let file = disk::open(path)?.ok_or("was removed while it was being created")?;
        Self::start(file, cache_bytes, clock)
    }

    fn start(file: Locked, cache_bytes: usize, clock: Arc<dyn Clock>) -> Result<Self, String> {
        const DAMAGED: &str = "It was left unchanged: restore it from a backup, or move it away to \
                               start with an empty store (spent calls are then forgotten: ask no \
                               vendor with a daily limit for 24 hours)";
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
        let keys = Keys::default();
        tables::prune(&database, &facts, now, &keys).map_err(unwritten)?;
        for fact in facts {
            ledger.set(fact);
        }
        let ahead = Ahead::default();
        ahead.report(CLOCK, cut.ahead);
        let shared = Arc::new(Shared {
            clock,
            ledger: Mutex::new(ledger),
            recent: Cache::new(cache_bytes),
            keys,
            database: RwLock::new(Arc::new(database)),
            ahead,
        });
        let (jobs, asked) = mpsc::channel(QUEUE);
        let writer = Writer::new(Arc::clone(&shared), file, disk);
        let writer = thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run(asked))
            .map_err(|error| format!("has no writer thread: {error}"))?;
        Ok(Self { shared, leases: Mutex::default(), jobs: Some(jobs), writer: Some(writer) })
    }

    /// Makes a decision, and writes the changes that follow from it to the file. If there are any, it
    /// decides twice: the second decision counts, because it sees all earlier changes.
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

    /// Lets the writer thread decide, and write the resulting changes and the state.
    async fn submit<T: Send + 'static>(
        &self,
        decide: impl Fn(&Ledger, SystemTime) -> (T, Vec<Fact>) + Send + 'static,
        put: Option<Put>,
    ) -> Result<T, Error> {
        let (done, written) = oneshot::channel();
        let decide = move |ledger: &Ledger, now| {
            let (outcome, facts) = decide(ledger, now);
            let report: Report = Box::new(move |written: Result<(), Error>| {
                // The caller may be gone; the change is written all the same.
                let _ = done.send(written.map(|()| outcome));
            });
            (facts, report)
        };
        let gone = || Error::store_unavailable("the thread that writes the store file has ended");
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.send(Job { decide: Box::new(decide), put }).await.map_err(|_| gone())?;
        written.await.map_err(|_| gone())?
    }

    /// Writes facts to the file.
    async fn note(
        &self,
        happened: impl Fn(&Ledger, SystemTime) -> Vec<Fact> + Send + 'static,
    ) -> Result<(), Error> {
        self.change(move |ledger, now| ((), happened(ledger, now))).await
    }

    /// Cuts impossible times in the call's windows. Opening the file cannot do this, because the file
    /// does not hold the windows' periods.
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

    fn spent_now(&self, window: Option<&WindowKey>) -> Vec<SystemTime> {
        self.shared.ledger().spent(window, self.shared.clock.now())
    }

    fn leases<T>(&self, work: impl FnOnce(&mut Leases, SystemTime) -> T) -> T {
        let now = self.shared.clock.now();
        work(&mut self.leases.lock().unwrap_or_else(PoisonError::into_inner), now)
    }
}

fn put(order: &OrderKey, state: &Order) -> Put {
    Put { order: order.to_string(), state: state.clone(), encoded: Encoded::new(state) }
}

impl Drop for File {
    /// Waits for pending writes, so that the file can be opened again at once.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            // A thread that panicked has nothing left to write.
            let _ = writer.join();
        }
    }
}

#[async_trait]
impl Store for File {
    fn snapshot(&self, order: &OrderKey, window: Option<&WindowKey>) -> Snapshot {
        let spent = self.spent_now(window);
        Snapshot { state: self.shared.recent.get(order.as_str()), spent }
    }

    async fn get(
        &self,
        order: &OrderKey,
        window: Option<&WindowKey>,
    ) -> Result<Option<Known>, Error> {
        let recent = self.shared.recent.get(order.as_str());
        let mut state = recent.map(|recent| recent.decode());
        if state.is_none() {
            state = self.shared.read(order.as_str()).await?;
        }
        Ok(Known { state, spent: self.spent_now(window) }.some())
    }

    async fn put(&self, order: &OrderKey, state: &Order) -> Result<(), Error> {
        self.submit(|_, _| ((), Vec::new()), Some(put(order, state))).await
    }

    async fn reserve(&self, call: &Call) -> Result<Reservation, Error> {
        if let Some(lease) = &call.lease {
            let known = self.get(&lease.order, None).await?;
            if !self.leases(|leases, now| leases.take(lease, known.as_ref(), now)) {
                return Ok(Reservation::Leased);
            }
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
        Ok(self.spent_now(call.order_window()))
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
        Ok(self.spent_now(Some(window)))
    }

    async fn ping(&self) -> Result<(), Error> {
        // Opening the store has already written the file. If its disk fails later, the operations that
        // fail report it.
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
