//! skeleton
mod sandbox;
