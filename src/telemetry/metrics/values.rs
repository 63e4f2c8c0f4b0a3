//! The values of a metric: what code that counts holds. Used by the table of all metrics.

use std::time::Duration;

use prometheus::IntCounter;

/// A counter of events.
#[derive(Debug, Clone)]
pub struct Counter(pub(super) IntCounter);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.0.inc();
    }

    /// Adds what is missing to a count that is kept elsewhere.
    pub fn raise_to(&self, total: u64) {
        self.0.inc_by(total.saturating_sub(self.0.get()));
    }

    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.inc_by(count);
    }
}

/// A value that can rise and fall.
#[derive(Debug, Clone)]
pub struct Gauge(pub(super) prometheus::Gauge);

impl Gauge {
    /// Sets the value.
    pub fn set(&self, value: f64) {
        self.0.set(value);
    }

    /// Adds `change`, which may be negative.
    pub fn add(&self, change: f64) {
        self.0.add(change);
    }
}

/// A histogram of durations.
#[derive(Debug, Clone)]
pub struct Histogram(pub(super) prometheus::Histogram);

impl Histogram {
    /// Records one duration.
    pub fn observe(&self, time: Duration) {
        self.0.observe(time.as_secs_f64());
    }
}
