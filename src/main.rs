//! The binary: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return order_query::cli::no_runtime(&error),
    };
    let code = runtime.block_on(order_query::cli::run());
    // Does not wait for threads that still block, such as in a name lookup.
    runtime.shutdown_background();
    code
}
