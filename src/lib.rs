//! skeleton
pub mod clock;
pub mod sandbox;
