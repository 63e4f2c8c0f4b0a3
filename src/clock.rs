//! The time, as a parameter: everything that asks for it takes a [`Clock`], so that tests can
//! move it. Anyone may use this; nobody else reads the wall clock (clippy keeps it so).

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;

/// Tells the time.
#[async_trait]
pub trait Clock: Send + Sync {
    /// The time now. It never goes back and never jumps, whatever is done to the machine's clock:
    /// ages and limits count by it.
    fn now(&self) -> SystemTime;

    /// What the machine's clock shows now: for stamps that a vendor compares with its own.
    fn wall(&self) -> SystemTime {
        self.now()
    }

    /// Resolves when it is that time.
    async fn sleep_until(&self, time: SystemTime);
}

/// The machine's own clock. Its time is what the machine's clock showed when it was first asked,
/// and what has passed since.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        static START: LazyLock<(SystemTime, Instant)> =
            LazyLock::new(|| (SystemClock.wall(), Instant::now()));
        START.0 + START.1.elapsed()
    }

    #[allow(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    async fn sleep_until(&self, time: SystemTime) {
        tokio::time::sleep(time.duration_since(self.now()).unwrap_or_default()).await;
    }
}

/// A clock that stands still until it is moved, for tests. Clones move together.
#[derive(Debug, Clone)]
pub struct ManualClock(watch::Sender<SystemTime>);

impl ManualClock {
    /// A clock that stands at `start`.
    #[must_use]
    pub fn new(start: SystemTime) -> Self {
        Self(watch::Sender::new(start))
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.0.send_modify(|now| *now += by);
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        *self.0.borrow()
    }

    async fn sleep_until(&self, time: SystemTime) {
        // The sender lives as long as `self`, so this waits for the time and for nothing else.
        let _ = self.0.subscribe().wait_for(|now| *now >= time).await;
    }
}
