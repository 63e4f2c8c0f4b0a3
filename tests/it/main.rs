//! The integration tests, in one binary: the whole service from outside, one topic a file.
#![allow(
    clippy::disallowed_types,
    reason = "tests speak to the service as a client does, and play the vendors"
)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails loudly")]
#![allow(unreachable_pub, reason = "nothing uses a test from outside")]

mod architecture;
mod cli;
mod config;
mod documents;
mod grpc;
mod health;
mod orders;
mod outbound;
mod providers;
mod sandbox;
mod server;
mod simulation;
mod store;
mod support;
mod system;
mod telemetry;
