//! The servers: a primary, what its copy has of it, and who speaks to which.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::data::Data;
use super::model::Model;
use super::stage::{EPOCH, SECOND, Time};

/// How far back a copy can lag.
const HISTORY: Time = 3 * SECOND;

/// One server.
#[derive(Default)]
pub struct Site {
    pub model: Model,
    /// By how many microseconds its clock is ahead.
    pub ahead: i64,
    pub is_down: bool,
    /// Its data at earlier times.
    pub history: VecDeque<(Time, Arc<Data>)>,
}

impl Site {
    /// Sets its clock for a script that runs then.
    pub fn set_time(&mut self, at: Time) {
        self.model.now = (EPOCH + at).saturating_add_signed(self.ahead);
    }

    /// Notes its data, for a copy.
    pub fn note(&mut self, at: Time) {
        while self.history.front().is_some_and(|(then, _)| then + HISTORY < at) {
            self.history.pop_front();
        }
        let data = &self.model.data;
        if self.history.back().is_none_or(|(_, known)| !Arc::ptr_eq(known, data)) {
            self.history.push_back((at, Arc::clone(data)));
        }
    }

    /// What a copy has that has received everything until then.
    pub fn at(&self, then: Time) -> Arc<Data> {
        let known = self.history.iter().rev().find(|(at, _)| *at <= then);
        known.map(|(_, data)| Arc::clone(data)).unwrap_or_default()
    }

    /// It has other data now, and its copies follow.
    pub fn replace(&mut self, data: Arc<Data>) {
        self.model.data = data;
    }
}

/// All servers of a run.
#[derive(Default)]
pub struct Sites {
    pub all: Vec<Site>,
    /// Which one is the primary of each shard: one, or several of a cluster.
    pub primaries: Vec<usize>,
    /// The replicas that still speak to an earlier primary of a shard, and until when.
    pub staying: BTreeMap<(usize, usize), (usize, Time)>,
    /// Until when a replica reaches no server.
    pub parted: BTreeMap<usize, Time>,
    /// Until when messages are lost, and how many of a thousand.
    pub lossy: (Time, u64),
    /// When a server was emptied with its scripts, until a replica that was there has reached it.
    pub is_unreached: bool,
    /// When a replica last spoke to an earlier primary.
    pub split_until: Time,
}

impl Sites {
    pub fn primary(&mut self, shard: usize) -> &mut Site {
        &mut self.all[self.primaries[shard]]
    }

    /// Which server of a shard a replica speaks to.
    pub fn of(&self, shard: usize, replica: usize, at: Time) -> usize {
        match self.staying.get(&(shard, replica)) {
            Some((site, until)) if at < *until => *site,
            _ => self.primaries[shard],
        }
    }

    /// The shard that has a key: its hash tag says which.
    pub fn shard_of(&self, key: &[u8]) -> usize {
        let tag = key.split(|byte| *byte == b'{').nth(1).unwrap_or_default();
        let number = tag.get(2..4).and_then(|digits| std::str::from_utf8(digits).ok());
        let number = number.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        // That of the members has none.
        usize::from(number.unwrap_or_default()) % self.primaries.len()
    }

    pub fn is_parted(&self, replica: usize, at: Time) -> bool {
        self.parted.get(&replica).is_some_and(|until| at < *until)
    }
}
