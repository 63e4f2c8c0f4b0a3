//! What goes wrong in a run, and when.

use std::sync::Arc;

use super::data::Data;
use super::dice::Dice;
use super::setup::Faults;
use super::site::Site;
use super::stage::{MILLI, SECOND, Time};
use super::world::{World, new_server_id};

/// Where the members are, in one server and in a cluster.
const FENCES: [&str; 2] = ["order-query:fence", "order-query:{fence}"];

impl World {
    /// Plans the faults.
    pub fn plan_faults(self: &Arc<Self>) {
        let mut dice = Dice::new(self.seed, b"faults");
        let mut at = dice.within(3 * SECOND, 12 * SECOND);
        let kinds: &[fn(&Arc<Self>, Time, &mut Dice)] = match self.setup.faults {
            Faults::None => return,
            Faults::Losses => {
                &[Self::flush, Self::restart_empty, Self::restart, Self::fail_over, Self::split]
            }
            Faults::Crashes => &[Self::crash, Self::crash, Self::part, Self::lose, Self::arrive],
            Faults::All => &[
                Self::flush,
                Self::restart_empty,
                Self::restart,
                Self::fail_over,
                Self::split,
                Self::crash,
                Self::crash,
                Self::part,
                Self::lose,
                Self::arrive,
                Self::flush_unseen,
            ],
        };
        while at + SECOND < self.setup.calm_from {
            let kind = kinds[dice.index(kinds.len())];
            let (world, mut own) = (Arc::clone(self), Dice::new(dice.number(), b"fault"));
            self.stage.at(at, dice.number(), move |at| kind(&world, at, &mut own));
            // Some come close together.
            let longest = if dice.in_thousand(300) { 500 * MILLI } else { 15 * SECOND };
            at += dice.within(10 * MILLI, longest);
        }
    }

    /// A time until which a fault lasts.
    fn until(&self, at: Time, dice: &mut Dice, longest: Time) -> Time {
        (at + dice.within(100 * MILLI, longest)).min(self.setup.calm_from)
    }

    /// Whether each replica that is alive is a known one. A new one at an empty server without scripts
    /// cannot know that there were others: that is no fault of theirs.
    fn all_are_members(&self) -> bool {
        let replicas = self.replicas.lock().unwrap();
        replicas.iter().all(|replica| replica.is_member || !replica.is_alive)
    }

    /// A shard that something happens to.
    fn shard(&self, dice: &mut Dice) -> usize {
        if self.setup.shards > 1 { dice.index(self.setup.shards) } else { 0 }
    }

    /// Whether a new replica at the first shard cannot know that there were others.
    fn is_unknowing(shard: usize, data: &Data) -> bool {
        shard == 0 && FENCES.iter().all(|fence| !data.holds(fence))
    }

    fn flush(self: &Arc<Self>, at: Time, dice: &mut Dice) {
        let shard = self.shard(dice);
        self.stage.tell(at, format!("FAULT: the primary {shard} is flushed"));
        let mut sites = self.sites.lock().unwrap();
        let site = sites.primary(shard);
        site.replace(Arc::default());
        // Nobody has used it since it restarted or was promoted.
        let is_scriptless = site.model.scripts.is_empty();
        sites.is_unreached |= shard == 0 && is_scriptless;
    }

    /// A primary is flushed while no replica reaches it, and then a new one comes. Where days are limited,
    /// nobody could tell what is lost.
    fn flush_unseen(self: &Arc<Self>, at: Time, dice: &mut Dice) {
        let is_unreached = self.sites.lock().unwrap().is_unreached;
        if self.setup.calls_per_day.is_some() || is_unreached || !self.all_are_members() {
            return;
        }
        for replica in self.alive() {
            let until = self.until(at, dice, 10 * SECOND);
            self.stage
                .tell(at, format!("FAULT: replica {replica} reaches no server until {until}"));
            self.sites.lock().unwrap().parted.insert(replica, until);
        }
        self.flush(at, dice);
        let world = Arc::clone(self);
        self.stage.at(at + dice.within(MILLI, SECOND), 0, move |at| world.come(at));
    }

    fn restart_empty(self: &Arc<Self>, at: Time, dice: &mut Dice) {
        if self.all_are_members() {
            self.restart_with(at, dice, None);
        }
    }

    fn restart(self: &Arc<Self>, at: Time, dice: &mut Dice) {
        let lag = if dice.in_thousand(500) { 0 } else { dice.within(0, 1500 * MILLI) };
        if self.all_are_members() {
            self.restart_with(at, dice, Some(lag));
        }
    }

    /// The primary restarts, with its data of so long ago, or without any.
    fn restart_with(self: &Arc<Self>, at: Time, dice: &mut Dice, lag: Option<Time>) {
        let up = self.until(at, dice, 3 * SECOND);
        let shard = self.shard(dice);
        let what = format!("FAULT: the primary {shard} restarts, with data of {lag:?} ago");
        self.stage.tell(at, what);
        let mut sites = self.sites.lock().unwrap();
        let index = sites.primaries[shard];
        let site = sites.primary(shard);
        let data = lag.map(|lag| site.at(at.saturating_sub(lag))).unwrap_or_default();
        let is_empty = Self::is_unknowing(shard, &data);
        site.replace(data);
        site.model.scripts.clear();
        site.model.id = new_server_id(self.seed ^ at, index);
        site.is_down = true;
        sites.is_unreached |= is_empty;
        let world = Arc::clone(self);
        self.stage.at(up, 0, move |at| {
            world.stage.tell(at, format!("server {index} is up"));
            world.sites.lock().unwrap().all[index].is_down = false;
        });
    }

    fn fail_over(self: &Arc<Self>, at: Time, dice: &mut Dice) {
        self.promote(at, dice, false);
    }

    /// Some replicas go on at the old primary for a while.
    fn split(self: &Arc<Self>, at: Time, dice: &mut Dice) {
        self.promote(at, dice, true);
    }

    fn promote(self: &Arc<Self>, at: Time, dice: &mut Dice, some_stay: bool) {
        if !self.all_are_members() {
            return;
        }
        let lag = dice.within(0, 1500 * MILLI);
        let alive = self.alive();
        let shard = self.shard(dice);
        let mut sites = self.sites.lock().unwrap();
        let (old, new) = (sites.primaries[shard], sites.all.len());
        let data = sites.all[old].at(at.saturating_sub(lag));
        let drift = i64::try_from(dice.within(0, 1000)).unwrap() * 1000 - 500_000;
        let ahead = self.setup.server_ahead + drift;
        let mut site = Site { ahead, ..Site::default() };
        sites.is_unreached |= Self::is_unknowing(shard, &data);
        site.replace(data);
        site.model.id = new_server_id(self.seed, new);
        sites.all.push(site);
        sites.primaries[shard] = new;
        let mut stayed = Vec::new();
        for replica in alive {
            if some_stay && dice.in_thousand(400) {
                let until = self.until(at, dice, 10 * SECOND);
                sites.staying.insert((shard, replica), (old, until));
                sites.split_until = sites.split_until.max(until);
                stayed.push((replica, until));
            }
        }
        sites.all[old].is_down = stayed.is_empty();
        self.stage.tell(
            at,
            format!(
                "FAULT: server {new} is promoted, {lag} us behind, its clock {ahead} us ahead; \
                 with the old one stay {stayed:?}"
            ),
        );
    }

    fn crash(self: &Arc<Self>, at: Time, dice: &mut Dice) {
        let alive = self.alive();
        let is_unreached = self.sites.lock().unwrap().is_unreached;
        // One that knows the others stays, and has reached the server.
        if alive.len() < 2 || is_unreached || !self.all_are_members() {
            return;
        }
        let gone = alive[dice.index(alive.len())];
        self.stage.tell(at, format!("FAULT: replica {gone} crashes"));
        self.replicas.lock().unwrap()[gone].is_alive = false;
        if dice.in_thousand(700) {
            let again = at + dice.within(100 * MILLI, 10 * SECOND);
            let world = Arc::clone(self);
            self.stage.at(again, 0, move |at| world.come(at));
        }
    }

    fn arrive(self: &Arc<Self>, at: Time, _: &mut Dice) {
        if self.alive().len() < 6 {
            self.come(at);
        }
    }

    /// A new replica starts, once one that was there before has reached the server, and, where days are
    /// limited, can reach it.
    fn come(self: &Arc<Self>, at: Time) {
        let alive = self.alive();
        let has_days = self.setup.calls_per_day.is_some();
        let waits = {
            let sites = self.sites.lock().unwrap();
            let are_parted = || alive.into_iter().all(|replica| sites.is_parted(replica, at));
            sites.is_unreached || has_days && are_parted()
        };
        if waits {
            let world = Arc::clone(self);
            return self.stage.at(at + 500 * MILLI, 1, move |at| world.come(at));
        }
        self.start(at);
    }

    fn part(self: &Arc<Self>, at: Time, dice: &mut Dice) {
        let alive = self.alive();
        let replica = alive[dice.index(alive.len())];
        let until = self.until(at, dice, 10 * SECOND);
        self.stage.tell(at, format!("FAULT: replica {replica} reaches no server until {until}"));
        self.sites.lock().unwrap().parted.insert(replica, until);
    }

    fn lose(self: &Arc<Self>, at: Time, dice: &mut Dice) {
        let until = self.until(at, dice, 10 * SECOND);
        let share = dice.within(10, 200);
        self.stage.tell(at, format!("FAULT: {share} of 1000 messages are lost until {until}"));
        self.sites.lock().unwrap().lossy = (until, share);
    }
}
