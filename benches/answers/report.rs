//! What was measured, and the table that shows it.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::rows::{Bound, Goal};

/// The units that times are shown in.
pub const MICROSECOND: Duration = Duration::from_micros(1);
pub const MILLISECOND: Duration = Duration::from_millis(1);

/// Why a row has no figures although nothing failed.
#[derive(Debug)]
pub struct NotMeasured(pub String);

impl fmt::Display for NotMeasured {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Error for NotMeasured {}

/// A figure of a row: what its goal speaks of, and how it came about.
#[derive(Default)]
pub struct Figure {
    /// Of the server that ours is compared with.
    pub one: String,
    /// Of the server that is measured.
    pub other: String,
    pub value: Spread,
    /// The ratio of the CPU times, where they are compared.
    pub cpu: Option<Spread>,
}

/// The same measurement, of each round.
#[derive(Default)]
pub struct Spread(Vec<f64>);

impl Spread {
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    pub fn times(times: impl IntoIterator<Item = Duration>, unit: Duration) -> Self {
        Self::of(times.into_iter().map(|time| time.as_secs_f64() / unit.as_secs_f64()))
    }

    pub fn median(&self) -> f64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// The median, and the lowest and the highest where there are several.
    pub fn show(&self, digits: usize) -> String {
        let median = self.median();
        match self.0.as_slice() {
            [low, .., high] => format!("{median:.digits$} ({low:.digits$}–{high:.digits$})"),
            _ => format!("{median:.digits$}"),
        }
    }
}

/// The head of the table.
pub const HEAD: &str = "| row | against | ours | ratio or figure | ratio of the CPU | goal | met |\n\
                        |---|---|---|---|---|---|---|";

/// A line of the table.
pub fn line(row: &str, goal: &Goal, figure: &Figure) -> String {
    let Figure { one, other, value, cpu } = figure;
    let of_cpu = cpu.as_ref().map_or(f64::NAN, Spread::median);
    let cpu = cpu.as_ref().map(|spread| spread.show(2)).unwrap_or_default();
    let name = [row, goal.figure].join(if goal.figure.is_empty() { "" } else { ": " });
    let value = format!("{}{}", value.show(2), goal.unit);
    let (bound, met) = match goal.bound {
        Bound::None => (String::new(), ""),
        Bound::AtLeast(bound) => {
            (format!("≥ {bound}{}", goal.unit), yes(figure.value.median() >= bound))
        }
        Bound::AtMost(bound) => {
            (format!("≤ {bound}{}", goal.unit), yes(figure.value.median() <= bound))
        }
        Bound::CpuAtLeast(bound) => (format!("CPU ≥ {bound}"), yes(of_cpu >= bound)),
    };
    format!("| {name} | {one} | {other} | {value} | {cpu} | {bound} | {met} |")
}

/// A line of the table for a row without figures.
pub fn line_without(row: &str, why: &(dyn Error + 'static)) -> String {
    let measured = if why.is::<NotMeasured>() { "not measured" } else { "the measurement failed" };
    format!("| {row} | {measured}: {why} | | | | | |")
}

fn yes(met: bool) -> &'static str {
    if met { "yes" } else { "no" }
}
