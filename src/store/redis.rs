//! A store in a Redis or Valkey server (7 or later), for several replicas. `app` opens it for
//! `redis://` and `rediss://`, and for the same behind Redis Sentinel: `redis-sentinel://` and
//! `rediss-sentinel://`.
//!
//! Scripts decide in the server, each one atomically, by the server's own clock: a slot that one
//! replica uses is used for all. A call has an id and a lease has an owner, so a script that runs twice
//! because its answer was lost has the same effect as one that runs once.
//!
//! Each replica also counts the calls it has sent itself, in this process, and those must fit the
//! limits too. If it is unknown whether the server has reserved a slot, the slot counts as used. A server
//! that was emptied, restarted or replaced by its copy may have lost calls: the [fence] then holds
//! limited calls back until every replica has published its own again.
//!
//! What another replica stores, this one reads into its memory soon: see [news].
//!
//! While the server cannot be reached, everything but [`Store::peek`] fails; the connection is retried
//! automatically.
//!
//! A cluster (`redis-cluster://`, `rediss-cluster://`) keeps the keys of an order, an account and a caller
//! each on one node; a call takes up to three scripts there ([keys], [parts]).

mod connection;
mod eviction;
mod fence;
mod finish;
#[cfg(fuzzing)]
pub mod fuzzing;

mod input;
mod keys;
mod knowledge;
mod news;
mod parts;
mod refusals;
mod reserve;
mod scripts;
mod server;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::future::try_join_all;

use self::connection::Connection;
use self::fence::Fence;
use self::knowledge::{FOUND, Knowledge, NOTHING};
use self::news::News;
use self::parts::Part;
use self::refusals::Refusals;
use self::scripts::{Input, Line, Runner, millis};
pub use self::server::{Server, Silence};
use super::ends::{self, Ahead, LONGEST_PAUSE, LONGEST_TOKEN};
use super::{
    AccountKey, Call, FenceState, Held, Known, OPENING_POLL, OrderKey, Outcome, Reservation,
    Snapshot, Store, WindowKey, newer,
};
use crate::clock::Clock;
use crate::config::Secret;
use crate::error::Error;
use crate::pb::Order;
use crate::providers::{Token, TokenStore, new_id};

/// How long the keys of a ping last if the ping does not delete them itself.
const PING_LIFE: Duration = Duration::from_secs(10);

/// Which clock wrote the times in the server, and those in the orders it holds.
const SERVERS: &str = "the Redis server's";
const REPLICAS: &str = "a replica's";

/// A store in a Redis server.
pub struct Redis {
    clock: Arc<dyn Clock>,
    server: Arc<Runner>,
    here: Arc<Knowledge>,
    fence: Arc<Fence>,
    news: News,
    ahead: Ahead,
}

impl Redis {
    /// Creates a store in the server at this URL; up to `cache_bytes` of orders are also held in this
    /// process. The server need not run yet: the connection is made once it does.
    ///
    /// # Errors
    /// The problem with the URL, without the URL itself: it may hold a password.
    pub fn open(url: &str, cache_bytes: usize, clock: Arc<dyn Clock>) -> Result<Self, String> {
        let watch_eviction = |connection| drop(tokio::spawn(eviction::watch(connection)));
        let connection = Arc::new(Connection::new(url, watch_eviction)?);
        connection.begin();
        Ok(Self::on(Line::Connected(connection), cache_bytes, clock))
    }

    /// For tests: the same store over a server that is no Redis process.
    #[must_use]
    pub fn over(server: Arc<dyn Server>, cache_bytes: usize, clock: Arc<dyn Clock>) -> Self {
        Self::on(Line::Given(server), cache_bytes, clock)
    }

    fn on(line: Line, cache_bytes: usize, clock: Arc<dyn Clock>) -> Self {
        let refusals = Refusals::default();
        let is_cluster = line.is_cluster();
        Self {
            here: Arc::new(Knowledge::new(cache_bytes, Arc::clone(&clock))),
            clock,
            server: Arc::new(Runner { line, is_cluster, time: OnceLock::new(), refusals }),
            fence: Fence::new(),
            news: News::default(),
            ahead: Ahead::default(),
        }
    }

    /// Checks that the URL can be that of a server.
    ///
    /// # Errors
    /// The problem with it, without the URL.
    pub fn check(url: &str) -> Result<(), String> {
        Connection::new(url, |_| ()).map(drop)
    }

    /// For tests that control the time: this clock replaces the server's own. All stores of one server
    /// must then use one clock.
    #[must_use]
    pub fn timed_by(self, clock: Arc<dyn Clock>) -> Self {
        // Nothing has used it yet, or it stays as it is.
        let _ = self.server.time.set(clock);
        self
    }

    /// The time in this many milliseconds, by our own clock.
    fn later(&self, millis: u64) -> SystemTime {
        self.clock.now() + Duration::from_millis(millis)
    }

    /// The used slots of a window: those that the server reports, or those that this replica itself has
    /// sent if there are more.
    fn spent_at_least(&self, window: Option<&WindowKey>, there: Vec<u64>) -> Vec<SystemTime> {
        let there: Vec<_> = there.into_iter().map(|left| self.later(left)).collect();
        let own = self.here.own.spent_now(window);
        if own.len() > there.len() { own } else { there }
    }

    /// Records what this replica knows before the server is asked: a vendor's answer is known here even
    /// if the server cannot store it.
    fn put_here(&self, order: &OrderKey, state: &Order) {
        let now = self.clock.now();
        let wins = |state: &Order, known: &Order| newer(state, known, now);
        self.here.recent.update(order.as_str(), state.clone(), wins);
    }

    /// Records the server's answer to a put.
    fn put_there(&self, order: &OrderKey, found: u8, later: Option<&[u8]>, ahead: u64) {
        self.ahead.report(REPLICAS, Duration::from_millis(ahead));
        self.here.learn(order, found, later);
    }

    async fn delete_if(
        &self,
        kind: &'static str,
        name: &str,
        field: &str,
        is: &str,
    ) -> Result<(), Error> {
        let input = Input::default().key(kind, name).argument(field).argument(is);
        Ok(self.server.run(&scripts::DELETE_IF, input).await?)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // The fence's task ends at once, and so does the membership.
        self.fence.stop();
    }
}

#[async_trait]
impl Store for Redis {
    fn snapshot(&self, order: &OrderKey, window: Option<&WindowKey>) -> Snapshot {
        let spent = self.spent_at_least(window, Vec::new());
        Snapshot { state: self.here.recent.get(order.as_str()), spent }
    }

    async fn get(
        &self,
        order: &OrderKey,
        window: Option<&WindowKey>,
    ) -> Result<Option<Known>, Error> {
        let mut input = Input::default().key("order", order).longest();
        if let Some(window) = window {
            input = input.key("slots", window);
        }
        let (found, bytes, spent, ahead): (u8, Option<Vec<u8>>, Vec<u64>, u64) =
            self.server.run(&scripts::GET, input).await?;
        self.ahead.report(SERVERS, Duration::from_millis(ahead));
        // A state that the server has lost is still known here.
        let learned = self.here.learn(order, found, bytes.as_deref());
        let state = learned.or_else(|| Some(self.here.recent.get(order.as_str())?.decode()));
        Ok(Known { state, spent: self.spent_at_least(window, spent) }.some())
    }

    async fn put(&self, order: &OrderKey, state: &Order) -> Result<(), Error> {
        self.put_here(order, state);
        let input = Input::default().key("order", order).state(Some(state));
        let (found, later, ahead): (u8, Option<Vec<u8>>, u64) =
            self.server.run(&scripts::PUT, input).await?;
        self.put_there(order, found, later.as_deref(), ahead);
        Ok(())
    }

    async fn reserve(&self, call: &Call) -> Result<Reservation, Error> {
        self.reserve_everywhere(call).await
    }

    async fn finish(&self, call: &Call, outcome: Outcome<'_>) -> Result<Vec<SystemTime>, Error> {
        self.finish_everywhere(call, outcome).await
    }

    async fn cancel(&self, call: &Call) -> Result<(), Error> {
        self.here.own.cancel(call).await?;
        let parts = Part::all(call, Part::order(call), self.server.is_cluster);
        let cancel = parts.iter().map(|part| self.cancel_part(call, part, false));
        try_join_all(cancel).await?;
        Ok(())
    }

    async fn pause(&self, account: &AccountKey, wait: Duration, probe: bool) -> Result<(), Error> {
        let wait = wait.min(LONGEST_PAUSE);
        let every = if probe { wait } else { Duration::ZERO };
        let input = Input::default().key("closed", account);
        let input = input.argument(millis(wait)).argument(millis(every)).argument(0);
        self.here.noted.pause(account, wait, probe).await?;
        Ok(self.server.run(&scripts::PAUSE, input).await?)
    }

    async fn spent(&self, window: &WindowKey) -> Result<Vec<SystemTime>, Error> {
        let input = Input::default().key("slots", window).longest();
        let (spent, ahead): (Vec<u64>, u64) = self.server.run(&scripts::SPENT, input).await?;
        self.ahead.report(SERVERS, Duration::from_millis(ahead));
        Ok(self.spent_at_least(Some(window), spent))
    }

    async fn ping(&self) -> Result<(), Error> {
        let own = new_id();
        let pings = self.server.line.tags().await?.into_iter().map(|tag| {
            let input = Input::at(tag).key("probe", &own).key("probe", &format!("{own} set"));
            self.server.run::<()>(&scripts::PING, input.argument(millis(PING_LIFE)))
        });
        try_join_all(pings).await?;
        self.server.line.answered();
        // Afterwards: a server says what is wrong in its answer to a short command.
        self.fence.start(&self.server, &self.here);
        self.news.start(&self.server, &self.here);
        Ok(())
    }

    async fn opened(&self) {
        while self.ping().await.is_err() {
            tokio::time::sleep(OPENING_POLL).await;
        }
        self.fence.opened().await;
    }

    async fn close(&self) {
        self.fence.close_membership().await;
    }

    fn fence(&self) -> FenceState {
        self.fence.state()
    }

    fn held(&self) -> Held {
        Held { cache: self.here.recent.bytes(), ..self.here.own.held() }
    }

    fn is_shared(&self) -> bool {
        true
    }
}

#[async_trait]
impl TokenStore for Redis {
    async fn load(&self, identity: &str) -> Result<Option<Token>, Error> {
        let input = Input::default().key("token", identity);
        let (found, value, left): (u8, Option<Vec<u8>>, u64) =
            self.server.run(&scripts::LOAD, input).await?;
        let value = value.filter(|_| found == FOUND).and_then(|it| String::from_utf8(it).ok());
        if value.is_none() && found != NOTHING {
            // The caller gets a new token, which replaces this one.
            self.here.log_garbage("token");
        }
        let (now, renew_at) = (self.clock.now(), self.later(left));
        if let Some(beyond) = ends::beyond(renew_at, LONGEST_TOKEN, now) {
            // The token's real end is unknown.
            self.ahead.report(SERVERS, beyond);
            return Ok(None);
        }
        let token = value.map(|value| Token { value: Secret::from(&*value), renew_at });
        if let Some(token) = &token {
            self.here.noted.save(identity, token).await?;
        }
        Ok(token)
    }

    async fn save(&self, identity: &str, token: &Token) -> Result<(), Error> {
        let life = token.renew_at.duration_since(self.clock.now()).unwrap_or_default();
        let input = Input::default().key("token", identity);
        let input = input.argument(token.value.expose()).argument(millis(life)).argument(0);
        self.here.noted.save(identity, token).await?;
        Ok(self.server.run(&scripts::SAVE, input).await?)
    }

    async fn remove_if(&self, identity: &str, token: &Token) -> Result<(), Error> {
        self.here.noted.remove_if(identity, token).await?;
        self.delete_if("token", identity, "value", token.value.expose()).await
    }

    async fn lease(&self, what: &str, owner: &str, life: Duration) -> Result<bool, Error> {
        let input = Input::default().key("lease", what).argument(owner).argument(millis(life));
        let (granted, ahead): (bool, u64) = self.server.run(&scripts::LEASE, input).await?;
        self.ahead.report(SERVERS, Duration::from_millis(ahead));
        Ok(granted)
    }

    async fn release(&self, what: &str, owner: &str) -> Result<(), Error> {
        self.delete_if("lease", what, "owner", owner).await
    }
}
