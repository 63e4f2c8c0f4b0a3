//! How much the peers of a listener may make it hold, in total and on one connection. Used by
//! `server`; `app` says what a listener needs. docs/operations.md computes the memory of a pod from
//! these numbers.

use std::sync::Arc;

use crate::budget::Budget;

/// How many requests and answers one connection may have in progress.
pub(super) const STREAMS: u32 = 256;

/// How many requests of one connection the handlers may have in progress: a stream that its peer has
/// reset counts until its handler notices.
const HANDLERS_OF_CONNECTION: usize = 4 * STREAMS as usize;

/// How many requests with an incomplete message a listener holds, and how many bytes of them.
const ARRIVING: usize = 4096;
const ARRIVING_BYTES: usize = 16 << 20;
const ARRIVING_BYTES_OF_CONNECTION: usize = 1 << 20;

/// How many bytes of answers that their peers have not read yet.
const ANSWER_BYTES: usize = 64 << 20;
const ANSWER_BYTES_OF_CONNECTION: usize = 16 << 20;

/// How many health watches. Each lasts as long as its connection.
const HEALTH_WATCHES: usize = 1024;
const HEALTH_WATCHES_OF_CONNECTION: usize = 8;

/// How many pages of metrics. This is more than there are scrapers; each page asks the store.
const PAGES: usize = 32;
const PAGES_OF_CONNECTION: usize = 2;

/// What is left of each limit. A connection's budgets are parts of its listener's.
#[derive(Debug)]
pub(super) struct Budgets {
    /// Requests and answers of any kind.
    pub(super) streams: Arc<Budget>,
    pub(super) arriving: Arc<Budget>,
    pub(super) arriving_bytes: Arc<Budget>,
    /// In bytes.
    pub(super) answers: Arc<Budget>,
    pub(super) health_watches: Arc<Budget>,
    pub(super) pages: Arc<Budget>,
}

impl Budgets {
    /// The budgets of a listener whose handlers have at most `calls` calls and watches in progress.
    pub(super) fn of_listener(calls: usize) -> Self {
        Self {
            streams: Budget::new(calls.saturating_add(HEALTH_WATCHES + ARRIVING)),
            arriving: Budget::new(ARRIVING),
            arriving_bytes: Budget::new(ARRIVING_BYTES),
            answers: Budget::new(ANSWER_BYTES),
            health_watches: Budget::new(HEALTH_WATCHES),
            pages: Budget::new(PAGES),
        }
    }

    /// The budgets of one connection.
    pub(super) fn of_connection(&self) -> Self {
        Self {
            streams: Budget::within(&self.streams, HANDLERS_OF_CONNECTION),
            arriving: Budget::within(&self.arriving, STREAMS as usize),
            arriving_bytes: Budget::within(&self.arriving_bytes, ARRIVING_BYTES_OF_CONNECTION),
            answers: Budget::within(&self.answers, ANSWER_BYTES_OF_CONNECTION),
            health_watches: Budget::within(&self.health_watches, HEALTH_WATCHES_OF_CONNECTION),
            pages: Budget::within(&self.pages, PAGES_OF_CONNECTION),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The documents compute the memory of a pod from these numbers, and state them for callers.
    #[test]
    fn the_documents_state_these_limits() {
        let operations = include_str!("../../docs/operations.md");
        let configuration = include_str!("../../docs/configuration.md");
        let mib = |bytes: usize| format!("{} MiB", bytes >> 20);
        let bytes = |all, each| format!("| {}, {} a connection |", mib(all), mib(each));
        for (document, row) in [
            (operations, format!("their headers | {},{:03} |", ARRIVING / 1000, ARRIVING % 1000)),
            (
                operations,
                format!("their messages {}", bytes(ARRIVING_BYTES, ARRIVING_BYTES_OF_CONNECTION)),
            ),
            (operations, format!("not taken {}", bytes(ANSWER_BYTES, ANSWER_BYTES_OF_CONNECTION))),
            (
                configuration,
                format!(
                    "| health watches | {HEALTH_WATCHES_OF_CONNECTION} a connection, {},{:03} in all |",
                    HEALTH_WATCHES / 1000,
                    HEALTH_WATCHES % 1000
                ),
            ),
            (configuration, format!("It may have {STREAMS} calls under way")),
        ] {
            assert!(document.contains(&row), "{row}");
        }
    }
}
