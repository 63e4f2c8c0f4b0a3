//! The fence: no limited call is made while the server may have lost calls that a vendor has counted.
//!
//! Each replica is a member of the store's data, and renews its membership all the time. The script that
//! reserves a call refuses if the server was emptied, restarted, or promoted from a copy since all live
//! members published what they know (`fence.lua`). Then a new epoch begins: each member publishes its own
//! slots, pauses, tokens and terminal orders again, and limited calls wait until all have done so. A
//! member that is gone cannot publish: a window stays closed for as long as a call that only this member
//! knew can count in it (`beat.lua`).

mod beat;
mod reach;
mod stamps;

use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

pub(super) use self::beat::Lost;
use self::beat::{Answer, Last, Task};
pub(super) use self::reach::Reach;
use super::connection::Failure;
use super::knowledge::Knowledge;
use super::scripts::{self, Input, Runner};
use crate::error::Error;
use crate::providers::new_id;
use crate::store::FenceState;

/// How often a membership is renewed.
const BEAT: Duration = Duration::from_millis(250);

/// How long a membership lasts without being renewed.
const LIFE: Duration = Duration::from_secs(3);

/// How often a member asks whether another one has stamped all tags of a cluster.
const STAMP_POLL: Duration = Duration::from_millis(50);

/// How often all tags of a cluster are looked at while nothing is known to be lost.
const WATCH: Duration = Duration::from_mins(1);

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
    /// Whether a server has refused a call in the present epoch: in a cluster, one node may have lost writes.
    suspected: AtomicBool,
    /// How many times the server may have lost writes.
    losses: AtomicU64,
}

/// What a limited call is reserved with.
pub(super) struct Pass {
    pub(super) epoch: Arc<str>,
    pub(super) lost: Lost,
}

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
            suspected: AtomicBool::default(),
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
    pub(super) async fn pass(&self, reach: Reach, deadline: Instant) -> Pass {
        if let Some(pass) = self.view.borrow().pass(reach) {
            return pass;
        }
        if self.reach.send_if_modified(|known| known.grow(reach)) {
            self.wake.notify_one();
        }
        let mut view = self.view.subscribe();
        let passes = |view: &View| view.failed || view.pass(reach).is_some();
        let seen = timeout_at(deadline, view.wait_for(passes)).await;
        let pass = seen.ok().and_then(Result::ok).and_then(|view| view.pass(reach));
        pass.unwrap_or_else(|| Pass { epoch: Arc::from(NONE), lost: Lost::default() })
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
        self.suspected.store(true, Ordering::Relaxed);
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
            open: is_open && view.lost.closed().is_zero(),
            losses: self.losses.load(Ordering::Relaxed),
            replicas: view.replicas,
            missing_calls: view.lost.missing,
        }
    }

    /// Renews the membership until `knowledge` is dropped, and then ends it.
    async fn run(self: Arc<Self>, server: Arc<Runner>, knowledge: Weak<Knowledge>) {
        let mut last = Last::default();
        let _watch = server.is_cluster.then(|| {
            let watch = Arc::clone(&self).watch_tags(Arc::clone(&server));
            AbortOnDropHandle::new(tokio::spawn(watch))
        });
        while let Some(knowledge) = knowledge.upgrade()
            && !self.stopping.load(Ordering::Relaxed)
        {
            let pause = self.step(&server, &knowledge, &mut last).await;
            drop(knowledge);
            if let Some(pause) = pause {
                // Ends at the latest with the time.
                let _ = timeout(pause, self.wake.notified()).await;
            }
        }
        let input = Input::default().fence().argument(&self.id);
        self.view.send_modify(|view| view.open = None);
        // If this fails, the membership ends by itself.
        let _: Result<::redis::Value, _> = server.run(&scripts::LEAVE, input).await;
        self.left.send_replace(true);
    }

    /// Looks at all tags of a cluster regularly, to notice a loss at one that no call uses, and to renew the
    /// time of each stamp. Beside the beats, because it takes longer than they may.
    async fn watch_tags(self: Arc<Self>, server: Arc<Runner>) {
        loop {
            sleep(WATCH).await;
            let open = self.view.borrow().open.clone();
            if let Some((epoch, _)) = open
                && let Ok(survey) = stamps::survey(&server, &epoch, &epoch).await
                && !survey.is_whole()
            {
                self.suspected.store(true, Ordering::Relaxed);
                self.wake.notify_one();
            }
        }
    }

    /// Sends one beat, and does what its answer asks for. Returns how long to wait before the next one;
    /// `None` if it must come at once.
    async fn step(
        &self,
        server: &Runner,
        knowledge: &Knowledge,
        last: &mut Last,
    ) -> Option<Duration> {
        if server.is_cluster
            && !last.epoch.is_empty()
            && self.suspected.swap(false, Ordering::Relaxed)
        {
            // If this fails, a part of the cluster cannot be asked; it is tried again.
            let _ = last.survey(server).await;
        }
        let done = match self.beat(server, last).await {
            Ok(Task::Nothing) => return Some(BEAT),
            Ok(Task::Wait) => return Some(STAMP_POLL),
            Ok(Task::Survey) => last.survey(server).await,
            Ok(Task::Stamp) => last.stamp(server).await,
            // Closed first: a call that begins later is refused, and one that began earlier is published.
            Ok(Task::Publish) => match knowledge.publish(server, &last.epoch).await {
                Ok(true) => {
                    last.published.clone_from(&last.epoch);
                    Ok(())
                }
                Ok(false) => return Some(BEAT),
                Err(failure) => Err(failure),
            },
            Err(failure) => {
                self.view.send_modify(|view| view.failed = true);
                Err(failure)
            }
        };
        done.is_err().then_some(BEAT)
    }

    /// Sends one beat. Returns what this replica must do next.
    async fn beat(&self, server: &Runner, last: &mut Last) -> Result<Task, Failure> {
        let reach = *self.reach.borrow();
        let sent = Instant::now();
        let input = last.input(&self.id, reach, server.is_cluster);
        let answer: Answer = server.run(&scripts::BEAT, input).await?;
        let before = last.epoch.clone();
        let Some(beat) = last.learn(answer, reach, sent) else { return Ok(Task::Survey) };
        if !beat.names_server && !self.nameless.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the shared store's user may not read the replication id, so calls that a failover loses \
                 are not noticed: grant +info"
            );
        }
        let alive = last.members.iter().filter(|member| member.left > 0).count();
        if !before.is_empty() && last.epoch != before {
            self.losses.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                replicas = alive + 1,
                "the shared store may have lost writes: limited calls wait until every replica has published \
                 what it knows"
            );
        }
        let until = sent + beat.left.min(LIFE);
        let open = beat.open.then(|| (Arc::from(&*last.epoch), until));
        let mut seen = None;
        self.view.send_modify(|view| {
            let reach = if beat.is_known { reach } else { view.reach };
            let new = View { open, reach, failed: false, replicas: alive + 1, lost: beat.lost };
            seen = Some(mem::replace(view, new));
        });
        self.log_changes(seen.as_ref());
        Ok(beat.task)
    }

    /// Logs what has changed for limited calls.
    fn log_changes(&self, before: Option<&View>) {
        let now = self.view.borrow();
        let Some(before) = before.filter(|before| before.replicas > 0) else { return };
        if now.open.is_some() && before.open.is_none() {
            tracing::info!("the shared store is whole: limited calls are made again");
        }
        let (closed, missing) = (now.lost.closed(), now.lost.missing);
        if now.lost.is_any() && !before.lost.is_any() {
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
    /// What a call with that reach may be made with now.
    fn pass(&self, reach: Reach) -> Option<Pass> {
        let (epoch, until) = self.open.as_ref()?;
        let mut known = self.reach;
        let passes = !known.grow(reach) && Instant::now() < *until;
        passes.then(|| Pass { epoch: Arc::clone(epoch), lost: self.lost })
    }
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
