//! The load: calls over HTTP/2 without a gRPC library, which would cost more than the server.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use h2::RecvStream;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, timeout};

use crate::Result;
use crate::client::{Connection, PATIENT, Question, Target, question, watch};

/// How many calls are in flight.
#[derive(Clone, Copy)]
pub struct Shape {
    pub connections: u64,
    /// Calls in flight on each connection.
    pub streams: u64,
}

/// How many watches a connection has: the server allows 256 calls on each.
const WATCHES: u64 = 250;

/// How many connections carry calls that are due at fixed times: enough for some thousand in flight.
const DUE_ON: u64 = 16;

/// Calls that are due at fixed times, whatever the server does.
#[derive(Clone, Copy)]
pub struct Schedule {
    /// Calls a second.
    pub rate: f64,
    pub time: Duration,
    pub deadline: Deadline,
}

/// How long a caller waits, as time and in the words of gRPC.
#[derive(Clone, Copy)]
pub struct Deadline(pub Duration, pub &'static str);

/// Asks for every order of the range once, so that the server knows it. Every answer must be OK.
pub async fn ask_once(target: &Target, orders: Range<u64>) -> Result<()> {
    let connections = target.connect(4).await?;
    let next = Arc::new(AtomicU64::new(orders.start));
    let mut workers = JoinSet::new();
    for connection in connections.iter().cycle().take(32) {
        let (connection, next, accounts) = (connection.clone(), Arc::clone(&next), target.accounts);
        workers.spawn(async move {
            loop {
                let order = next.fetch_add(1, Ordering::Relaxed);
                if order >= orders.end {
                    return Ok(());
                }
                connection.ask(&question(accounts, order), PATIENT).await?.ok()?;
            }
        });
    }
    all(workers).await.map(drop)
}

/// Asks without a pause for that time. Returns how long each of the calls took. Every answer must be OK.
pub async fn saturate(
    target: &Target,
    shape: Shape,
    time: Duration,
    question: impl Fn(u64) -> Question + Clone + Send + 'static,
) -> Result<Vec<Duration>> {
    let calls = Arc::new(AtomicU64::new(0));
    let connections = target.connect(shape.connections).await?;
    let end = Instant::now() + time;
    let mut workers = JoinSet::new();
    for connection in connections {
        for _ in 0..shape.streams {
            let (connection, calls, question) =
                (connection.clone(), Arc::clone(&calls), question.clone());
            workers.spawn(async move {
                let mut times = Vec::new();
                loop {
                    let begin = Instant::now();
                    if begin >= end {
                        return Ok(times);
                    }
                    let question = question(calls.fetch_add(1, Ordering::Relaxed));
                    connection.ask(&question, PATIENT).await?.ok()?;
                    times.push(begin.elapsed());
                }
            });
        }
    }
    Ok(all(workers).await?.concat())
}

/// What became of the calls of a schedule.
pub struct Kept {
    /// How long each took that was answered with OK in time, from the moment when it was due; sorted.
    pub times: Vec<Duration>,
    /// How many were due.
    pub due: usize,
    /// How late the load itself was, for all but a hundredth of the calls.
    pub late: Duration,
}

/// Asks at fixed times.
pub async fn keep(
    target: &Target,
    schedule: Schedule,
    question: impl Fn(u64) -> Question,
) -> Result<Kept> {
    let Schedule { rate, time, deadline: Deadline(limit, words) } = schedule;
    let connections = target.connect(DUE_ON).await?;
    let (begin, mut calls, mut late) = (Instant::now(), JoinSet::new(), Vec::new());
    let due_at = (0_u32..).map(|call| (call, Duration::from_secs_f64(f64::from(call) / rate)));
    for (call, due) in due_at.take_while(|(_, due)| *due < time) {
        let due = begin + due;
        // The timer counts whole milliseconds, so it would be late.
        while Instant::now() < due {
            yield_now().await;
        }
        late.push(due.elapsed());
        let connection = connections[usize::try_from(call)? % connections.len()].clone();
        let question = question(call.into());
        calls.spawn(async move {
            let answer = timeout(limit, connection.ask(&question, words)).await;
            let is_ok = answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.ok().is_ok()));
            is_ok.then(|| due.elapsed()).filter(|took| *took <= limit)
        });
        // A load that is late would otherwise begin everything before it reads an answer.
        if call % 16 == 0 {
            yield_now().await;
        }
    }
    let due = calls.len();
    let mut times: Vec<_> = calls.join_all().await.into_iter().flatten().collect();
    times.sort_unstable();
    late.sort_unstable();
    Ok(Kept { times, due, late: share(&late, 0.99) })
}

/// The time that this share of the times does not exceed. They are sorted.
pub fn share(times: &[Duration], share: f64) -> Duration {
    let place = (times.len() as f64 * share) as usize;
    times.get(place).copied().unwrap_or_default()
}

/// Opens so many watches, each of its own order, and waits for the first message of each. They stay
/// open as long as what is returned.
pub async fn watch_all(target: &Target, watches: u64) -> Result<Vec<RecvStream>> {
    let connections = target.connect(watches.div_ceil(WATCHES)).await?;
    let mut workers = JoinSet::new();
    for (connection, first) in connections.into_iter().zip((0..).step_by(WATCHES as usize)) {
        workers.spawn(watch_some(connection, first, watches.min(first + WATCHES), target.accounts));
    }
    Ok(all(workers).await?.into_iter().flatten().collect())
}

async fn watch_some(
    connection: Connection,
    first: u64,
    end: u64,
    accounts: u64,
) -> Result<Vec<RecvStream>> {
    let mut watches = Vec::new();
    for order in first..end {
        watches.push(connection.follow(&watch(accounts, order)).await?);
    }
    Ok(watches)
}

/// What all tasks return, or the first failure.
async fn all<T: 'static>(mut tasks: JoinSet<Result<T>>) -> Result<Vec<T>> {
    let mut returned = Vec::new();
    while let Some(task) = tasks.join_next().await {
        returned.push(task??);
    }
    Ok(returned)
}
