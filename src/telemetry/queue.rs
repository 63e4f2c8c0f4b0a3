//! The queue of log lines that are to be written. Used by `telemetry` only.
//!
//! The log's reader may stop reading. The lines then wait here, up to a bound; further lines are lost
//! and counted, and code that writes one never waits. Lines that cannot be written, because the
//! reader has left or the disk is full, are lost and counted too.
//!
//! Lines are gathered for some milliseconds: waking the writing thread costs more than a line.

use std::io::{self, Write};
use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::metrics::Counter;

/// The most bytes that may wait: a few thousand lines.
const LIMIT: usize = 1024 * 1024;

/// How long lines wait for further ones.
const GATHERING: Duration = Duration::from_millis(4);

/// How many bytes are written without waiting for further lines.
const ENOUGH: usize = 64 * 1024;

/// The lines that wait to be written.
pub(super) struct Queue {
    /// Counts lost lines.
    lost: Counter,
    state: Mutex<State>,
    /// Notified when there is something to write, and when there is enough.
    filled: Condvar,
    /// Notified when everything has been written.
    emptied: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// How many lines did not fit since the last report.
    lost: u64,
    writing: bool,
    /// Somebody waits until everything has been written.
    hurried: bool,
}

impl Queue {
    pub(super) fn new(lost: Counter) -> Self {
        let [filled, emptied] = Default::default();
        Self { lost, state: Mutex::default(), filled, emptied }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts a whole line, or nothing of it.
    fn put(&self, line: &[u8]) {
        let mut state = self.lock();
        let before = state.waiting.len();
        if before + line.len() > LIMIT {
            state.lost += 1;
            // Counted at once: the log line that reports the loss waits in the queue, too.
            self.lost.inc();
        } else {
            state.waiting.extend_from_slice(line);
        }
        let is_first = before == 0;
        let is_enough = before < ENOUGH && state.waiting.len() >= ENOUGH;
        drop(state);
        if is_first || is_enough {
            self.filled.notify_one();
        }
    }

    /// Waits for lines, and for further ones.
    fn gather(&self) -> MutexGuard<'_, State> {
        let nothing = |state: &mut State| state.waiting.is_empty() && state.lost == 0;
        let state = self.filled.wait_while(self.lock(), nothing);
        let state = state.unwrap_or_else(PoisonError::into_inner);
        let few = |state: &mut State| !state.hurried && state.waiting.len() < ENOUGH;
        let gathered = self.filled.wait_timeout_while(state, GATHERING, few);
        gathered.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Writes the lines as they come, forever. A line that cannot be written does not end this.
    pub(super) fn write_to(&self, out: impl Write) {
        let mut out = Lines { out, is_torn: false };
        let (mut batch, mut unwritten) = (Vec::new(), 0);
        loop {
            let mut state = self.gather();
            mem::swap(&mut batch, &mut state.waiting);
            let lost = mem::take(&mut state.lost);
            state.writing = true;
            drop(state);
            match out.write(&batch) {
                0 if unwritten > 0 && !batch.is_empty() => {
                    let lost = mem::take(&mut unwritten);
                    tracing::warn!(lost, "log lines were lost, because they could not be written");
                }
                failed => {
                    self.lost.add(failed);
                    unwritten += failed;
                }
            }
            batch.clear();
            if lost > 0 {
                tracing::warn!(lost, "log lines were lost, because they were not read in time");
            }
            self.lock().writing = false;
            self.emptied.notify_all();
        }
    }

    /// Waits until every line is written, or until `time` has passed.
    pub(super) fn flush(&self, time: Duration) {
        let mut state = self.lock();
        state.hurried = true;
        self.filled.notify_one();
        let unwritten = |state: &mut State| state.writing || !state.waiting.is_empty();
        let flushed = self.emptied.wait_timeout_while(state, time, unwritten);
        flushed.unwrap_or_else(PoisonError::into_inner).0.hurried = false;
    }
}

/// The output of the lines.
struct Lines<W> {
    out: W,
    /// Whether the last line was written only in part.
    is_torn: bool,
}

impl<W: Write> Lines<W> {
    /// Writes the lines, and returns how many of them could not be written whole.
    fn write(&mut self, lines: &[u8]) -> u64 {
        // The part of a line that was written must not spoil the next line.
        if self.is_torn && self.out.write_all(b"\n").is_ok() {
            self.is_torn = false;
        }
        let mut rest = lines;
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(written @ 1..) => {
                    let (done, left) = rest.split_at(written.min(rest.len()));
                    self.is_torn = !done.ends_with(b"\n");
                    rest = left;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break,
            }
        }
        rest.split_inclusive(|byte| *byte == b'\n').count() as u64
    }
}

impl Write for &Queue {
    /// One call is one line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread;

    use super::*;
    use crate::telemetry::metrics::Metrics;

    /// A reader that reads one batch each time the test allows it.
    struct Reader(Receiver<()>, Sender<String>);

    impl Write for Reader {
        fn write(&mut self, batch: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(io::Error::other)?;
            self.1.send(String::from_utf8_lossy(batch).into_owned()).map_err(io::Error::other)?;
            Ok(batch.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// How many bytes wait, and how many lines have been lost.
    fn count(queue: &Queue) -> (usize, u64) {
        let state = queue.lock();
        (state.waiting.len(), state.lost)
    }

    #[test]
    fn unread_log_lines_are_bounded_and_kept_lines_arrive_whole() {
        let queue = Arc::new(Queue::new(Metrics::default().log_lines_lost.with([])));
        let (let_through, may_read) = channel();
        let (read, was_read) = channel();
        let writer = Arc::clone(&queue);
        thread::spawn(move || writer.write_to(Reader(may_read, read)));
        queue.put(b"first\n");
        // The first batch has left the queue, and its reader is blocked.
        while !queue.lock().writing {
            thread::yield_now();
        }
        let line = format!("{}\n", "x".repeat(1023));
        for _ in 0..1030 {
            (&*queue).write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(count(&queue), (LIMIT, 6));
        queue.flush(Duration::ZERO);
        let_through.send(()).unwrap();
        assert_eq!(was_read.recv().unwrap(), "first\n");
        let_through.send(()).unwrap();
        let rest = was_read.recv().unwrap();
        assert!(rest.lines().all(|line| line.len() == 1023) && rest.len() == LIMIT);
        queue.flush(Duration::from_mins(1));
        assert_eq!(count(&queue), (0, 0));
    }

    /// A disk with space for some bytes, which accepts a few at a time.
    struct Disk<'a>(&'a mut Vec<u8>, usize);

    impl Write for Disk<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.1).min(6);
            self.1 -= taken;
            self.0.extend_from_slice(bytes.get(..taken).unwrap_or_default());
            if taken == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(taken) }
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_corrupt_no_other() {
        const LINES: &[u8] = b"first\nsecond\nthird\n";
        for (room, lost, kept) in [
            (0, 3, "fourth\n"),
            (3, 3, "fir\nfourth\n"),
            (6, 2, "first\nfourth\n"),
            (8, 2, "first\nse\nfourth\n"),
            (18, 1, "first\nsecond\nthird\nfourth\n"),
            (19, 0, "first\nsecond\nthird\nfourth\n"),
        ] {
            let mut written = Vec::new();
            let mut lines = Lines { out: Disk(&mut written, room), is_torn: false };
            assert_eq!(lines.write(LINES), lost, "{room}");
            lines.out.1 = 100;
            assert_eq!(lines.write(b"fourth\n"), 0, "{room}");
            assert_eq!(String::from_utf8(written).unwrap(), kept, "{room}");
        }
    }
}
