//! The integration tests, in one binary: the whole service from outside, each file one theme.
#![allow(
    clippy::disallowed_types,
    reason = "tests speak to the service as a client does, and play the vendors"
)]
#![allow(unreachable_pub, reason = "nothing here is for others")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may end there")]

mod binary;
mod child;
mod config;
mod house;
mod played;
mod secrets;
mod support;
mod transport;
