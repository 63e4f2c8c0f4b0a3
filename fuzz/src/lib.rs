//! What the fuzz targets share: a vendor's module that is asked for the order of its fixtures and
//! answered with whatever the fuzzer thinks of, and what must hold of the outcome. Used by the
//! targets, and by the benchmarks of the parts, which need vendors without a network, too.
//!
//! All that is known of a vendor here stands in `tests/fixtures/<provider>/`.

mod outcome;
mod vendor;

pub use vendor::{Vendor, ask};

use tokio::runtime::{Builder, Runtime};

/// Runs the work to its end, on this thread.
///
/// # Panics
/// Where there is no runtime to be had.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: Runtime =
            Builder::new_current_thread().enable_time().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(work))
}
