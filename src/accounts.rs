//! The account at its vendor: which one a question is for, how many calls it has left, how many may be
//! under way, and what becomes of a vendor that fails. Used by `orders`, and by `app` and `grpc`, which
//! set accounts up and tell who asks.
//!
//! A call passes, in this order: the account's places for callers ([`Account::place`]), its concurrency
//! limit and breaker (`limiter`), and the limits on calls (`quota`), which count it in the store.

mod account;
mod availability;
mod breaker;
mod caller;
mod limiter;
mod meters;
mod proof;
mod quota;
mod registry;
mod retry;

pub use self::account::Account;
pub(crate) use self::availability::Impairment;
pub use self::caller::Caller;
pub(crate) use self::caller::Share;
pub(crate) use self::limiter::ConcurrencyPermit;
pub use self::proof::{Proved, Shared};
pub(crate) use self::quota::{Priority, Quota, QuotaClass, calls_per_day, day_window};
pub use self::registry::Accounts;
