//! Simulated time: what happens when, and the record of what has happened.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use order_query::clock::Clock;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::dice::Dice;

/// When every run begins, in microseconds since 1970.
pub const EPOCH: u64 = 1_790_000_000_000_000;

/// Microseconds since the run began.
pub type Time = u64;

pub const MILLI: Time = 1000;
pub const SECOND: Time = 1_000_000;

type Action = Box<dyn FnOnce(Time) + Send>;

/// The stage of one run.
pub struct Stage {
    start: Instant,
    agenda: Mutex<BTreeMap<(Time, u64, u64), Action>>,
    changed: Notify,
    record: Mutex<Record>,
}

#[derive(Default)]
struct Record {
    added: u64,
    events: Vec<(Time, String)>,
    hash: u64,
    violations: Vec<String>,
}

impl Stage {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            agenda: Mutex::default(),
            changed: Notify::new(),
            record: Mutex::default(),
        })
    }

    pub fn now(&self) -> Time {
        u64::try_from(self.start.elapsed().as_micros()).unwrap()
    }

    pub fn instant(&self, at: Time) -> Instant {
        self.start + Duration::from_micros(at)
    }

    /// Does this at that time. What happens at one time happens in the order of `tie`.
    pub fn at(&self, at: Time, tie: u64, action: impl FnOnce(Time) + Send + 'static) {
        let mut record = self.record.lock().unwrap();
        record.added += 1;
        self.agenda.lock().unwrap().insert((at, tie, record.added), Box::new(action));
        drop(record);
        self.changed.notify_one();
    }

    /// Does what is due, until that time.
    pub async fn play(self: Arc<Self>, until: Time) {
        while self.now() < until {
            let first = self.agenda.lock().unwrap().first_key_value().map(|((at, ..), _)| *at);
            let next = first.unwrap_or(until).min(until);
            if next > self.now() {
                let _ = timeout_at(self.instant(next), self.changed.notified()).await;
                continue;
            }
            let due = self.agenda.lock().unwrap().pop_first();
            if let Some(((at, ..), action)) = due {
                action(at);
            }
        }
    }

    /// Forgets what was to happen.
    pub fn clear(&self) {
        let agenda = std::mem::take(&mut *self.agenda.lock().unwrap());
        drop(agenda);
    }

    /// Records an event.
    pub fn tell(&self, at: Time, what: impl Into<String>) {
        let what = what.into();
        self.count(Dice::new(at, what.as_bytes()).number());
        self.record.lock().unwrap().events.push((at, what));
    }

    /// Counts an event for the hash only, whatever its place among those of the same time.
    pub fn count(&self, hash: u64) {
        let mut record = self.record.lock().unwrap();
        record.hash = record.hash.wrapping_add(hash);
    }

    /// Something has happened that must not happen.
    pub fn violated(&self, at: Time, what: impl Into<String>) {
        let what = what.into();
        self.tell(at, format!("VIOLATION: {what}"));
        self.record.lock().unwrap().violations.push(what);
    }

    pub fn violations(&self) -> Vec<String> {
        self.record.lock().unwrap().violations.clone()
    }

    pub fn hash(&self) -> u64 {
        self.record.lock().unwrap().hash
    }

    /// The events in their order.
    pub fn story(&self) -> String {
        let mut events = self.record.lock().unwrap().events.clone();
        events.sort();
        events.into_iter().fold(String::new(), |mut story, (at, what)| {
            let (seconds, micros) = (at / SECOND, at % SECOND);
            writeln!(story, "{seconds:4}.{micros:06} {what}").unwrap();
            story
        })
    }
}

/// The clock of a replica: it is so many milliseconds ahead, or behind.
pub struct Watch {
    pub stage: Arc<Stage>,
    pub ahead: i64,
}

#[async_trait]
impl Clock for Watch {
    fn now(&self) -> SystemTime {
        let micros = (EPOCH + self.stage.now()).saturating_add_signed(self.ahead * 1000);
        SystemTime::UNIX_EPOCH + Duration::from_micros(micros)
    }

    async fn sleep_until(&self, time: SystemTime) {
        let left = time.duration_since(self.now()).unwrap_or_default();
        sleep_until(Instant::now() + left).await;
    }
}
