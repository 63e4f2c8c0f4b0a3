//! Orders within the vendors' rules: how often a vendor is called, by whom, and how failures are handled.

mod breaker;
mod clocks;
mod faults;
mod joining;
mod min_observe_time;
mod pressure;
mod retries;
pub mod rules;
mod turns;
