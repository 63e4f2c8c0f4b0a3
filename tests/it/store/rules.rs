//! A vendor never gets more calls than its limit, whatever happens: properties of the memory store,
//! whose rules the others share or repeat.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use order_query::clock::{Clock as _, ManualClock};
use order_query::store::{Call, Limit, Memory, Outcome, Reservation, Store as _, Window};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::{CACHE_BYTES, manual_clock};

const PERIOD: Duration = Duration::from_mins(1);
const LONG_PERIOD: Duration = Duration::from_secs(200);
const IN_FLIGHT: Duration = Duration::from_secs(10);

/// What happens next.
#[derive(Debug, Clone)]
enum Event {
    /// Time passes.
    Wait(Duration),
    /// A call is made. The vendor counts it after this per mille of its time in flight.
    Call(u32),
    /// An answer arrives for the oldest call in flight, and is recorded.
    Answer,
    /// An answer arrives for the newest one.
    LateAnswer,
    /// The oldest call in flight is forgotten: a crash, a lost write.
    Lose,
    /// A slot is reserved, and canceled: nothing was sent.
    Change,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..15_000u64).prop_map(|ms| Event::Wait(Duration::from_millis(ms))),
        1 => Just(Event::Wait(IN_FLIGHT)),
        1 => Just(Event::Wait(PERIOD)),
        8 => (0..=1000u32).prop_map(Event::Call),
        3 => Just(Event::Answer),
        2 => Just(Event::LateAnswer),
        1 => Just(Event::Lose),
        1 => Just(Event::Change),
    ]
}

/// A call in flight.
struct Flight {
    call: Call,
    sent: SystemTime,
    part: u32,
}

/// One account, its store and its vendor.
struct Scene {
    clock: ManualClock,
    store: Memory,
    windows: Vec<Window>,
    calls: usize,
    under_way: VecDeque<Flight>,
    /// When the vendor counted each call.
    counted: Vec<SystemTime>,
}

impl Scene {
    fn new(limits: &[(u32, Duration)]) -> Self {
        let clock = manual_clock();
        let windows = limits.iter().enumerate();
        let windows = windows
            .map(|(n, (limit, period))| Window {
                key: n.to_string().into(),
                limit: Limit::PerMinute,
                max_calls: *limit,
                period: *period,
            })
            .collect();
        Self {
            store: Memory::new(CACHE_BYTES, std::sync::Arc::new(clock.clone())),
            clock,
            windows,
            calls: 0,
            under_way: VecDeque::new(),
            counted: Vec::new(),
        }
    }

    fn next_call(&mut self) -> Call {
        self.calls += 1;
        Call {
            id: self.calls.to_string(),
            account: "a".into(),
            windows: self.windows.clone(),
            in_flight: IN_FLIGHT,
            lease: None,
        }
    }

    fn take(&self, call: &Call) -> Reservation {
        self.store.reserve(call).now_or_never().expect("memory does not wait").unwrap()
    }

    /// The vendor counts a call somewhere between its start and `end`.
    fn count(&mut self, flight: &Flight, end: SystemTime) {
        let end = end.min(flight.sent + IN_FLIGHT);
        let flown = end.duration_since(flight.sent).unwrap();
        self.counted.push(flight.sent + flown * flight.part / 1000);
    }

    fn answer(&mut self, flight: Option<Flight>) {
        if let Some(flight) = flight {
            self.count(&flight, self.clock.now());
            self.store.finish(&flight.call, Outcome::Counted).now_or_never().unwrap().unwrap();
        }
    }

    fn lose(&mut self, flight: Option<Flight>) {
        if let Some(flight) = flight {
            self.count(&flight, flight.sent + IN_FLIGHT);
        }
    }

    /// A call that has timed out cannot be answered any more.
    fn give_up(&mut self) {
        let now = self.clock.now();
        while self.under_way.front().is_some_and(|flight| flight.sent + IN_FLIGHT < now) {
            let flight = self.under_way.pop_front();
            self.lose(flight);
        }
    }

    fn play(&mut self, event: &Event) {
        match *event {
            Event::Wait(time) => {
                self.clock.advance(time);
                self.give_up();
            }
            Event::Call(part) => {
                let call = self.next_call();
                if self.take(&call) == Reservation::Reserved {
                    let sent = self.clock.now();
                    self.under_way.push_back(Flight { call, sent, part });
                }
            }
            Event::Answer => {
                let flight = self.under_way.pop_front();
                self.answer(flight);
            }
            Event::LateAnswer => {
                let flight = self.under_way.pop_back();
                self.answer(flight);
            }
            Event::Lose => {
                let flight = self.under_way.pop_front();
                self.lose(flight);
            }
            Event::Change => {
                let call = self.next_call();
                self.take(&call);
                self.store.cancel(&call).now_or_never().unwrap().unwrap();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_vendor_never_counts_more_than_its_limits(
        (limit, long_limit) in (1..6u32, 1..12u32),
        events in vec(event(), 0..200),
    ) {
        let mut scene = Scene::new(&[(limit, PERIOD), (long_limit, LONG_PERIOD)]);
        for event in &events {
            scene.play(event);
        }
        while let Some(flight) = scene.under_way.pop_front() {
            scene.lose(Some(flight));
        }
        scene.counted.sort_unstable();
        for window in &scene.windows {
            let limit = window.max_calls as usize;
            for (first, one_too_many) in scene.counted.iter().zip(scene.counted.iter().skip(limit)) {
                let between = one_too_many.duration_since(*first).unwrap();
                prop_assert!(between >= window.period, "{limit} + 1 calls within {between:?}");
            }
        }
    }

    #[test]
    fn a_refused_call_is_admitted_after_the_stated_wait(
        limit in 1..6u32,
        events in vec(event(), 0..100),
    ) {
        let mut scene = Scene::new(&[(limit, PERIOD)]);
        for event in &events {
            scene.play(event);
            let call = scene.next_call();
            let take = scene.take(&call);
            let Reservation::Full(Limit::PerMinute, wait) = take else {
                prop_assert_eq!(take, Reservation::Reserved);
                scene.store.cancel(&call).now_or_never().unwrap().unwrap();
                continue;
            };
            prop_assert!(wait > Duration::ZERO && wait <= IN_FLIGHT + PERIOD, "{wait:?}");
        }
        let call = scene.next_call();
        if let Reservation::Full(_, wait) = scene.take(&call) {
            scene.clock.advance(wait - Duration::from_nanos(1));
            prop_assert_eq!(scene.take(&call), Reservation::Full(Limit::PerMinute, Duration::from_nanos(1)));
            scene.clock.advance(Duration::from_nanos(1));
            prop_assert_eq!(scene.take(&call), Reservation::Reserved);
        }
    }
}
