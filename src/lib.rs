//! skeleton
pub mod clock;
