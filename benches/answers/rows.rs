//! The rows of the table: which servers are compared, under which load, and what the goal is.

use std::time::Duration;

use crate::load::Shape;
use crate::servers::Setup;

use self::Questions::{Known, New, One};

/// How many orders the cached rows ask for.
pub const ORDERS: u64 = 10_000;

/// A row.
pub struct Row {
    pub name: &'static str,
    pub measure: Measure,
    /// One for each figure.
    pub goals: &'static [Goal],
}

/// What a row measures. Of two servers, ours is the second one.
pub enum Measure {
    /// Calls without a pause: the rate, and the server's CPU time a call.
    Rate([Setup; 2], Questions, Shape),
    /// Calls at a fixed rate: the 99th percentile of the times from when they were due.
    Tail([Setup; 2], Questions, f64),
    /// The time until a server is ready, and its memory then.
    Start([Setup; 2]),
    /// A batch of so many cached orders, against as many single calls.
    Batch(Setup, u64),
    /// The memory of each of so many cached orders, against its size.
    Order(Setup, u64),
    /// The memory of each of so many watches, each of its own cached order.
    Watch(Setup, u64),
    /// So many times the calls that the server can answer, against as many as it can.
    Overload(Setup, f64),
    /// So many orders in a store that outlives the process.
    Stored(Setup, u64),
}

/// Which orders are asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Questions {
    One,
    Known,
    New,
}

impl Questions {
    /// The number of the order that the `call`th call asks for.
    pub fn order(self, call: u64) -> u64 {
        match self {
            Self::One => 0,
            Self::Known => call % ORDERS,
            Self::New => ORDERS + call,
        }
    }
}

/// What a figure should be.
pub struct Goal {
    /// The figure's name, where a row has several.
    pub figure: &'static str,
    pub bound: Bound,
    pub unit: &'static str,
}

pub enum Bound {
    None,
    AtLeast(f64),
    AtMost(f64),
    /// Of the CPU times: where the load is the limit, the rates say nothing.
    CpuAtLeast(f64),
}

const fn at_least(bound: f64) -> Goal {
    Goal { figure: "", bound: Bound::AtLeast(bound), unit: "" }
}

const fn cpu_at_least(bound: f64) -> Goal {
    Goal { figure: "", bound: Bound::CpuAtLeast(bound), unit: "" }
}

const fn at_most(bound: f64) -> Goal {
    Goal { figure: "", bound: Bound::AtMost(bound), unit: "" }
}

impl Goal {
    const fn of(self, figure: &'static str) -> Self {
        Self { figure, ..self }
    }

    const fn unit(self, unit: &'static str) -> Self {
        Self { unit, ..self }
    }
}

const NO_GOAL: Goal = Goal { figure: "", bound: Bound::None, unit: "" };

const OURS: Setup = Setup {
    is_bare: false,
    settings: "",
    vendor: Duration::ZERO,
    accounts: 0,
    clients: 0,
    tls: false,
    watches: 0,
};
const BARE: Setup = Setup { is_bare: true, ..OURS };
const LOGGED: Setup = with("telemetry.log_calls = \"all\"\n");
const TRACED: Setup = with("telemetry.otlp_endpoint = \"http://COLLECTOR\"\n");
const IN_FILE: Setup = with("store.url = \"file:FOLDER/orders.redb\"\n");
const IN_REDIS: Setup = with("store.url = \"redis://REDIS/0\"\n");
const IN_CLUSTER: Setup = with("store.url = \"redis-cluster://NODES\"\n");
const ENCRYPTED: Setup = Setup { tls: true, clients: 10, ..OURS };
const WATCHABLE: Setup = with("server.max_watches = 10000\n");
const WATCHED: Setup = Setup { watches: 10_000, ..WATCHABLE };
const ROOMY: Setup = with("store.cache_bytes = 1073741824\n");
const LARGE: Setup = with(
    "store.url = \"file:FOLDER/orders.redb\"\nserver.drain_delay = \"0s\"\n\
     server.max_connection_age = \"24h\"\n",
);
/// As many calls under way as the closed loop has, so that both wait for as many.
const BOUNDED: Setup = with("server.max_in_flight = 64\n");

const fn with(settings: &'static str) -> Setup {
    Setup { settings, ..OURS }
}

const fn slow(setup: Setup) -> Setup {
    Setup { vendor: Duration::from_millis(20), ..setup }
}

const fn of(accounts: u64, clients: u64) -> Setup {
    Setup { accounts, clients, ..OURS }
}

const USUAL: Shape = Shape { connections: 4, streams: 16 };
const WIDE: Shape = Shape { connections: 64, streams: 1 };
const TEN: Shape = Shape { connections: 10, streams: 6 };

const fn rate(
    name: &'static str,
    servers: [Setup; 2],
    asked: Questions,
    shape: Shape,
    goals: &'static [Goal],
) -> Row {
    Row { name, measure: Measure::Rate(servers, asked, shape), goals }
}

const fn row(name: &'static str, measure: Measure, goals: &'static [Goal]) -> Row {
    Row { name, measure, goals }
}

/// Permits are short here, and the CPU is not.
const OVERLOADED_IN_FLIGHT: Measure = Measure::Overload(slow(BOUNDED), 3.0);
/// The vendor answers at once, so each call that is turned away takes CPU time from those that are not.
const OVERLOADED_CPU: Measure = Measure::Overload(BOUNDED, 3.0);
const OVERLOAD_GOALS: &[Goal] = &[at_least(0.9).of("answers in time"), at_most(2.0).of("p99")];

pub const ROWS: [Row; 24] = [
    rate("cached, one order", [BARE, OURS], One, USUAL, &[cpu_at_least(0.85)]),
    rate("cached, 10,000 orders", [BARE, OURS], Known, USUAL, &[cpu_at_least(0.85)]),
    rate("cached, 64 connections", [BARE, OURS], Known, WIDE, &[cpu_at_least(0.85)]),
    rate("from a vendor", [BARE, OURS], New, USUAL, &[cpu_at_least(0.5)]),
    // Of the bare server: 0.65.
    rate("every call logged", [OURS, LOGGED], Known, USUAL, &[at_least(0.76)]),
    rate("every call traced", [OURS, TRACED], Known, USUAL, &[at_least(0.5)]),
    rate("10 clients with tokens over TLS", [OURS, ENCRYPTED], Known, TEN, &[at_least(0.6)]),
    rate("1,000 accounts, against one", [of(1, 1), of(1000, 1)], Known, USUAL, &[at_least(0.95)]),
    rate("1,000 clients, against one", [of(1, 1), of(1, 1000)], Known, USUAL, &[at_least(0.95)]),
    rate("cached, 10,000 watches open", [OURS, WATCHED], Known, USUAL, &[at_least(0.9)]),
    rate("cached, store in a file", [OURS, IN_FILE], Known, USUAL, &[at_least(0.95)]),
    rate("cached, store in Redis", [OURS, IN_REDIS], Known, USUAL, &[at_least(0.95)]),
    rate("from a vendor, store in a file", [OURS, IN_FILE], New, USUAL, &[at_least(0.85)]),
    rate("from a vendor, store in Redis", [OURS, IN_REDIS], New, USUAL, &[at_least(0.6)]),
    // Of the CPU time with one server: 1.5 times.
    rate(
        "from a vendor, a Redis Cluster",
        [IN_REDIS, IN_CLUSTER],
        New,
        USUAL,
        &[cpu_at_least(0.67)],
    ),
    row(
        "1,000 cached calls a second, p99",
        Measure::Tail([BARE, OURS], Known, 1000.0),
        &[at_most(1.2)],
    ),
    row(
        "500 calls a second, from a vendor that needs 20 ms, p99",
        Measure::Tail([slow(BARE), slow(OURS)], New, 500.0),
        &[at_most(1.15)],
    ),
    row("three times the calls that max_in_flight allows", OVERLOADED_IN_FLIGHT, OVERLOAD_GOALS),
    row("three times the calls that a core can answer", OVERLOADED_CPU, OVERLOAD_GOALS),
    row("a batch of 100 cached orders", Measure::Batch(OURS, 100), &[at_most(0.2)]),
    row(
        "start",
        Measure::Start([BARE, OURS]),
        &[at_most(2.0).of("until SERVING"), at_most(1.5).of("idle memory")],
    ),
    row("memory of a cached order", Measure::Order(ROOMY, 100_000), &[at_most(2.0)]),
    row("memory of a watch", Measure::Watch(WATCHABLE, 10_000), &[at_most(8.0).unit(" KiB")]),
    row(
        "1,000,000 orders in a file",
        Measure::Stored(LARGE, 1_000_000),
        &[
            NO_GOAL.of("the most memory while they come").unit(" MiB"),
            at_most(3.0).of("until SERVING").unit(" s"),
            at_most(128.0).of("memory after the start").unit(" MiB"),
            NO_GOAL.of("until SERVING after kill -9").unit(" s"),
        ],
    ),
];
