//! What must hold at the vendor after a run.

use std::collections::BTreeMap;

use super::setup::Faults;
use super::stage::{SECOND, Time};
use super::world::World;

const MINUTE: Time = 60 * SECOND;

/// What a slot may take to be used again besides its minute: a call's way, and the next caller.
const TURN: Time = 6 * SECOND;

impl World {
    pub fn check(&self) {
        let vendor = self.vendor.lock().unwrap();
        let mut times: Vec<Time> = vendor.arrivals.iter().map(|(at, _)| *at).collect();
        times.sort_unstable();
        if let Some(limit) = self.setup.calls_per_minute {
            self.check_minutes(&times, usize::try_from(limit).unwrap());
            if self.setup.calls_per_day.is_none() {
                self.check_use(&times, limit);
            }
        }
        let mut of_orders: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, order) in &vendor.arrivals {
            *of_orders.entry(order).or_default() += 1;
        }
        // No run lasts a day.
        let most = usize::try_from(self.setup.calls_per_day.unwrap_or(u32::MAX)).unwrap();
        for (order, calls) in of_orders.into_iter().filter(|(_, calls)| *calls > most) {
            self.stage.violated(self.setup.end, format!("{calls} calls for {order} in a day"));
        }
    }

    fn check_minutes(&self, times: &[Time], limit: usize) {
        // The slots of a replica that is gone end by the clock of the server that has them: if that is a
        // promoted one whose clock is ahead of the earlier one's, they end so much earlier.
        let sites = self.sites.lock().unwrap();
        let ahead = || sites.all.iter().map(|site| site.ahead);
        let jump = ahead().max().unwrap().abs_diff(ahead().min().unwrap());
        for calls in times.windows(limit + 1) {
            let (first, last) = (calls[0], calls[limit]);
            if last - first < MINUTE - jump {
                let what =
                    format!("{} calls within {} us, from {first} on", limit + 1, last - first);
                return self.stage.violated(last, what);
            }
        }
    }

    /// The limit is there to be used.
    fn check_use(&self, times: &[Time], limit: u32) {
        let (from, till) = self.setup.pressed;
        let percent = if self.setup.faults == Faults::None { 95 } else { 70 };
        let mut begin = from;
        while begin + MINUTE + TURN <= till {
            let within = begin..begin + MINUTE + TURN;
            let used = times.iter().filter(|at| within.contains(at)).count();
            if u32::try_from(used).unwrap() * 100 < limit * percent {
                let what = format!("{used} of {limit} calls in the minute from {begin} on");
                return self.stage.violated(till, what);
            }
            begin += SECOND;
        }
    }
}
