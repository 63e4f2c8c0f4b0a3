//! What an answer costs, beside a bare server of the same gRPC library. `make bench` runs it and prints a
//! table; docs/performance.md explains the rows.
//!
//! Each server is a process on the first core; the load and the vendor share the second one. The servers
//! take turns in every round, so that a busy machine disturbs both.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "prints figures, and fails loudly"
)]
#![allow(clippy::disallowed_types, reason = "the bare server answers as tonic asks for")]
#![allow(missing_docs, unreachable_pub, reason = "a program")]

mod bare;
mod load;
mod servers;
mod vendor;

use std::env;
use std::net::SocketAddr;
use std::time::Duration;

use self::load::{Shape, paced, questions, saturate};
use self::servers::Server;

/// How many orders the cached rows ask for.
const ORDERS: u64 = 10_000;

/// Calls a second where latency is measured.
const PACE: u32 = 1000;

/// The rows that compare with the bare server: what is asked for, and how.
const ROWS: [(&str, Questions, Shape); 4] = [
    ("cached, one order", Questions::One, Shape { connections: 4, streams: 16 }),
    ("cached, 10,000 orders", Questions::Known, Shape { connections: 4, streams: 16 }),
    ("cached, 64 connections", Questions::Known, Shape { connections: 64, streams: 1 }),
    ("from a vendor", Questions::New, Shape { connections: 4, streams: 16 }),
];

/// Which orders are asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Questions {
    One,
    Known,
    New,
}

impl Questions {
    /// The number of the order that the `call`th call asks for.
    fn order(self, call: u64) -> u64 {
        match self {
            Self::One => 0,
            Self::Known => call % ORDERS,
            Self::New => ORDERS + call,
        }
    }
}

fn main() {
    let arguments: Vec<String> = env::args().collect();
    let second_core = servers::share_cores();
    if let [_, command, vendor] = arguments.as_slice()
        && command == "bare"
    {
        return bare::serve(vendor.parse().unwrap());
    }
    if second_core {
        println!("servers on core 0, load and vendor on core 1");
    } else {
        println!("servers, load and vendor share all cores");
    }
    tokio::runtime::Runtime::new().unwrap().block_on(measure());
}

fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().unwrap())
}

async fn measure() {
    let rounds = number("BENCH_ROUNDS", 5);
    let time = Duration::from_secs(number("BENCH_SECONDS", 3));
    let vendor = vendor::serve().await;
    let bare = Server::bare(vendor);
    let ours = Server::ours(vendor, "");
    let variants = [
        ("every call logged", Server::ours(vendor, "telemetry.log_calls = \"all\"\n")),
        ("store in a file", Server::ours(vendor, "store.url = \"file:FOLDER/orders.redb\"\n")),
    ];
    for server in [&ours].into_iter().chain(variants.iter().map(|(_, server)| server)) {
        load::ask_once(server.address, ORDERS).await;
    }
    println!(
        "{rounds} rounds of {time:?}; calls a second, and CPU µs of the server a call: median (lowest–highest)\n"
    );
    println!(
        "| row | bare | ours | ratio of the rates | ratio of the CPU |\n|---|---|---|---|---|"
    );
    let mut next = 0;
    for (name, asked, shape) in ROWS {
        let mut runs = Vec::new();
        for _ in 0..rounds {
            let mut pair = Vec::new();
            for server in [&bare, &ours] {
                pair.push(run(server, asked, shape, time, &mut next).await);
            }
            runs.push([pair[0], pair[1]]);
        }
        print(name, &runs);
    }
    for (name, server) in &variants {
        let (_, asked, shape) = ROWS[1];
        let mut runs = Vec::new();
        for _ in 0..rounds {
            let without = run(&ours, asked, shape, time, &mut next).await;
            runs.push([without, run(server, asked, shape, time, &mut next).await]);
        }
        print(&format!("10,000 orders, {name} (against without)"), &runs);
    }
    latencies(&[("bare", &bare), ("ours", &ours)], rounds, time).await;
    batches(&ours, time).await;
}

/// How long a call takes while the server has little to do.
async fn latencies(servers: &[(&str, &Server)], rounds: u64, time: Duration) {
    println!("\n{PACE} cached calls a second, from their intended start: median of the rounds");
    for (name, server) in servers {
        let mut times = Vec::new();
        for _ in 0..rounds {
            times.push(
                paced(server.address, PACE, time, |call| questions(Questions::Known.order(call)))
                    .await,
            );
        }
        let [mut halves, mut tails] =
            [0, 1].map(|place| times.iter().map(|of| of[place]).collect::<Vec<_>>());
        halves.sort_unstable();
        tails.sort_unstable();
        println!("{name}: p50 {:?}, p99 {:?}", halves[halves.len() / 2], tails[tails.len() / 2]);
    }
}

/// What one measurement found: calls a second, and the server's CPU time a call.
type Run = (f64, Duration);

async fn run(
    server: &Server,
    asked: Questions,
    shape: Shape,
    time: Duration,
    next: &mut u64,
) -> Run {
    let (before, first) = (server.cpu(), *next);
    let calls =
        saturate(server.address, shape, time, move |call| questions(asked.order(first + call)))
            .await;
    *next += calls;
    (
        calls as f64 / time.as_secs_f64(),
        server.cpu().saturating_sub(before) / u32::try_from(calls).unwrap(),
    )
}

fn print(name: &str, runs: &[[Run; 2]]) {
    let spread = |values: Vec<f64>, digits: usize| {
        let mut values = values;
        values.sort_by(f64::total_cmp);
        let (low, high) = (values[0], values[values.len() - 1]);
        format!("{:.digits$} ({low:.digits$}–{high:.digits$})", values[values.len() / 2])
    };
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let of = |side: usize| {
        let rates = runs.iter().map(|run| run[side].0).collect();
        let costs = runs.iter().map(|run| micros(run[side].1)).collect();
        format!("{}; {} µs", spread(rates, 0), spread(costs, 1))
    };
    let rates = runs.iter().map(|[one, other]| other.0 / one.0).collect();
    let costs = runs.iter().map(|[one, other]| micros(one.1) / micros(other.1)).collect();
    println!("| {name} | {} | {} | {} | {} |", of(0), of(1), spread(rates, 2), spread(costs, 2));
}

/// What a batch of 100 cached orders costs, in CPU time of 100 single calls.
async fn batches(server: &Server, time: Duration) {
    const SIZE: u64 = 100;
    // Each order of a batch needs a permit, of 512.
    let shape = Shape { connections: 4, streams: 1 };
    let mut costs = [Duration::ZERO; 2];
    for (place, size) in [1, SIZE].into_iter().enumerate() {
        let before = server.cpu();
        let calls = saturate(server.address, shape, time, move |call| {
            if size == 1 {
                questions(call % ORDERS)
            } else {
                load::batch(call * size % ORDERS, size)
            }
        });
        let calls = calls.await;
        costs[place] = server.cpu().saturating_sub(before) / u32::try_from(calls).unwrap();
    }
    let ratio = costs[1].as_secs_f64() / (costs[0].as_secs_f64() * SIZE as f64);
    println!(
        "\na batch of {SIZE} cached orders: {:?} of CPU, {ratio:.2} of {SIZE} single calls",
        costs[1]
    );
}

/// A free port of loopback.
fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}
