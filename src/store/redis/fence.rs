//! The fence: no limited call is made while the server may have lost calls that a vendor has counted.
//!
//! Each replica is a member of the store's data, and renews its membership all the time. The script that
//! reserves a call refuses if the server was emptied, restarted, or promoted from a copy since all live
//! members published what they know (`fence.lua`). Then a new epoch begins: each member publishes its own
//! slots, pauses, tokens and terminal orders again, and limited calls wait until all have done so. A
//! member that is gone cannot publish: a window stays closed for as long as a call that only this member
//! knew can count in it (`beat.lua`).

use std::mem;
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
use crate::store::FenceState;

/// How often a membership is renewed.
const BEAT: Duration = Duration::from_millis(250);

/// How long a membership lasts without being renewed.
const LIFE: Duration = Duration::from_secs(3);

/// How long a call waits for the fence to open before it fails.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// An epoch that no server has: the server is asked all the same, and its failure says what is wrong.
const NONE: &str = "-";

/// A replica's membership and what it knows of the fence.
pub(super) struct Fence {
    id: String,
    view: watch::Sender<View>,
    wake: Notify,
    /// What the others must know of this replica's calls before it makes them.
    reach: watch::Sender<Reach>,
    started: AtomicBool,
    stopping: AtomicBool,
    /// Whether the membership has ended.
    left: watch::Sender<bool>,
    /// Whether it was logged that the server does not tell its replication id.
    nameless: AtomicBool,
    /// How many times the server may have lost writes.
    losses: AtomicU64,
}

/// How far a replica's calls can reach: what counts for it if it is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Reach {
    /// The longest that a call may be in flight, in milliseconds.
    flight: u64,
    /// The most calls for one order in a day.
    most: u64,
}

/// The fewest calls for one order that a replica announces: each further announcement takes a beat.
const LEAST_CALLS: u64 = 2;

/// The state of the fence, as this replica last saw it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct View {
    /// The epoch in which limited calls may be made, until the membership ends.
    open: Option<(Arc<str>, Instant)>,
    /// What the members know of this replica's calls.
    reach: Reach,
    /// Whether the server could not be asked last.
    failed: bool,
    /// How many replicas are alive, this one included; 0 before the first answer.
    replicas: usize,
    lost: Lost,
}

/// What lost replicas may have called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Lost {
    /// For how long windows of a minute stay closed.
    closed: Duration,
    /// How many calls are taken off each order's day.
    missing: u64,
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
    /// What this replica has announced of its calls, and the `joins` of the first answer to it.
    announced: Option<(u64, Reach)>,
}

/// Another member.
struct Member {
    id: String,
    /// How long its membership lasts, in milliseconds; negative: for how long it has been over.
    left: i64,
    reach: Reach,
}

/// The script's answer.
type Answer = (String, bool, u64, u64, u64, Vec<String>, bool, u64, u64, u64);

impl Fence {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            id: new_id(),
            view: watch::Sender::default(),
            wake: Notify::new(),
            reach: watch::Sender::default(),
            started: AtomicBool::default(),
            stopping: AtomicBool::default(),
            left: watch::Sender::default(),
            nameless: AtomicBool::default(),
            losses: AtomicU64::default(),
        })
    }

    /// Begins the membership, unless it has begun already. It ends with `knowledge`.
    pub(super) fn start(self: &Arc<Self>, server: &Arc<Runner>, knowledge: &Arc<Knowledge>) {
        if !self.started.swap(true, Ordering::Relaxed) {
            let (fence, server) = (Arc::clone(self), Arc::clone(server));
            tokio::spawn(fence.run(server, Arc::downgrade(knowledge)));
        }
    }

    /// Returns the epoch in which a call with that reach may be made. Waits for it until `deadline`, unless
    /// the server cannot be asked.
    pub(super) async fn epoch(&self, reach: Reach, deadline: Instant) -> Arc<str> {
        if let Some(epoch) = self.view.borrow().epoch(reach) {
            return epoch;
        }
        if self.reach.send_if_modified(|known| known.grow(reach)) {
            self.wake.notify_one();
        }
        let mut view = self.view.subscribe();
        let passes = |view: &View| view.failed || view.epoch(reach).is_some();
        let seen = timeout_at(deadline, view.wait_for(passes)).await;
        let epoch = seen.ok().and_then(Result::ok).and_then(|view| view.epoch(reach));
        epoch.unwrap_or_else(|| Arc::from(NONE))
    }

    /// Waits until limited calls may be made, but only for about as long as a membership lasts: calls of a
    /// lost replica can close the fence for much longer.
    pub(super) async fn opened(&self) {
        // The fence may open later.
        let _ = timeout(LIFE * 2, self.view.subscribe().wait_for(|view| view.open.is_some())).await;
    }

    /// Ends the membership. The store may also be dropped, and its knowledge with it.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Ends the membership, and waits until the server knows it.
    pub(super) async fn close_membership(&self) {
        if self.started.load(Ordering::Relaxed) {
            self.stop();
            // If it takes longer, the membership ends by itself.
            let _ = timeout(BEAT, self.left.subscribe().wait_for(|left| *left)).await;
        }
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

    /// Returns the state for the metrics.
    pub(super) fn state(&self) -> FenceState {
        let view = self.view.borrow();
        let is_open = view.open.as_ref().is_some_and(|(_, until)| Instant::now() < *until);
        FenceState {
            open: is_open && view.lost.closed.is_zero(),
            losses: self.losses.load(Ordering::Relaxed),
            replicas: view.replicas,
            missing_calls: view.lost.missing,
        }
    }

    /// Renews the membership until `knowledge` is dropped, and then ends it.
    async fn run(self: Arc<Self>, server: Arc<Runner>, knowledge: Weak<Knowledge>) {
        let mut published = String::new();
        let mut last = Last::default();
        while let Some(knowledge) = knowledge.upgrade()
            && !self.stopping.load(Ordering::Relaxed)
        {
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
        self.view.send_modify(|view| view.open = None);
        // If this fails, the membership ends by itself.
        let _: Result<::redis::Value, _> = server.run(&scripts::LEAVE, input).await;
        self.left.send_replace(true);
    }

    /// Sends one beat. Returns whether this replica has published for the epoch.
    async fn beat(
        &self,
        server: &Runner,
        published: &str,
        last: &mut Last,
    ) -> Result<bool, Failure> {
        let reach = *self.reach.borrow();
        let sent = Instant::now();
        let input = last.input(&self.id, reach, published);
        let answer: Answer = server.run(&scripts::BEAT, input).await?;
        let (epoch, open, joins, seen, now, members, names_server, closed, missing, left) = answer;
        if !names_server && !self.nameless.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the shared store's user may not read the replication id, so calls that a failover loses \
                 are not noticed: grant +info"
            );
        }
        if !last.epoch.is_empty() && epoch != last.epoch {
            self.losses.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                replicas = members.len() / 4 + 1,
                "the shared store may have lost writes: limited calls wait until every replica has published \
                 what it knows"
            );
        }
        let announced = match last.announced {
            Some((at, what)) if what == reach && epoch == last.epoch => at,
            _ => joins,
        };
        let members = parse(&members);
        let announced = Some((announced, reach));
        *last = Last { epoch, joins, now, members, sent: Some(sent), announced };
        let is_published = published == last.epoch;
        let until = sent + Duration::from_millis(left).min(LIFE);
        let open = (open && is_published).then(|| (Arc::from(&*last.epoch), until));
        let is_known = announced.is_some_and(|(at, _)| seen >= at);
        let alive = last.members.iter().filter(|member| member.left > 0).count();
        let may_count = Lost { closed: Duration::from_millis(closed), missing };
        let mut before = None;
        self.view.send_modify(|view| {
            let reach = if is_known { reach } else { view.reach };
            let new = View { open, reach, failed: false, replicas: alive + 1, lost: may_count };
            before = Some(mem::replace(view, new));
        });
        self.log_changes(before.as_ref());
        Ok(is_published)
    }

    /// Logs what has changed for limited calls.
    fn log_changes(&self, before: Option<&View>) {
        let now = self.view.borrow();
        let Some(before) = before.filter(|before| before.replicas > 0) else { return };
        if now.open.is_some() && before.open.is_none() {
            tracing::info!("the shared store is whole: limited calls are made again");
        }
        let Lost { closed, missing } = now.lost;
        if (missing > 0 || !closed.is_zero()) && before.lost == Lost::default() {
            let seconds = closed.as_secs();
            tracing::warn!(
                seconds,
                missing,
                "calls of a lost replica may count: windows of a minute stay closed for these seconds, and each \
                 order's day has so many calls less"
            );
        }
    }
}

impl View {
    /// The epoch in which a call with that reach may be made now.
    fn epoch(&self, reach: Reach) -> Option<Arc<str>> {
        let (epoch, until) = self.open.as_ref()?;
        let mut known = self.reach;
        (!known.grow(reach) && Instant::now() < *until).then(|| Arc::clone(epoch))
    }
}

impl Reach {
    /// The reach of a call, which is one of `calls` for its order in a day.
    pub(super) fn of(in_flight: Duration, calls: usize) -> Self {
        let calls = u64::try_from(calls).unwrap_or(u64::MAX).checked_next_power_of_two();
        Self { flight: millis(in_flight), most: calls.unwrap_or(u64::MAX).max(LEAST_CALLS) }
    }

    /// Includes the other one. Returns whether that changed anything.
    fn grow(&mut self, other: Self) -> bool {
        let before = *self;
        self.flight = self.flight.max(other.flight);
        self.most = self.most.max(other.most);
        *self != before
    }
}

impl Last {
    /// Builds the next beat.
    fn input(&self, id: &str, reach: Reach, published: &str) -> Input {
        let since = self.sent.map(|sent| millis(sent.elapsed())).unwrap_or_default();
        let mut input = Input::default()
            .fence()
            .argument(id)
            .argument(millis(LIFE))
            .argument(reach.flight)
            .argument(reach.most)
            .argument(published)
            .argument(new_id())
            .argument(&self.epoch)
            .argument(self.joins)
            .argument(self.now)
            .argument(since)
            .was_run();
        for Member { id, left, reach } in &self.members {
            let since = i64::try_from(since).unwrap_or(i64::MAX);
            // A membership that has ended only since then may have been renewed.
            let ago = if *left > 0 { 0 } else { since.saturating_sub(*left) };
            input = input.argument(id).argument(ago).argument(reach.flight).argument(reach.most);
        }
        input
    }
}

/// Reads the members in an answer.
fn parse(values: &[String]) -> Vec<Member> {
    let members = values.chunks_exact(4).filter_map(|member| {
        let [id, left, flight, most] = member else { return None };
        let reach = Reach { flight: flight.parse().ok()?, most: most.parse().ok()? };
        Some(Member { id: id.clone(), left: left.parse().ok()?, reach })
    });
    members.collect()
}

/// The error while limited calls wait for replicas to publish.
pub(super) fn closed() -> Error {
    Error::store_unavailable(
        "redis: the server may have lost calls; limited calls wait until every replica has published what \
         it knows",
    )
}

/// The error while calls that only a lost replica knew may count.
pub(super) fn unknown(wait: Duration) -> Error {
    Error::store_unavailable(
        "redis: the server has lost calls of a replica that is gone; calls wait until those no longer count",
    )
    .retry_after(wait)
}
