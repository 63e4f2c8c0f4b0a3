//! Whether a connection is idle, and for how long. Used by `server` only.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::budget::Budget;

static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The activity of a connection: how many requests are in progress, and when the last one came.
#[derive(Debug)]
pub(super) struct Activity {
    last: AtomicU64,
    streams: Arc<Budget>,
}

impl Activity {
    /// The activity of a connection that begins now.
    pub(super) fn new(streams: Arc<Budget>) -> Self {
        Self { last: AtomicU64::new(now()), streams }
    }

    /// Records that a request has come.
    pub(super) fn note(&self) {
        self.last.store(now(), Ordering::Relaxed);
    }

    /// How long ago the last request came.
    pub(super) fn silence(&self) -> Duration {
        Duration::from_millis(now().saturating_sub(self.last.load(Ordering::Relaxed)))
    }

    /// Resolves once the connection has been idle for `limit`.
    pub(super) async fn ends_after(&self, limit: Duration) {
        loop {
            let left = limit.saturating_sub(self.silence());
            if self.streams.used() == 0 && left.is_zero() {
                return;
            }
            sleep(if left.is_zero() { limit } else { left }).await;
        }
    }
}

/// Milliseconds since [`BEGIN`].
fn now() -> u64 {
    u64::try_from(BEGIN.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Budget;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_from_the_end_of_its_last_request() {
        let limit = Duration::from_secs(30);
        let streams = Budget::new(10);
        let activity = Activity::new(Arc::clone(&streams));
        let begin = Instant::now();
        let asks = async {
            sleep(Duration::from_secs(20)).await;
            activity.note();
            let under_way = streams.take(1);
            sleep(Duration::from_secs(100)).await;
            drop(under_way);
            sleep(Duration::from_secs(10)).await;
            activity.note();
        };
        tokio::join!(activity.ends_after(limit), asks);
        assert_eq!(begin.elapsed().as_secs(), 160);
    }
}
