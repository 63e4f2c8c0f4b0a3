//! The integration tests, in one binary: the whole service from outside, each file one theme.
#![allow(
    clippy::disallowed_types,
    reason = "tests speak to the service as a client does, and play the vendors"
)]

mod sandbox;
mod support;
