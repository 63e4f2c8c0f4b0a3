//! One HTTP/2 stream, from its request to the last byte of its answer. A peer that does not read its
//! answer is not waited for. Used by `server` only, which lets hyper spawn streams with it.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::time::{Instant, Sleep, sleep_until};

use super::answer::UNWRITTEN_SINCE;
use super::io::Progress;

/// How long a piece of an answer may wait for its peer to read.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long it may wait while the connection still writes to the same peer: on a slow line other
/// answers may come first.
const LONGEST_PATIENCE: Duration = Duration::from_mins(1);

/// How many bytes a connection that makes progress writes in [`PATIENCE`].
const LEAST_PROGRESS: u64 = 16 * 1024;

/// Spawns the streams of one connection.
#[derive(Clone)]
pub(super) struct Streams(pub(super) Arc<Progress>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, inner: F) {
        let progress = Arc::clone(&self.0);
        let stream = Stream { inner: Box::pin(inner), progress, since: None, watch: None };
        tokio::spawn(stream);
    }
}

struct Stream<F> {
    inner: Pin<Box<F>>,
    progress: Arc<Progress>,
    /// Since when a piece of the answer has been waiting to be written.
    since: Option<Instant>,
    watch: Option<Watch>,
}

/// Checks after a while whether a piece still waits.
struct Watch {
    timer: Pin<Box<Sleep>>,
    written: u64,
}

impl<F: Future<Output = ()>> Future for Stream<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let (polled, since) = UNWRITTEN_SINCE.sync_scope(Cell::new(this.since), || {
            (this.inner.as_mut().poll(context), UNWRITTEN_SINCE.with(Cell::get))
        });
        this.since = since;
        if polled.is_ready() {
            return polled;
        }
        let Some(since) = since else { return Poll::Pending };
        loop {
            let watch = this.watch.get_or_insert_with(|| Watch {
                timer: Box::pin(sleep_until(since + PATIENCE)),
                written: this.progress.written(),
            });
            if watch.timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            let (now, written) = (Instant::now(), this.progress.written());
            let progresses = written - watch.written >= LEAST_PROGRESS;
            watch.written = written;
            let next = if now < since + PATIENCE {
                // This piece is newer than the one that the timer was set for.
                since + PATIENCE
            } else if progresses && now < since + LONGEST_PATIENCE {
                now + PATIENCE
            } else {
                // hyper resets a stream that is dropped before its end.
                tracing::debug!("an answer was dropped: its peer does not read it");
                return Poll::Ready(());
            };
            watch.timer.as_mut().reset(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays an answer, and returns the second in which its stream ends. Each entry of `pieces` holds
    /// the seconds between which a piece waits; the connection writes `a_second` bytes every second.
    async fn ends(pieces: &[(u64, u64)], a_second: u64) -> u64 {
        let (begin, progress) = (Instant::now(), Arc::<Progress>::default());
        let pieces = pieces.to_vec();
        let inner = std::future::poll_fn(move |context| {
            let second = begin.elapsed().as_secs();
            let waits = pieces.iter().find(|(from, to)| (*from..*to).contains(&second));
            let since = waits.map(|(from, _)| begin + Duration::from_secs(*from));
            UNWRITTEN_SINCE.with(|cell| cell.set(since));
            if pieces.iter().all(|(_, to)| second >= *to) {
                return Poll::Ready(());
            }
            let waker = context.waker().clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                waker.wake();
            });
            Poll::Pending
        });
        let writes = Arc::clone(&progress);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                writes.add(a_second);
            }
        });
        let inner = Box::pin(inner);
        Stream { inner, progress, since: None, watch: None }.await;
        begin.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_when_its_peer_makes_no_progress() {
        let nothing = LEAST_PROGRESS / 20;
        let some = LEAST_PROGRESS / 5;
        for (case, pieces, a_second, end) in [
            ("it is read at once", &[(0, 1)][..], nothing, 1),
            ("it is read late", &[(0, 9)], nothing, 9),
            ("it is never read", &[(0, 1000)], nothing, 10),
            ("each piece is read late", &[(0, 9), (9, 18), (18, 27), (27, 36)], nothing, 36),
            ("a later piece is never read", &[(0, 9), (9, 1000)], nothing, 19),
            ("nothing is there to take for long", &[(0, 1), (500, 501)], nothing, 501),
            ("others come first", &[(0, 55)], some, 55),
            ("others come first for ever", &[(0, 1000)], some, 60),
        ] {
            assert_eq!(ends(pieces, a_second).await, end, "{case}");
        }
    }
}
