//! The binary: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return order_query::cli::no_runtime(&error),
    };
    let code = runtime.block_on(order_query::cli::run());
    // What still blocks a thread, such as a name that is looked up, is not waited for.
    runtime.shutdown_background();
    code
}
