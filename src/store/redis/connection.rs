//! The connection to the server. It is made when first needed and made again when lost; no caller waits
//! for it longer than an operation may take. Only this module and those in it use the library's
//! connection types; `scripts` sends through it.
//!
//! After any failure callers fail at once for a short while, instead of queueing for a server that does
//! not answer; the first call after that tries again.
#![allow(clippy::disallowed_types, reason = "the one module of the library's connections")]

mod address;
mod cluster;
mod link;
mod sentinels;
mod subscription;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use ::redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use self::address::{Address, Route};
use self::link::{Link, bounded, is_answer, open};
use self::sentinels::Named;
pub(super) use self::subscription::Subscription;
use super::keys::HashTag;
use super::refusals::Why;
use crate::error::Error;

/// The time limit of a whole operation.
const OPERATION_LIMIT: Duration = Duration::from_millis(250);

/// The time limit for connecting, the sentinels' answers included; longer than any operation waits for
/// it.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// How long callers fail at once after a failure.
const CLOSED_FOR: Duration = Duration::from_millis(500);

/// The server's connection, made and renewed on demand.
pub(super) struct Connection {
    address: Address,
    state: Mutex<State>,
    /// Called once, on the first connection to the server.
    connected: fn(Weak<Self>),
    was_connected: AtomicBool,
    /// Whether a cluster is being connected to once more: see [`renew`](Self::renew).
    is_renewing: AtomicBool,
    /// The connection state that was last logged: connected, or why not.
    reported: Mutex<Option<Result<(), Why>>>,
}

enum State {
    /// Not connected; no attempt is made before `until`.
    Down { until: Instant, why: Why },
    /// Connecting: callers wait for it until `until`, and then fail at once.
    Connecting { done: watch::Receiver<()>, until: Instant },
    /// Connected; `number` is the connection's generation. `named` is the address that sentinels gave.
    Up { connection: Link, number: u64, named: Option<Named> },
}

/// One operation: its deadline, and whether the server may have carried it out.
pub(super) struct Operation {
    pub(super) deadline: Instant,
    /// A command was sent but not answered.
    pub(super) in_doubt: bool,
}

/// Why an operation failed. It holds no address, no credentials and none of the data sent.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server cannot be reached or does not answer.
    Gone(Why),
    /// The server does not know the script.
    NoScript,
    /// The server refuses the command.
    Refused(Why),
    /// The server's answer has an unexpected form.
    Unreadable,
}

impl Operation {
    pub(super) fn new() -> Self {
        Self { deadline: Instant::now() + OPERATION_LIMIT, in_doubt: false }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let why = match failure {
            Failure::Gone(why) => why.at("redis"),
            Failure::NoScript => Why::new("redis: the script was not found"),
            Failure::Refused(why) => why.at("redis refuses"),
            Failure::Unreadable => Why::new("redis: the answer cannot be read"),
        };
        Self { advice: why.advice, ..Self::store_unavailable(why.text) }
    }
}

impl Connection {
    /// Creates a connection to the server at this URL; nothing is sent yet. `connected` is called once,
    /// on the first connection to the server.
    pub(super) fn new(url: &str, connected: fn(Weak<Self>)) -> Result<Self, String> {
        let state = State::Down { until: Instant::now(), why: Why::default() };
        Ok(Self {
            address: Address::parse(url)?,
            state: Mutex::new(state),
            connected,
            was_connected: AtomicBool::default(),
            is_renewing: AtomicBool::default(),
            reported: Mutex::default(),
        })
    }

    /// Sends a command and waits for its answer. If the connection turns out to be lost, a new one is
    /// made and the command is sent once more: every command may run twice.
    pub(super) async fn send(
        self: &Arc<Self>,
        command: &Cmd,
        operation: &mut Operation,
    ) -> Result<Value, Failure> {
        #[cfg(fuzzing)]
        if let Some(answer) = super::fuzzing::played() {
            return answer.and_then(Value::extract_error).map_err(|error| self.refusal(&error, 0));
        }
        let mut tries_left = 2;
        loop {
            tries_left -= 1;
            let (mut connection, number) = self.connection(operation.deadline).await?;
            let error = match timeout_at(operation.deadline, connection.send(command)).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) if is_answer(&error) => return Err(self.refusal(&error, number)),
                Ok(Err(error)) => Why::of(&error),
                Err(_) => Why::new("no answer in time"),
            };
            operation.in_doubt = true;
            if self.is_cluster() {
                // One node is lost, and the library connects to it again; but not if it only hangs.
                self.report(Err(error.clone().at("a node of the cluster")));
                self.renew(number);
                return Err(Failure::Gone(error));
            }
            let again = tries_left > 0 && Instant::now() < operation.deadline;
            if self.give_up(number, &error, if again { Duration::ZERO } else { CLOSED_FOR }) {
                self.report(Err(error.clone()));
            }
            if !again {
                return Err(Failure::Gone(error));
            }
        }
    }

    /// Interprets an error that the server itself returned.
    fn refusal(&self, error: &RedisError, number: u64) -> Failure {
        let why = if self.is_cluster() { Why::of(error).in_cluster() } else { Why::of(error) };
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::NoScript) => Failure::NoScript,
            kind => {
                // This server is no longer the primary: its name may resolve to another server by now.
                if kind == ErrorKind::Server(ServerErrorKind::ReadOnly) {
                    self.give_up(number, &why, CLOSED_FOR);
                }
                Failure::Refused(why)
            }
        }
    }

    /// Starts connecting, unless that has started already or there is no runtime.
    pub(super) fn begin(self: &Arc<Self>) {
        if tokio::runtime::Handle::try_current().is_ok() {
            let connection = Arc::clone(self);
            tokio::spawn(async move { connection.connection(Instant::now()).await.map(drop) });
        }
    }

    /// Returns the connection as soon as there is one.
    async fn connection(self: &Arc<Self>, deadline: Instant) -> Result<(Link, u64), Failure> {
        let (mut done, until) = match &mut *self.state() {
            State::Up { connection, number, .. } => return Ok((connection.clone(), *number)),
            State::Down { until, why } if Instant::now() < *until => {
                return Err(Failure::Gone(why.clone().at("not retried yet")));
            }
            State::Connecting { done, until } if done.has_changed().is_ok() => {
                (done.clone(), *until)
            }
            state => {
                let (ended, done) = watch::channel(());
                let until = Instant::now() + OPERATION_LIMIT;
                *state = State::Connecting { done: done.clone(), until };
                tokio::spawn(Arc::clone(self).connect(ended));
                (done, until)
            }
        };
        // An error here means that the attempt or the time has ended: the state shows which.
        let _ = timeout_at(deadline.min(until), done.changed()).await;
        match &*self.state() {
            State::Up { connection, number, .. } => Ok((connection.clone(), *number)),
            State::Down { why, .. } => Err(Failure::Gone(why.clone())),
            State::Connecting { .. } => Err(Failure::Gone(Why::new("cannot be reached in time"))),
        }
    }

    /// Makes a connection. Dropping `ended` notifies the waiters, whatever happens here.
    async fn connect(self: Arc<Self>, ended: watch::Sender<()>) {
        match self.greeted().await {
            Ok((connection, named)) => {
                *self.state() = State::Up { connection, number: new_number(), named };
                drop(ended);
                self.report(Ok(()));
                if !self.was_connected.swap(true, Ordering::Relaxed) {
                    (self.connected)(Arc::downgrade(&self));
                    self.watch_sentinels();
                }
            }
            Err(problem) => {
                let why = problem.at("cannot be reached");
                self.report(Err(why.clone()));
                *self.state() = State::Down { until: Instant::now() + CLOSED_FOR, why };
            }
        }
    }

    /// Makes a new connection to the server, or to the primary that the sentinels name, and sends the
    /// greeting on it.
    async fn greeted(&self) -> Result<(Link, Option<Named>), Why> {
        let deadline = Instant::now() + CONNECT_LIMIT;
        let Address { route, greeting, .. } = &self.address;
        match route {
            Route::Direct(client) => {
                let opened = open(client, greeting, deadline).await;
                let linked = opened.map(|connection| (Link::One(connection), None));
                linked.map_err(|error| Why::of(&error))
            }
            Route::Sentinels(sentinels) => {
                let primary = sentinels.primary(greeting, deadline).await;
                primary.map(|(connection, named)| (Link::One(connection), Some(named)))
            }
            Route::Cluster(cluster) => {
                let connected = cluster.connect(greeting, deadline).await;
                connected.map(|connection| (Link::Cluster(connection), None))
            }
        }
    }

    /// Replaces a connection to a cluster by a new one, once there is one: the library goes on asking a node
    /// that hangs, though a copy has taken its place. Other nodes are asked meanwhile.
    fn renew(self: &Arc<Self>, late: u64) {
        if self.is_renewing.swap(true, Ordering::Relaxed) {
            return;
        }
        let this = Arc::clone(self);
        tokio::spawn(async move {
            if let Ok((connection, named)) = this.greeted().await
                && let state = &mut *this.state()
                && matches!(state, State::Up { number, .. } if *number == late)
            {
                *state = State::Up { connection, number: new_number(), named };
            }
            tokio::time::sleep(CLOSED_FOR).await;
            this.is_renewing.store(false, Ordering::Relaxed);
        });
    }

    fn watch_sentinels(self: &Arc<Self>) {
        if matches!(self.address.route, Route::Sentinels(_)) {
            tokio::spawn(sentinels::watch(Arc::downgrade(self)));
        }
    }

    /// Gives the connection up, and makes a new one, if the sentinels agree on another primary.
    async fn compare_with_sentinels(self: &Arc<Self>) {
        let Route::Sentinels(sentinels) = &self.address.route else { return };
        let Some((number, in_use)) = self.named() else { return };
        if sentinels.named().await.is_none_or(|now| now == in_use) {
            return;
        }
        let why = Why::new("the sentinels name another primary");
        if self.give_up(number, &why, Duration::ZERO) {
            self.report(Err(why));
            self.begin();
        }
    }

    /// The address that sentinels gave for the present connection, and the connection's generation.
    fn named(&self) -> Option<(u64, Named)> {
        match &*self.state() {
            State::Up { number, named, .. } => named.clone().map(|named| (*number, named)),
            _ => None,
        }
    }

    /// Sends a command beside the calls on the existing connection; its outcome does not affect them. In a
    /// cluster it goes to every primary.
    ///
    /// # Errors
    /// There is no connection, no answer arrives, or the server refuses.
    pub(super) async fn ask_aside(&self, command: &Cmd) -> Result<Vec<Value>, Failure> {
        let mut connection = match &*self.state() {
            State::Up { connection, .. } => connection.clone(),
            _ => return Err(Failure::Gone(Why::new("not connected"))),
        };
        bounded(Instant::now() + CONNECT_LIMIT, connection.send_to_all(command)).await
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.address.route, Route::Cluster(_))
    }

    /// One hash tag for each primary of the cluster that has one.
    ///
    /// # Errors
    /// There is no connection, no answer arrives, or the server refuses.
    pub(super) async fn tags(self: &Arc<Self>) -> Result<Vec<HashTag>, Failure> {
        let deadline = Instant::now() + OPERATION_LIMIT;
        match self.connection(deadline).await? {
            (Link::Cluster(mut all), _) => bounded(deadline, cluster::tags(&mut all)).await,
            (Link::One(_), _) => Ok(Vec::new()),
        }
    }

    /// Every primary of the cluster has answered.
    pub(super) fn answered(&self) {
        if self.is_cluster() {
            self.report(Ok(()));
        }
    }

    /// Drops a connection, unless another one has replaced it. Returns whether it was dropped.
    fn give_up(&self, lost: u64, why: &Why, closed_for: Duration) -> bool {
        let state = &mut *self.state();
        let is_that = matches!(state, State::Up { number, .. } if *number == lost);
        if is_that {
            *state = State::Down { until: Instant::now() + closed_for, why: why.clone() };
        }
        is_that
    }

    /// Logs that the server is connected, or why not; once for each change.
    fn report(&self, news: Result<(), Why>) {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.as_ref() == Some(&news) {
            return;
        }
        match &news {
            Ok(()) => tracing::info!("the shared store is connected"),
            Err(Why { text: why, advice }) => {
                tracing::warn!(why, advice, "the shared store is not connected");
            }
        }
        *reported = Some(news);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A new generation of the connection.
fn new_number() -> u64 {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    NUMBER.fetch_add(1, Ordering::Relaxed)
}
