//! The account at its vendor: which account a question is for, how many calls it has left, how many may
//! be under way, and how a failing vendor is handled. Used by `orders`; `app` sets accounts up and
//! `grpc` identifies the caller.
//!
//! A call passes, in this order: the account's permits for callers (`Account::caller_permit`), its concurrency
//! limit and breaker (`limiter`), and the limits on calls (`quota`), which count it in the store.

mod account;
mod availability;
mod breaker;
mod caller;
mod limiter;
mod live_check;
mod meters;
mod quota;
mod registry;
mod retry;

pub use self::account::Account;
pub(crate) use self::availability::Impairment;
pub use self::caller::Caller;
pub(crate) use self::caller::Share;
pub(crate) use self::limiter::ConcurrencyPermit;
pub use self::live_check::{LiveChecked, Shared};
pub(crate) use self::quota::{Priority, Quota, QuotaClass, calls_per_day, day_window};
pub use self::registry::Accounts;
