//! Orders within the vendors' rules: how often a vendor is asked, by whom, and what becomes of one that fails.

mod breaker;
mod clocks;
mod faults;
mod joining;
mod pressure;
mod retries;
pub mod rules;
mod turns;
