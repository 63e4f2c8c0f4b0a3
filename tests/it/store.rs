//! The contract of every store: checks over a [`Fixture`], run for each kind. A new kind
//! adds its fixture here. Tests of the file store alone are in `store/file.rs`.
//!
//! A store may have its own clock. So checks advance time with [`Fixture::advance`], and read it
//! from the waits that the store promises: those may be short by [`Fixture::SLACK`].
#![allow(clippy::unchecked_time_subtraction, reason = "a test that reckons wrongly may fail")]

mod accounts;
mod ahead;
mod calls;
mod crash;
mod earlier;
mod file;
mod held;
mod kept;
mod orders;
mod redis;
mod reservations;
mod rules;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use order_query::clock::{Clock as _, ManualClock};
use order_query::pb::Order;
use order_query::store::{Call, File, Limit, Memory, Reservation, Store, Window};
use prost_types::Timestamp;
use tempfile::TempDir;

use self::redis::RedisStore;
use self::redis::cluster::ClusterStore;
use crate::support::{CACHE_BYTES, manual_clock};

/// Makes a function of this module's files a test for each kind of store.
macro_rules! contract {
    ($fixture:ident: $($theme:ident { $($check:ident)+ })+) => {$($(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $check() {
            crate::store::$theme::$check::<crate::store::$fixture>().await;
        }
    )+)+};
}

/// Makes these functions one test, for a store that takes long to start: all use one cluster in turn.
macro_rules! in_turn {
    ($fixture:ident: $($theme:ident { $($check:ident)+ })+) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn every_check_in_turn() {
            crate::store::redis::cluster::with_one(async {
                $($(
                    println!("{}", stringify!($check));
                    crate::store::$theme::$check::<crate::store::$fixture>().await;
                )+)+
            })
            .await;
        }
    };
}

/// The checks for every store.
macro_rules! every_store {
    ($tests:ident $fixture:ident) => {
        $tests! { $fixture:
            orders {
                a_new_order_is_unknown
                an_order_is_returned_as_it_was_stored
                a_later_state_replaces_an_earlier_one
                an_earlier_state_changes_nothing
                a_terminal_state_is_final
                a_terminal_state_is_never_forgotten
                the_latest_of_concurrent_states_is_kept
                a_terminal_state_among_concurrent_states_is_kept
            }
            calls {
                a_window_admits_exactly_its_limit
                a_call_without_limits_is_always_admitted
                a_call_refused_by_one_window_takes_no_slot_in_the_others
                an_unanswered_calls_slot_is_freed_after_its_time_in_flight_and_the_period
                an_answered_calls_slot_is_freed_a_period_after_the_answer
                an_answer_never_extends_a_slot
                slots_are_freed_one_by_one
                a_canceled_call_frees_its_slots
                finish_and_cancel_without_a_slot_change_nothing
                a_repeated_reservation_takes_no_second_slot
                a_lowered_limit_applies_at_once
                get_returns_spent_calls_with_the_order
                a_short_call_does_not_shorten_a_long_calls_slot
                concurrent_calls_are_admitted_up_to_the_limit
            }
            reservations {
                one_owner_at_a_time_holds_the_lease_of_an_order
                a_call_is_refused_when_an_answer_arrived_meanwhile
                a_refused_call_holds_no_lease
                a_found_state_is_stored_and_releases_the_lease
                finish_returns_the_calls_spent_of_the_orders_own_limit
                only_an_answer_about_the_order_resumes_an_account
            }
            held {
                cached_orders_are_bounded_by_their_bytes
                spent_calls_in_memory_are_counted
            }
            accounts {
                a_pause_expires
                a_paused_account_admits_one_probe_per_interval
                one_of_several_concurrent_probes_is_admitted
                a_call_refused_by_a_full_window_is_no_probe
                a_repeated_pause_counts_from_then
                a_pause_lasts_at_most_an_hour
                only_a_probe_resumes_an_account
                load_returns_the_token_saved_last
                a_token_is_removed_only_if_unchanged
                a_lease_has_one_owner
                a_lease_expires
                only_the_owner_releases_a_lease
                one_of_several_concurrent_owners_gets_the_lease
            }
        }
    };
}

/// The checks for a persistent store.
macro_rules! every_lasting_store {
    ($tests:ident $fixture:ident) => {
        $tests! { $fixture:
            ahead {
                slots_of_a_clock_that_was_ahead_are_clamped_to_their_rule
                spent_calls_of_a_clock_that_was_ahead_are_clamped
                pauses_of_a_clock_that_was_ahead_are_clamped_to_their_rule
                a_token_of_a_clock_that_was_ahead_is_discarded
                a_lease_of_a_clock_that_was_ahead_lasts_no_longer_than_granted
                an_order_from_the_future_is_replaced_by_the_next_answer
            }
            kept {
                orders_survive_a_restart
                spent_calls_survive_a_restart
                cancellations_and_removals_survive_a_restart
                pauses_survive_a_restart
                tokens_survive_a_restart
            }
        }
    };
}

mod memory_store {
    every_store!(contract MemoryStore);
}

mod file_store {
    every_store!(contract FileStore);
    every_lasting_store!(contract FileStore);
}

mod redis_store {
    every_store!(contract RedisStore);
    every_lasting_store!(contract RedisStore);
}

mod cluster_store {
    every_store!(in_turn ClusterStore);
}

mod lasting_cluster_store {
    every_lasting_store!(in_turn ClusterStore);
}

/// A store that is initially empty, and its time.
pub trait Fixture: Send + Sync {
    /// By how much a wait may be shorter than the sum of its parts: the time that passes meanwhile
    /// for a store whose clock does not stop.
    const SLACK: Duration;

    fn start() -> impl Future<Output = Self> + Send;

    fn store(&self) -> Arc<dyn Store>;

    /// Moves the store's time forward.
    fn advance(&self, by: Duration) -> impl Future<Output = ()> + Send;

    /// The same store, reopened. For persistent stores.
    fn restart(self) -> impl Future<Output = Self> + Send;

    /// The same with a clock that is earlier by this much: the previous one was ahead.
    fn restart_earlier(self, by: Duration) -> impl Future<Output = Self> + Send;

    /// Advances to shortly before the end of a wait: to the last millisecond, where time stops.
    fn advance_almost(&self, wait: Duration) -> impl Future<Output = ()> + Send {
        async move { self.advance(wait.saturating_sub(Self::rest())).await }
    }

    /// Advances from there to the end.
    fn advance_the_rest(&self) -> impl Future<Output = ()> + Send {
        async { self.advance(Self::rest()).await }
    }

    /// What [`advance_almost`](Self::advance_almost) leaves.
    fn rest() -> Duration {
        Self::SLACK.max(Duration::from_millis(1))
    }
}

pub struct MemoryStore {
    clock: ManualClock,
    store: Arc<Memory>,
}

impl Fixture for MemoryStore {
    const SLACK: Duration = Duration::ZERO;

    async fn start() -> Self {
        let clock = manual_clock();
        Self { store: Arc::new(Memory::new(CACHE_BYTES, Arc::new(clock.clone()))), clock }
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    async fn restart(self) -> Self {
        unreachable!("its memory ends with it")
    }

    async fn restart_earlier(self, _: Duration) -> Self {
        unreachable!("its memory ends with it, and its clock never goes back")
    }
}

pub struct FileStore {
    clock: ManualClock,
    folder: TempDir,
    store: Arc<File>,
}

impl FileStore {
    fn path(&self) -> PathBuf {
        self.folder.path().join("orders.redb")
    }
}

impl Fixture for FileStore {
    const SLACK: Duration = Duration::ZERO;

    async fn start() -> Self {
        let (clock, folder) = (manual_clock(), tempfile::tempdir().unwrap());
        let store =
            File::open(&folder.path().join("orders.redb"), CACHE_BYTES, Arc::new(clock.clone()));
        Self { store: Arc::new(store.unwrap()), clock, folder }
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    async fn restart(self) -> Self {
        let path = self.path();
        let Self { clock, folder, store } = self;
        drop(Arc::into_inner(store).expect("nobody else has the store"));
        let store = File::open(&path, CACHE_BYTES, Arc::new(clock.clone())).unwrap();
        Self { store: Arc::new(store), clock, folder }
    }

    async fn restart_earlier(self, by: Duration) -> Self {
        let clock = ManualClock::new(self.clock.now() - by);
        Self { clock, ..self }.restart().await
    }
}

const MINUTE: Duration = Duration::from_mins(1);
const IN_FLIGHT: Duration = Duration::from_secs(5);

/// At most `max_calls` a minute.
pub fn minute(key: &str, max_calls: u32) -> Window {
    Window { key: key.into(), limit: Limit::PerMinute, max_calls, period: MINUTE }
}

/// The same, for an order's own limit.
pub fn own(key: &str, max_calls: u32) -> Window {
    Window { limit: Limit::PerOrderPerDay, ..minute(key, max_calls) }
}

/// A call of the account "account", 5 s in flight at most.
pub fn call(id: &str, windows: &[Window]) -> Call {
    Call {
        id: id.to_owned(),
        account: "account".into(),
        windows: windows.to_vec(),
        in_flight: IN_FLIGHT,
        lease: None,
    }
}

/// A call of that account that has been answered.
pub fn answer(account: &str) -> Call {
    Call { account: account.into(), ..call("answer", &[]) }
}

/// An order's state, as it was observed then.
pub fn observed(seconds: i64, remark: &str) -> Order {
    let observe_time = Some(Timestamp { seconds: 1_790_000_000 + seconds, nanos: 7 });
    Order { id: "id".to_owned(), remark: remark.to_owned(), observe_time, ..Order::default() }
}

/// The same, terminal.
fn ended(seconds: i64, remark: &str) -> Order {
    Order { terminal: true, ..observed(seconds, remark) }
}

/// The stored state of an order.
async fn recalled(store: &Arc<dyn Store>, order: &str) -> Option<Order> {
    store.get(&order.into(), None).await.unwrap().and_then(|known| known.state)
}

/// The window of that limit is full for that long, less what the clock may have advanced by itself.
#[track_caller]
fn assert_full<F: Fixture>(reservation: &Reservation, limit: Limit, wait: Duration) {
    let Reservation::Full(full, left) = reservation else { panic!("{reservation:?}, not full") };
    assert_eq!(*full, limit);
    assert_wait::<F>(*left, wait);
}

#[track_caller]
fn assert_paused<F: Fixture>(reservation: &Reservation, wait: Duration) {
    let Reservation::Paused(left) = reservation else { panic!("{reservation:?}, not paused") };
    assert_wait::<F>(*left, wait);
}

#[track_caller]
fn assert_wait<F: Fixture>(left: Duration, wait: Duration) {
    assert!(left <= wait && left + F::SLACK >= wait, "{left:?}, not {wait:?}");
}
