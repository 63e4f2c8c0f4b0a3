//! Answers without a vendor. Built with `--cfg fuzzing` only, for the fuzz targets.

use std::cell::RefCell;
use std::time::SystemTime;

use super::Answer;

/// The answer to a call whose path begins with `path`.
pub struct Reply {
    /// The beginning of the path, after its first `/`.
    pub path: String,
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

thread_local! {
    static REPLIES: RefCell<Option<Vec<Reply>>> = const { RefCell::new(None) };
}

/// From here on the first reply that fits answers each call of this thread, and nothing is sent.
pub fn answer(replies: Vec<Reply>) {
    REPLIES.set(Some(replies));
}

/// The reply to a call, where this thread has one; `None` sends the call.
pub(super) fn played(path: &str, sent: SystemTime) -> Option<Answer> {
    REPLIES.with_borrow(|replies| {
        let path = path.trim_start_matches('/');
        let reply = replies.as_ref()?.iter().find(|reply| path.starts_with(&reply.path))?;
        let Reply { status, ref body, .. } = *reply;
        let body = body.clone();
        Some(Answer { body, sent, clock_difference: None, tls: None, status, retry_after: None })
    })
}
