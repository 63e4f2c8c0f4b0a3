//! The shared store as the contract's checks need it: alone on a server, its time advanced by hand.

pub mod cluster;
mod faults;
mod fence;
mod live_calls;
mod news;
mod refusals;
mod sentinel;
mod shared;
mod tls;
pub mod words;

use std::sync::Arc;
use std::time::Duration;

use order_query::clock::{Clock as _, ManualClock};
use order_query::store::{Redis, Store};

use super::Fixture;
use crate::support::manual_clock;
use crate::support::redis_server::RedisServer;

pub struct RedisStore {
    clock: ManualClock,
    server: RedisServer,
    store: Arc<Redis>,
}

impl RedisStore {
    fn open(server: RedisServer, clock: ManualClock) -> Self {
        let time = || Arc::new(clock.clone());
        let store = Arc::new(server.store_at(time()).timed_by(time()));
        Self { clock, server, store }
    }
}

impl Fixture for RedisStore {
    const SLACK: Duration = Duration::ZERO;

    async fn start() -> Self {
        Self::open(RedisServer::start(), manual_clock())
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// Another replica replaces it.
    async fn restart(self) -> Self {
        Self::open(self.server, self.clock)
    }

    async fn restart_earlier(self, by: Duration) -> Self {
        Self::open(self.server, ManualClock::new(self.clock.now() - by))
    }
}
