//! The rows that are about calls: how many a second, at which cost, and how late.

use std::time::Duration;

use crate::client::{PATIENT, batch, question};
use crate::load::{Deadline, Schedule, Shape, keep, saturate, share};
use crate::report::{Figure, MICROSECOND, MILLISECOND, Spread};
use crate::rows::{ORDERS, Questions};
use crate::servers::{Server, Setup};
use crate::{Effort, Result};

/// The deadline where nothing is overloaded.
const LONG: Deadline = Deadline(Duration::from_secs(10), PATIENT);

/// The deadline where the server must choose what it answers: some twenty times what a call takes.
const SHORT: Deadline = Deadline(Duration::from_millis(250), "250m");

/// What one measurement found: calls a second, and the server's CPU time a call.
struct Run {
    rate: f64,
    cost: Duration,
}

/// Starts both servers, and lets them know the orders where known ones are asked for.
async fn start(setups: &[Setup; 2], asked: Questions) -> Result<[Server; 2]> {
    let [one, other] = setups;
    let mut servers = [Server::start(one).await?, Server::start(other).await?];
    if asked != Questions::New {
        for server in &mut servers {
            server.warm(ORDERS).await?;
        }
    }
    Ok(servers)
}

/// Measures each server once in every round.
async fn in_turn<T>(
    servers: &[Server; 2],
    effort: Effort,
    mut measure: impl AsyncFnMut(&Server) -> Result<T>,
) -> Result<[Vec<T>; 2]> {
    let mut runs = [Vec::new(), Vec::new()];
    for _ in 0..effort.rounds {
        for (server, runs) in servers.iter().zip(&mut runs) {
            effort.quiet().await?;
            runs.push(measure(server).await?);
        }
    }
    Ok(runs)
}

/// Measures the calls of both servers without a pause.
pub async fn rates(
    setups: &[Setup; 2],
    asked: Questions,
    shape: Shape,
    effort: Effort,
) -> Result<Vec<Figure>> {
    let servers = start(setups, asked).await?;
    let mut next = 0;
    let measure = async |server: &Server| run(server, asked, shape, effort.time, &mut next).await;
    let [one, other] = &in_turn(&servers, effort, measure).await?;
    let of = |runs: &[Run]| {
        let rates = Spread::of(runs.iter().map(|run| run.rate));
        let costs = Spread::times(runs.iter().map(|run| run.cost), MICROSECOND);
        format!("{}; {} µs", rates.show(0), costs.show(1))
    };
    let pairs = || one.iter().zip(other);
    Ok(vec![Figure {
        one: of(one) + &servers[0].lost()?,
        other: of(other) + &servers[1].lost()?,
        value: Spread::of(pairs().map(|(one, other)| other.rate / one.rate)),
        cpu: Some(Spread::of(pairs().map(|(one, other)| one.cost.div_duration_f64(other.cost)))),
    }])
}

async fn run(
    server: &Server,
    asked: Questions,
    shape: Shape,
    time: Duration,
    next: &mut u64,
) -> Result<Run> {
    let (before, first, accounts) = (server.process.cpu()?, *next, server.target.accounts);
    let asks = move |call| question(accounts, asked.order(first + call));
    let times = saturate(&server.target, shape, time, asks).await?;
    let calls = times.len() as u64;
    *next += calls;
    let cost = server.process.cpu()?.saturating_sub(before).div_f64(calls as f64);
    Ok(Run { rate: calls as f64 / time.as_secs_f64(), cost })
}

/// Measures how late answers are at a rate that leaves both servers little to do.
pub async fn tails(
    setups: &[Setup; 2],
    asked: Questions,
    rate: f64,
    effort: Effort,
) -> Result<Vec<Figure>> {
    let servers = start(setups, asked).await?;
    let schedule = Schedule { rate, time: effort.time, deadline: LONG };
    let mut first = 0;
    let measure = async |server: &Server| {
        let accounts = server.target.accounts;
        let asks = |call| question(accounts, asked.order(first + call));
        let kept = keep(&server.target, schedule, asks).await?;
        if kept.times.len() < kept.due {
            let failed = kept.due - kept.times.len();
            return Err(format!("{failed} of {} calls failed", kept.due).into());
        }
        first += kept.due as u64;
        Ok([share(&kept.times, 0.5), share(&kept.times, 0.99)])
    };
    let [one, other] = &in_turn(&servers, effort, measure).await?;
    let pairs = one.iter().zip(other);
    let value = Spread::of(pairs.map(|(one, other)| other[1].div_duration_f64(one[1])));
    let of = |runs: &[[Duration; 2]]| {
        let of = |place: usize| Spread::times(runs.iter().map(|run| run[place]), MILLISECOND);
        format!("p50 {} ms, p99 {} ms", of(0).show(2), of(1).show(2))
    };
    Ok(vec![Figure { one: of(one), other: of(other), value, cpu: None }])
}

/// Measures what a batch of cached orders costs, in CPU time of as many single calls.
pub async fn batches(setup: &Setup, size: u64, effort: Effort) -> Result<Vec<Figure>> {
    let mut server = Server::start(setup).await?;
    server.warm(ORDERS).await?;
    // Each order of a batch needs a permit, of 512.
    let shape = Shape { connections: 4, streams: 1 };
    let mut costs = [Vec::new(), Vec::new()];
    for _ in 0..effort.rounds {
        for (orders, costs) in [1, size].into_iter().zip(&mut costs) {
            effort.quiet().await?;
            let before = server.process.cpu()?;
            let asks = move |call| match orders {
                1 => question(0, call % ORDERS),
                _ => batch(call * orders % ORDERS, orders),
            };
            let calls = saturate(&server.target, shape, effort.time, asks).await?.len();
            costs.push(server.process.cpu()?.saturating_sub(before).div_f64(calls as f64));
        }
    }
    let [singles, batches] = costs;
    let pairs = singles.iter().zip(&batches);
    let ratios = pairs.map(|(single, batch)| batch.div_duration_f64(*single) / size as f64);
    let value = Spread::of(ratios);
    let [one, other] = [singles, batches].map(|of| Spread::times(of, MICROSECOND).show(1));
    let one = format!("{size} calls of {one} µs");
    Ok(vec![Figure { one, other: format!("{other} µs"), value, cpu: None }])
}

/// What a server answers in time, and how late the slowest of a hundred are.
struct Answered {
    rate: f64,
    p99: Duration,
}

/// Measures what is left of the answers when far more calls come than can be answered.
pub async fn overload(setup: &Setup, factor: f64, effort: Effort) -> Result<Vec<Figure>> {
    let server = Server::start(setup).await?;
    let shape = Shape { connections: 4, streams: 16 };
    let (mut runs, mut late, mut next) = ([Vec::new(), Vec::new()], Vec::new(), 0);
    for _ in 0..effort.rounds {
        effort.quiet().await?;
        let asks = move |call| question(0, Questions::New.order(next + call));
        let mut times = saturate(&server.target, shape, effort.time, asks).await?;
        times.sort_unstable();
        next += times.len() as u64;
        let rate = times.len() as f64 / effort.time.as_secs_f64();
        runs[0].push(Answered { rate, p99: share(&times, 0.99) });
        let schedule = Schedule { rate: factor * rate, time: effort.time, deadline: SHORT };
        let asks = |call| question(0, Questions::New.order(next + call));
        let kept = keep(&server.target, schedule, asks).await?;
        next += kept.due as u64;
        late.push(kept.late);
        let rate = kept.times.len() as f64 / effort.time.as_secs_f64();
        runs[1].push(Answered { rate, p99: share(&kept.times, 0.99) });
    }
    // A load that cannot keep up is late, and finds less than the server gives.
    let late = Spread::times(late, MILLISECOND).show(1);
    let [one, other] = &runs;
    let pairs = || one.iter().zip(other);
    let rate = |runs: &[Answered]| Spread::of(runs.iter().map(|run| run.rate)).show(0);
    let p99 =
        |runs: &[Answered]| Spread::times(runs.iter().map(|run| run.p99), MILLISECOND).show(1);
    Ok(vec![
        Figure {
            one: format!("{} a second", rate(one)),
            other: format!("{} a second; asked {late} ms late", rate(other)),
            value: Spread::of(pairs().map(|(one, other)| other.rate / one.rate)),
            cpu: None,
        },
        Figure {
            one: format!("{} ms", p99(one)),
            other: format!("{} ms", p99(other)),
            value: Spread::of(pairs().map(|(one, other)| other.p99.div_duration_f64(one.p99))),
            cpu: None,
        },
    ])
}
