//! The fence: no limited call is made while the server may have lost calls that a vendor has counted.
//!
//! Each replica is a member of the store's data, and renews its membership all the time. The script that
//! reserves a call refuses if the server was emptied, restarted, or promoted from a copy since all live
//! members published what they know (`fence.lua`). Then a new epoch begins: each member publishes its own
//! slots, pauses, tokens and terminal orders again, and limited calls wait until all have done so. A
//! member that is gone cannot publish: a window stays closed for as long as a call that only this member
//! knew can count in it (`beat.lua`).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::connection::Failure;
use super::knowledge::Knowledge;
use super::scripts::{self, Input, Runner, millis};
use crate::error::Error;
use crate::providers::new_id;

/// How often a membership is renewed.
const BEAT: Duration = Duration::from_millis(250);

/// How long a membership lasts without being renewed.
const LIFE: Duration = Duration::from_secs(3);

/// How long a call waits for the fence to open before it fails.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// When callers may try again while replicas publish.
const RETRY: Duration = Duration::from_secs(2);

/// An epoch that no server has: the server is asked all the same, and its failure says what is wrong.
const NONE: &str = "-";

/// A replica's membership and what it knows of the fence.
pub(super) struct Fence {
    id: String,
    view: watch::Sender<View>,
    wake: Notify,
    /// The longest that a call of this replica may be in flight, in milliseconds.
    flight: AtomicU64,
    started: AtomicBool,
}

/// The state of the fence, as this replica last saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct View {
    /// The epoch in which limited calls may be made, until the membership ends.
    open: Option<(Arc<str>, Instant)>,
    /// The `flight` that the members know.
    flight: u64,
    /// Why the server could not be asked.
    failed: bool,
}

/// What a member tells in its next beat, from the answer to its last one.
#[derive(Default)]
struct Last {
    epoch: String,
    joins: u64,
    /// When the server answered, by its own clock; 0: never.
    now: u64,
    members: Vec<Member>,
    /// When the beat was sent.
    sent: Option<Instant>,
}

/// Another member.
struct Member {
    id: String,
    /// How long its membership lasts, in milliseconds; negative: for how long it has been over.
    left: i64,
    flight: u64,
}

/// The script's answer.
type Answer = (String, bool, u64, u64, Vec<String>);

impl Fence {
    pub(super) fn new() -> Arc<Self> {
        let view = View { open: None, flight: 0, failed: false };
        Arc::new(Self {
            id: new_id(),
            view: watch::Sender::new(view),
            wake: Notify::new(),
            flight: AtomicU64::default(),
            started: AtomicBool::default(),
        })
    }

    /// Begins the membership, unless it has begun already. It ends with `knowledge`.
    pub(super) fn start(self: &Arc<Self>, server: &Arc<Runner>, knowledge: &Arc<Knowledge>) {
        if !self.started.swap(true, Ordering::Relaxed) {
            let (fence, server) = (Arc::clone(self), Arc::clone(server));
            tokio::spawn(fence.run(server, Arc::downgrade(knowledge)));
        }
    }

    /// Returns the epoch in which a call that may be in flight for so long may be made. Waits for it until
    /// `deadline`, unless the server cannot be asked.
    pub(super) async fn epoch(&self, in_flight: Duration, deadline: Instant) -> Arc<str> {
        let flight = millis(in_flight);
        if self.flight.fetch_max(flight, Ordering::Relaxed) < flight {
            self.wake.notify_one();
        }
        if let Some(epoch) = self.view.borrow().epoch(flight) {
            return epoch;
        }
        let mut view = self.view.subscribe();
        let passes = |view: &View| view.failed || view.epoch(flight).is_some();
        let seen = timeout_at(deadline, view.wait_for(passes)).await;
        let epoch = seen.ok().and_then(Result::ok).and_then(|view| view.epoch(flight));
        epoch.unwrap_or_else(|| Arc::from(NONE))
    }

    /// The store is about to be dropped, and its knowledge with it.
    pub(super) fn stop(&self) {
        self.wake.notify_one();
    }

    /// The server refused a call in this epoch: it may have lost writes.
    pub(super) fn close(&self, epoch: &str) {
        self.view.send_modify(|view| {
            if view.open.as_ref().is_some_and(|(open, _)| **open == *epoch) {
                view.open = None;
            }
            // It answers again.
            view.failed = false;
        });
        self.wake.notify_one();
    }

    /// Whether limited calls may still be made in this epoch, as far as this replica knows.
    pub(super) fn is_open(&self, epoch: &str) -> bool {
        self.view.borrow().open.as_ref().is_some_and(|(open, _)| **open == *epoch)
    }

    /// Renews the membership until `knowledge` is dropped, and then ends it.
    async fn run(self: Arc<Self>, server: Arc<Runner>, knowledge: Weak<Knowledge>) {
        let mut published = String::new();
        let mut last = Last::default();
        while let Some(knowledge) = knowledge.upgrade() {
            let again = match self.beat(&server, &published, &mut last).await {
                // Closed first: a call that begins later is refused, and one that began earlier is published.
                Ok(false) => match knowledge.publish(&server).await {
                    Ok(()) => {
                        published.clone_from(&last.epoch);
                        true
                    }
                    Err(_) => false,
                },
                Ok(true) => false,
                Err(_) => {
                    self.view.send_modify(|view| view.failed = true);
                    false
                }
            };
            drop(knowledge);
            if !again {
                // Ends at the latest with the time.
                let _ = timeout(BEAT, self.wake.notified()).await;
            }
        }
        let input = Input::default().fence().argument(&self.id);
        // If this fails, the membership ends by itself.
        let _: Result<::redis::Value, _> = server.run(&scripts::LEAVE, input).await;
    }

    /// Sends one beat. Returns whether this replica has published for the epoch.
    async fn beat(
        &self,
        server: &Runner,
        published: &str,
        last: &mut Last,
    ) -> Result<bool, Failure> {
        let flight = self.flight.load(Ordering::Relaxed);
        let sent = Instant::now();
        let input = last.input(&self.id, flight, published);
        let answer: Answer = server.run(&scripts::BEAT, input).await?;
        let (epoch, open, joins, now, members) = answer;
        *last = Last { epoch, joins, now, members: parse(&members), sent: Some(sent) };
        let is_published = published == last.epoch;
        let open = (open && is_published).then(|| (Arc::from(&*last.epoch), sent + LIFE));
        self.view.send_replace(View { open, flight, failed: false });
        Ok(is_published)
    }
}

impl View {
    /// The epoch in which a call that may be in flight for so long may be made now.
    fn epoch(&self, flight: u64) -> Option<Arc<str>> {
        let (epoch, until) = self.open.as_ref()?;
        (flight <= self.flight && Instant::now() < *until).then(|| Arc::clone(epoch))
    }
}

impl Last {
    /// Builds the next beat.
    fn input(&self, id: &str, flight: u64, published: &str) -> Input {
        let since = self.sent.map(|sent| millis(sent.elapsed())).unwrap_or_default();
        let mut input = Input::default()
            .fence()
            .argument(id)
            .argument(millis(LIFE))
            .argument(flight)
            .argument(published)
            .argument(new_id())
            .argument(&self.epoch)
            .argument(self.joins)
            .argument(self.now)
            .argument(since)
            .was_run();
        for Member { id, left, flight } in &self.members {
            let since = i64::try_from(since).unwrap_or(i64::MAX);
            // A membership that has ended only since then may have been renewed.
            let ago = if *left > 0 { 0 } else { since.saturating_sub(*left) };
            input = input.argument(id).argument(ago).argument(*flight);
        }
        input
    }
}

/// Reads the members in an answer.
fn parse(values: &[String]) -> Vec<Member> {
    let members = values.chunks_exact(3).filter_map(|member| {
        let [id, left, flight] = member else { return None };
        Some(Member { id: id.clone(), left: left.parse().ok()?, flight: flight.parse().ok()? })
    });
    members.collect()
}

/// The error while limited calls wait for replicas to publish.
pub(super) fn closed() -> Error {
    Error::store_unavailable(
        "redis: the server may have lost calls; limited calls wait until every replica has published what \
         it knows",
    )
    .retry_after(RETRY)
}

/// The error while calls that only a lost replica knew may count.
pub(super) fn unknown(wait: Duration) -> Error {
    Error::store_unavailable(
        "redis: the server has lost calls of a replica that is gone; calls wait until those no longer count",
    )
    .retry_after(wait)
}
