//! The integration tests, in one binary: the whole service from outside, each file one theme.
#![allow(
    clippy::disallowed_types,
    reason = "tests speak to the service as a client does, and play the vendors"
)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails loudly")]
#![allow(unreachable_pub, reason = "nothing uses a test from outside")]

mod admission;
mod authority;
mod batch;
mod binary;
mod breaker;
mod callers;
mod child;
mod clocks;
mod collector;
mod config;
mod deadlines;
mod documents;
mod faults;
mod get_order;
mod health;
mod house;
mod joining;
mod live;
mod logging;
mod mappings;
mod memory;
mod metrics;
mod mounted;
mod pem;
mod played;
mod pressure;
mod redis_proxy;
mod redis_server;
mod replicas;
mod restarts;
mod retries;
mod rotation;
mod rules;
mod sandbox;
mod secrets;
mod server;
mod siege;
mod store;
mod store_redis;
mod store_redis_faults;
mod store_redis_refusals;
mod store_redis_tls;
mod store_redis_words;
mod support;
mod tokens;
mod traces;
mod transport;
mod turns;
mod unread;
mod watch;
