//! What a member tells in a beat, and what the server answers (`beat.lua`). Used by the fence.

use std::time::Duration;

use tokio::time::Instant;

use super::super::connection::Failure;
use super::super::scripts::{Input, Runner, millis};
use super::stamps::{self, Survey};
use super::{LIFE, Reach};
use crate::providers::new_id;

/// No window is shorter.
const SHORTEST_WINDOW: i64 = 60_000;

/// What a member tells in its next beat, from the answer to its last one.
#[derive(Default)]
pub(super) struct Last {
    pub(super) epoch: String,
    /// The epoch for which this replica has published what it knows; empty: it has never made a call.
    pub(super) published: String,
    joins: u64,
    /// When the server answered, by its own clock; 0: never.
    now: u64,
    pub(super) members: Vec<Member>,
    /// When the beat was sent.
    sent: Option<Instant>,
    /// What this replica has announced of its calls, and the `joins` of the first answer to it.
    announced: Option<(u64, Reach)>,
    tags: Tags,
}

/// What a member knows of the tags of a cluster.
#[derive(Default)]
struct Tags {
    /// The epoch of the last answer, whether or not it told anything else.
    epoch: String,
    /// The last epoch with a stamp at all tags.
    whole: String,
    survey: Option<Survey>,
    /// The epoch that this replica has stamped at all tags.
    stamped: String,
}

/// Another member.
pub(super) struct Member {
    id: String,
    /// How long its membership lasts, in milliseconds; negative: for how long it has been over.
    pub(super) left: i64,
    reach: Reach,
}

/// What a beat has told.
pub(super) struct Beat {
    pub(super) open: bool,
    /// Whether the others know this replica's reach.
    pub(super) is_known: bool,
    /// Whether the server tells its replication id.
    pub(super) names_server: bool,
    /// How long the membership lasts.
    pub(super) left: Duration,
    pub(super) lost: Lost,
    pub(super) task: Task,
}

/// What a member must do after a beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    Nothing,
    /// Look at all tags.
    Survey,
    /// Stamp all tags for the new epoch.
    Stamp,
    /// Wait until another member has stamped all tags.
    Wait,
    Publish,
}

/// What lost replicas may have called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::store::redis) struct Lost {
    /// For how many milliseconds from that time such a call can arrive at its vendor; negative: it arrived
    /// earlier.
    unknown: Option<(Instant, i64)>,
    /// How many calls are taken off each order's day.
    pub(in crate::store::redis) missing: u64,
}

/// The script's answer.
pub(super) type Answer =
    (String, bool, u64, u64, u64, Vec<String>, bool, String, u64, u64, String, String);

impl Last {
    /// Builds the next beat.
    pub(super) fn input(&mut self, id: &str, reach: Reach, is_cluster: bool) -> Input {
        let since = self.sent.map(|sent| millis(sent.elapsed())).unwrap_or_default();
        let mut input = Input::default()
            .fence()
            .argument(id)
            .argument(millis(LIFE))
            .argument(reach.flight)
            .argument(reach.most)
            .argument(&self.published)
            .argument(new_id())
            .argument(&self.epoch)
            .argument(self.joins)
            .argument(self.now)
            .argument(since)
            .was_run();
        let found = match &self.tags.survey {
            Some(survey) => (survey.found(), survey.epoch.as_str()),
            None if is_cluster => ("?".to_owned(), ""),
            None => (String::new(), ""),
        };
        input = input.argument(found.0).argument(found.1).argument(&self.tags.stamped);
        for Member { id, left, reach } in &self.members {
            let since = i64::try_from(since).unwrap_or(i64::MAX);
            // A membership that has ended only since then may have been renewed.
            let ago = if *left > 0 { 0 } else { since.saturating_sub(*left) };
            input = input.argument(id).argument(ago).argument(reach.flight).argument(reach.most);
        }
        input
    }

    /// Records the answer to a beat that was sent then with that reach. Returns what it tells; `None` if it
    /// only asks for a survey.
    pub(super) fn learn(&mut self, answer: Answer, reach: Reach, sent: Instant) -> Option<Beat> {
        let (
            epoch,
            open,
            joins,
            seen,
            now,
            members,
            names_server,
            unknown,
            missing,
            left,
            task,
            whole,
        ) = answer;
        self.tags.epoch.clone_from(&epoch);
        self.tags.whole = whole;
        let task = match task.as_str() {
            "survey" => return None,
            "stamp" => Task::Stamp,
            "wait" => Task::Wait,
            _ if self.published == epoch => Task::Nothing,
            _ => Task::Publish,
        };
        if task != Task::Stamp {
            self.tags.survey = None;
        }
        let announced = match self.announced {
            Some((at, what)) if what == reach && epoch == self.epoch => at,
            _ => joins,
        };
        (self.epoch, self.joins, self.now) = (epoch, joins, now);
        self.members = parse(&members);
        (self.sent, self.announced) = (Some(sent), Some((announced, reach)));
        Some(Beat {
            open: open && task == Task::Nothing,
            is_known: seen >= announced,
            names_server,
            left: Duration::from_millis(left),
            lost: Lost {
                unknown: unknown.parse().ok().map(|left| (Instant::now(), left)),
                missing,
            },
            task,
        })
    }

    /// Looks at all tags.
    ///
    /// # Errors
    /// A part of the cluster cannot be asked.
    pub(super) async fn survey(&mut self, server: &Runner) -> Result<(), Failure> {
        self.tags.survey = None;
        self.tags.survey = Some(stamps::survey(server, &self.tags.epoch, &self.tags.whole).await?);
        Ok(())
    }

    /// Stamps all tags for the new epoch. Where that fails or something may be lost, another one begins.
    ///
    /// # Errors
    /// A part of the cluster cannot be asked.
    pub(super) async fn stamp(&mut self, server: &Runner) -> Result<(), Failure> {
        if let Some(survey) = self.tags.survey.take()
            && survey.stamp(server, &self.epoch).await?
        {
            self.tags.stamped.clone_from(&self.epoch);
        }
        Ok(())
    }
}

impl Lost {
    /// For how many milliseconds from now such a call can arrive; empty: there is none.
    pub(in crate::store::redis) fn unknown(&self) -> String {
        self.unknown.map(|(at, left)| remaining(at, left).to_string()).unwrap_or_default()
    }

    /// For how long windows of a minute stay closed.
    pub(super) fn closed(&self) -> Duration {
        let left = self.unknown.map(|(at, left)| remaining(at, left) + SHORTEST_WINDOW);
        Duration::from_millis(left.and_then(|left| u64::try_from(left).ok()).unwrap_or_default())
    }

    pub(super) fn is_any(&self) -> bool {
        self.missing > 0 || !self.closed().is_zero()
    }
}

fn remaining(at: Instant, left: i64) -> i64 {
    // Rounded down: no call is taken for one that no longer counts.
    let passed = i64::try_from(at.elapsed().as_millis()).unwrap_or(i64::MAX);
    left.saturating_sub(passed)
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
