//! One gRPC contract for the orders of several vendors, within the vendors' own rules.
//!
//! Dependencies point one way only: `cli` → `app` → {`server`, `grpc`, `health`, `telemetry`,
//! `sandbox`} → `orders` → `accounts` → {`providers`, `store`} → {`outbound`, `spans`, `error`,
//! `clock`, `pb`}. `config` uses `certificate` alone, and each module reads its own settings with it.
//! `peer`, `budget`, `chance`, `metrics` and `certificate` use none of these modules. A test enforces
//! this (`tests/it/architecture.rs`).
//!
//! The path of a call: `grpc` decodes it and limits its time. `orders` answers from the `store` if the
//! stored order is fresh enough; else it joins the search in flight for the order, or leads one in a
//! task of its own. `accounts` admits the call to the vendor: a concurrency permit, the breaker, and a
//! reservation in the `store`. The vendor's module in `providers` asks the vendor through `outbound`
//! and translates the answer into the contract's words (`pb`). The `store` finishes the reservation and
//! stores the order.

pub mod accounts;
pub mod app;
pub mod budget;
pub mod certificate;
pub mod chance;
pub mod cli;
pub mod clock;
pub mod config;
pub mod error;
pub mod grpc;
pub mod health;
pub mod live_check;
pub mod orders;
pub mod outbound;
pub mod pb;
pub mod peer;
pub mod providers;
pub mod sandbox;
pub mod server;
pub mod store;
pub mod telemetry;

/// An answer makes some dozens of small allocations, and another thread frees half of them. Set here,
/// in the library, so that the tests and the benchmarks measure what runs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
