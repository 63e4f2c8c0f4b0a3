//! The time, as a parameter: code that needs it gets a [`Clock`], so that tests can move it. Every
//! module may use it; clippy forbids all others to read the wall clock.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;

/// A source of time.
#[async_trait]
pub trait Clock: Send + Sync {
    /// The current time. It never goes back and never jumps, even when the machine's clock is changed:
    /// ages and limits are measured with it.
    fn now(&self) -> SystemTime;

    /// The machine's clock: for timestamps that a vendor compares with its own clock.
    fn wall(&self) -> SystemTime {
        self.now()
    }

    /// Resolves at that time.
    async fn sleep_until(&self, time: SystemTime);
}

/// The machine's own clock. Its time is the wall clock at the first call, plus the time that has passed
/// since.
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
        // The sender lives as long as `self`, so only the time can end this wait.
        let _ = self.0.subscribe().wait_for(|now| *now >= time).await;
    }
}
