//! What a seed decides before its run: the rules, the load, and which faults there may be.

use std::time::Duration;

use order_query::providers::Rules;

use super::dice::Dice;
use super::stage::{MILLI, SECOND, Time};

/// Which faults a run has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Faults {
    /// None at all.
    None,
    /// The server loses writes; every replica lives.
    Losses,
    /// Replicas crash, and messages are lost; the server keeps its data.
    Crashes,
    All,
}

#[derive(Debug, Clone)]
pub struct Setup {
    pub replicas: u64,
    /// How many primaries there are: one, or those of a cluster.
    pub shards: usize,
    pub faults: Faults,
    pub calls_per_minute: Option<u32>,
    pub calls_per_day: Option<u32>,
    /// In microseconds.
    pub longest_call: Time,
    freshness: Duration,
    /// How many orders are asked for again and again; callers also ask for new ones.
    pub orders: u64,
    /// How many microseconds the first server's clock is ahead.
    pub server_ahead: i64,
    /// The longest pause between two questions while there are faults.
    pub pause: Time,
    /// From when on nothing goes wrong.
    pub calm_from: Time,
    /// From when to when callers ask for more than the limits allow.
    pub pressed: (Time, Time),
    pub end: Time,
}

impl Setup {
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed, b"setup");
        let faults = match dice.within(0, 10) {
            0 => Faults::None,
            1..3 => Faults::Losses,
            3..5 => Faults::Crashes,
            _ => Faults::All,
        };
        let per_minute = Some(u32::try_from(dice.within(4, 25)).unwrap());
        let per_day = Some(u32::try_from(dice.within(2, 8)).unwrap());
        let (calls_per_minute, calls_per_day) = match dice.within(0, 4) {
            0 => (None, per_day),
            1 => (per_minute, per_day),
            _ => (per_minute, None),
        };
        let longest_call = dice.within(3, 9) * SECOND;
        // Calls that a server loses matter until the limit is reached: that is at some time among the faults.
        let reached = dice.within(3 * SECOND, 45 * SECOND);
        let pause = calls_per_minute.map_or(600 * MILLI, |limit| 2 * reached / u64::from(limit));
        let calm_from = if faults == Faults::None { 0 } else { 50 * SECOND };
        // Most runs end soon: what the faults have broken shows while callers press on.
        let pressed = if faults == Faults::None {
            (0, 80 * SECOND)
        } else if dice.in_thousand(150) {
            // A member that has gone on elsewhere, its last call's flight, a minute, and what callers wait.
            let again = calm_from + longest_call + (15 + 20 + 60 + 15) * SECOND;
            (again, again + 70 * SECOND)
        } else {
            (calm_from, calm_from + 25 * SECOND)
        };
        Self {
            replicas: dice.within(2, 6),
            shards: if Dice::new(seed, b"shards").in_thousand(200) { 3 } else { 1 },
            faults,
            calls_per_minute,
            calls_per_day,
            longest_call,
            freshness: Duration::from_secs(dice.within(0, 10)),
            orders: dice.within(3, 20),
            server_ahead: i64::try_from(dice.within(0, 4_000_000)).unwrap() - 2_000_000,
            pause: pause.clamp(200 * MILLI, 4 * SECOND),
            calm_from,
            pressed,
            end: pressed.1,
        }
    }

    pub fn rules(&self) -> Rules {
        Rules {
            freshness: self.freshness,
            calls_per_minute: self.calls_per_minute,
            calls_per_order_per_day: self.calls_per_day,
            longest_call: Duration::from_micros(self.longest_call),
        }
    }
}
