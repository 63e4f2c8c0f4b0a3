//! What an answer costs, beside a bare server of the same gRPC library. `make bench` runs it and prints a
//! table; docs/performance.md explains the rows.
//!
//! Each server is a process on the first core; the load and all that stands for other machines share the
//! second one. The servers take turns in every round, so that a busy machine disturbs both.
//!
//! `BENCH_ROUNDS` and `BENCH_SECONDS` set how often and how long each row is measured, `BENCH_ONLY` which
//! rows: those with this text in their name. `BENCH_LARGE=1` adds what takes minutes.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "prints figures")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the figures are small, and the bare server fails loudly"
)]
#![allow(clippy::disallowed_types, reason = "the bare server answers as tonic asks for")]
#![allow(missing_docs, unreachable_pub, reason = "a program")]

mod bare;
mod calls;
mod client;
mod collector;
mod load;
mod memory;
mod process;
mod redis;
mod report;
mod rows;
mod servers;
mod vendor;

use std::env;
use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use self::report::{Figure, NotMeasured};
use self::rows::{Measure, ROWS};

/// What can fail here fails for reasons that a person reads.
type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// How often, and how long each time.
#[derive(Clone, Copy)]
struct Effort {
    rounds: u64,
    time: Duration,
    /// Counts measurements that began although others used the machine.
    disturbed: &'static AtomicU64,
}

impl Effort {
    /// Waits until nobody else uses the machine, for some seconds at most.
    async fn quiet(&self) -> Result<()> {
        if !process::quiet().await? {
            self.disturbed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = env::args().collect();
    let second_core = process::share_cores();
    if let [_, command, vendor] = arguments.as_slice()
        && command == "bare"
    {
        bare::serve(vendor.parse()?);
        return Ok(ExitCode::SUCCESS);
    }
    if second_core {
        println!("servers on core 0, load and vendor on core 1");
    } else {
        println!("servers, load and vendor share all cores");
    }
    // One thread: what waits for the next call must not hold the core that answers arrive on.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // A signal must not leave servers behind.
        let mut terminated = signal(SignalKind::terminate())?;
        tokio::select! {
            code = measure_all() => code,
            _ = terminated.recv() => Err("ended by SIGTERM".into()),
            _ = tokio::signal::ctrl_c() => Err("ended by Ctrl-C".into()),
        }
    })
}

fn number(name: &str, default: u64) -> Result<u64> {
    Ok(env::var(name).map_or(Ok(default), |text| text.parse())?)
}

/// Of the whole run.
static DISTURBED: AtomicU64 = AtomicU64::new(0);

async fn measure_all() -> Result<ExitCode> {
    let time = Duration::from_secs(number("BENCH_SECONDS", 3)?);
    let effort = Effort { rounds: number("BENCH_ROUNDS", 5)?, time, disturbed: &DISTURBED };
    let only = env::var("BENCH_ONLY").unwrap_or_default();
    println!(
        "{} rounds of {time:?}; calls a second, and CPU µs of the server a call: median (lowest–highest)\n\n{}",
        effort.rounds,
        report::HEAD
    );
    let rows: Vec<_> = ROWS.iter().filter(|row| row.name.contains(&only)).collect();
    if rows.is_empty() {
        return Err(format!("no row has {only:?} in its name").into());
    }
    let mut code = ExitCode::SUCCESS;
    for row in rows {
        match measure(&row.measure, effort).await {
            Ok(figures) => {
                assert_eq!(figures.len(), row.goals.len(), "{}: each figure has a goal", row.name);
                for (figure, goal) in figures.iter().zip(row.goals) {
                    println!("{}", report::line(row.name, goal, figure));
                }
            }
            Err(why) => {
                println!("{}", report::line_without(row.name, why.as_ref()));
                if !why.is::<NotMeasured>() {
                    code = ExitCode::FAILURE;
                }
            }
        }
    }
    let disturbed = DISTURBED.load(Ordering::Relaxed);
    if disturbed > 0 {
        println!("\nothers used the machine when {disturbed} of the measurements began");
    }
    Ok(code)
}

async fn measure(measure: &Measure, effort: Effort) -> Result<Vec<Figure>> {
    match measure {
        Measure::Rate(servers, asked, shape) => calls::rates(servers, *asked, *shape, effort).await,
        Measure::Tail(servers, asked, rate) => calls::tails(servers, *asked, *rate, effort).await,
        Measure::Overload(server, factor) => calls::overload(server, *factor, effort).await,
        Measure::Batch(server, size) => calls::batches(server, *size, effort).await,
        Measure::Start(servers) => memory::starts(servers, effort).await,
        Measure::Order(server, orders) => memory::orders(server, *orders).await,
        Measure::Watch(server, watches) => memory::watches(server, *watches).await,
        Measure::Stored(server, orders) => memory::stored(server, *orders).await,
    }
}

/// A free port of loopback.
fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}
