//! The rows that are about memory, and about starts.

use std::time::Duration;

use order_query::pb::{GetOrderResponse, Order};
use prost::Message as _;
use tokio::time::sleep;

use crate::client::{PATIENT, question};
use crate::load;
use crate::report::{Figure, MILLISECOND, NotMeasured, Spread};
use crate::rows::ORDERS;
use crate::servers::{Server, Setup};
use crate::{Effort, Result};

const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// How long a server is left alone before its memory is read.
const REST: Duration = Duration::from_secs(1);

/// What servers use when they start: the time until they are ready, and their memory.
pub async fn starts(setups: &[Setup; 2], effort: Effort) -> Result<Vec<Figure>> {
    let mut times = [Vec::new(), Vec::new()];
    let mut sizes = [Vec::new(), Vec::new()];
    for _ in 0..effort.rounds {
        for (place, setup) in setups.iter().enumerate() {
            let server = Server::start(setup).await?;
            times[place].push(server.started.div_duration_f64(MILLISECOND));
            sleep(REST).await;
            sizes[place].push(server.rss()? as f64 / MEBIBYTE);
        }
    }
    Ok(vec![compared(times, "ms"), compared(sizes, "MiB")])
}

fn compared([one, other]: [Vec<f64>; 2], unit: &str) -> Figure {
    let value = Spread::of(one.iter().zip(&other).map(|(one, other)| other / one));
    let [one, other] = [one, other].map(|values| format!("{} {unit}", Spread::of(values).show(1)));
    Figure { one, other, value, cpu: None }
}

/// The memory of each cached order, against its encoded size and its key.
pub async fn orders(setup: &Setup, orders: u64) -> Result<Vec<Figure>> {
    let server = Server::start(setup).await?;
    // What the first calls need is no order's.
    load::ask_once(&server.target, 0..1000).await?;
    sleep(REST).await;
    let before = server.rss()?;
    // Numbers of one length have keys of one length.
    let first = 1_000_000;
    load::ask_once(&server.target, first..first + orders).await?;
    sleep(REST).await;
    let each = (server.rss()? - before) as f64 / orders as f64;
    let connection = server.target.connect(1).await?.remove(0);
    let answer = connection.ask(&question(0, first), PATIENT).await?.ok()?;
    let order = GetOrderResponse::decode(answer)?.order.ok_or("an answer has no order")?;
    // A stored order does not depend on the account's name.
    let size = Order { account: String::new(), ..order.clone() }.encoded_len();
    let own = size + server.key_len() + order.id.len();
    let one = format!("{own} bytes: {size} and a key");
    let value = Spread::of([each / own as f64]);
    Ok(vec![Figure { one, other: format!("{each:.0} bytes"), value, cpu: None }])
}

/// The memory of each watch of a cached order.
pub async fn watches(setup: &Setup, watches: u64) -> Result<Vec<Figure>> {
    let mut server = Server::start(setup).await?;
    server.warm(watches).await?;
    sleep(REST).await;
    let before = server.rss()?;
    let open = load::watch_all(&server.target, watches).await?;
    sleep(REST).await;
    let each = (server.rss()? - before) as f64 / open.len() as f64 / 1024.0;
    let other = format!("{} watches of as many orders", open.len());
    Ok(vec![Figure { other, value: Spread::of([each]), ..Figure::default() }])
}

/// What a store of so many orders needs when the server starts, and while they come.
pub async fn stored(setup: &Setup, orders: u64) -> Result<Vec<Figure>> {
    if std::env::var_os("BENCH_LARGE").is_none() {
        let text = format!("BENCH_LARGE=1 asks for all {orders}, which takes minutes");
        return Err(NotMeasured(text).into());
    }
    let server = Server::start(setup).await?;
    let begin = tokio::time::Instant::now();
    load::ask_once(&server.target, 0..orders).await?;
    let came = format!("{orders} orders in {:.0?}", begin.elapsed());
    let peak = server.process.memory("VmHWM")? as f64 / MEBIBYTE;
    let started = server.restart("TERM").await?;
    let known = format!("{:.0} MiB on disk", started.on_disk("orders.redb")? as f64 / MEBIBYTE);
    let (time, start) = (started.started.as_secs_f64(), started.process.memory("VmHWM")?);
    sleep(REST).await;
    let size = started.rss()? as f64 / MEBIBYTE;
    let highest = format!("{:.0} MiB at most", start as f64 / MEBIBYTE);
    load::ask_once(&started.target, 0..ORDERS).await?;
    let killed = started.restart("KILL").await?.started.as_secs_f64();
    let figure = |other, value| Figure { other, value: Spread::of([value]), ..Figure::default() };
    Ok(vec![
        figure(came, peak),
        figure(known, time),
        figure(highest, size),
        figure(String::new(), killed),
    ])
}
