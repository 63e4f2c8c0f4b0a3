//! One gRPC contract over the orders of several vendors, within the vendors' own rules.
//!
//! Arrows point inward only: `cli` → `app` → {`server`, `grpc`, `health`, `telemetry`, `sandbox`}
//! → `orders` → `accounts` → {`providers`, `store`} → {`outbound`, `spans`, `error`, `clock`, `pb`}; `config`
//! knows no other part, and each part reads its own settings with it; `peer`, `budget`, `metrics`
//! and `certificate` know no other either. A test keeps it so (`tests/it/architecture.rs`).
//!
//! A question's way: `grpc` takes it off the wire and bounds its time. `orders` answers from the `store`
//! what is young enough; else it joins the search that is under way for the order, or leads one in a
//! task of its own. `accounts` lets a call through: a permit, the breaker, and a reservation in the
//! `store`. The vendor's module in `providers` asks the vendor through `outbound` and puts the answer into
//! the contract's words (`pb`); the `store` finishes the call and remembers the order.

pub mod accounts;
pub mod app;
pub mod budget;
pub mod certificate;
pub mod cli;
pub mod clock;
pub mod config;
pub mod error;
pub mod grpc;
pub mod health;
pub mod metrics;
pub mod orders;
pub mod outbound;
pub mod pb;
pub mod peer;
pub mod providers;
pub mod sandbox;
pub mod server;
pub mod spans;
pub mod store;
pub mod telemetry;

/// An answer is some dozens of small allocations, and half of them are freed by another thread. Here, so that
/// the tests and the benchmarks measure what runs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
