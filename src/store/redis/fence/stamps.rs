//! The fence's stamps at the tags of a cluster (`survey.lua`, `stamp.lua`). Used by the fence.
//!
//! Each node can lose its writes alone. A stamp lies beside the keys of its tag, and names the epoch and all
//! nodes of the cluster when it began. Where a tag lost writes, its stamp is missing, or lies on a node
//! that it does not name. A tag that moves to another node brings its stamp along, and stays whole.

use std::collections::BTreeSet;

use futures_util::future::ready;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::super::connection::Failure;
use super::super::keys::HashTag;
use super::super::scripts::{self, Input, Runner};

/// How many tags are asked at one time.
const CONCURRENCY: usize = 64;

/// What all tags have told.
pub(super) struct Survey {
    /// The epoch for which it was made.
    pub(super) epoch: String,
    /// The epoch of each tag's stamp; empty: none.
    stamps: Vec<(HashTag, String)>,
    /// The replication ids of all nodes.
    servers: String,
    loss: Loss,
}

/// What may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Loss {
    None,
    /// What was written in the last milliseconds.
    Last(u64),
    All,
}

/// Looks at all tags: whether each has a stamp of this epoch, or of the last one that was whole.
pub(super) async fn survey(server: &Runner, epoch: &str, whole: &str) -> Result<Survey, Failure> {
    let look = |tag| async move {
        let input = Input::at(Some(tag)).fence();
        let answer: (String, String, bool, u64) = server.run(&scripts::SURVEY, input).await?;
        Ok((tag, answer))
    };
    let looks: Vec<_> = HashTag::all().map(look).collect();
    let all = stream::iter(looks).buffer_unordered(CONCURRENCY);
    let mut all: Vec<_> = all.try_collect().await?;
    // In the same order each time: a simulated run repeats.
    all.sort_by_key(|(tag, _)| *tag);
    let mut servers = BTreeSet::new();
    let mut stamps = Vec::with_capacity(all.len());
    let mut loss = Loss::None;
    for (tag, (node, stamp, is_whole, ago)) in all {
        loss = loss.max(match (stamp.as_str(), is_whole) {
            (stamp, _) if stamp.is_empty() || stamp != epoch && stamp != whole => Loss::All,
            (_, true) => Loss::None,
            (_, false) => Loss::Last(ago),
        });
        servers.insert(node);
        stamps.push((tag, stamp));
    }
    let servers = Vec::from_iter(servers).join(" ");
    Ok(Survey { epoch: epoch.to_owned(), stamps, servers, loss })
}

impl Survey {
    /// Whether it has found nothing lost.
    pub(super) fn is_whole(&self) -> bool {
        self.loss == Loss::None
    }

    /// What it has found, for a beat.
    pub(super) fn found(&self) -> String {
        match self.loss {
            Loss::None => "whole".to_owned(),
            Loss::Last(ago) => ago.to_string(),
            Loss::All => "all".to_owned(),
        }
    }

    /// Stamps all tags for a new epoch. Returns whether all are stamped: something may have been lost since.
    pub(super) async fn stamp(self, server: &Runner, epoch: &str) -> Result<bool, Failure> {
        let servers = self.servers.as_str();
        let stamp = |(tag, before): (HashTag, String)| async move {
            let input = Input::at(Some(tag)).fence();
            let input = input.argument(epoch).argument(servers).argument(before);
            server.run::<bool>(&scripts::STAMP, input).await
        };
        let stamps: Vec<_> = self.stamps.into_iter().map(stamp).collect();
        stream::iter(stamps).buffer_unordered(CONCURRENCY).try_all(ready).await
    }
}
