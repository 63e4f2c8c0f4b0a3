//! The callers.

use std::sync::Arc;
use std::time::Duration;

use order_query::accounts::Caller;
use order_query::error::Error;
use order_query::orders::{Orders, Wanted};
use order_query::pb::{ErrorReason, OrderRef};
use tokio::time::timeout_at;

use super::dice::Dice;
use super::setup::Faults;
use super::stage::{MILLI, SECOND, Time};
use super::world::{PROVIDER, World};

/// How much later than its deadline an answer may come.
const SLACK: Time = 100 * MILLI;

/// How soon the service is back after a loss, while every replica lives.
const BACK: Time = 30 * SECOND;

/// How long the first replicas take to know each other.
const BEGINNING: Time = 5 * SECOND;

struct Question {
    number: u64,
    replica: usize,
    orders: Orders,
    order: String,
    max_age: Option<Duration>,
    deadline: Time,
}

impl World {
    /// Plans the questions.
    pub fn plan_load(self: &Arc<Self>) {
        let mut dice = Dice::new(self.seed, b"load");
        let (from, till) = self.setup.pressed;
        let (mut at, mut number) = (0, 0);
        while at < till {
            let world = Arc::clone(self);
            self.stage.at(at, dice.number(), move |at| world.ask(number, at));
            number += 1;
            let pause = if at >= from {
                400 * MILLI
            } else if at < self.setup.calm_from {
                self.setup.pause
            } else {
                4 * SECOND
            };
            at += dice.within(MILLI, pause);
        }
    }

    fn ask(self: &Arc<Self>, number: u64, at: Time) {
        let mut dice = Dice::new(self.seed, format!("question {number}").as_bytes());
        let alive = self.alive();
        let replica = alive[dice.index(alive.len())];
        let order = if dice.in_thousand(400) {
            format!("new-{number}")
        } else {
            format!("old-{}", dice.within(0, self.setup.orders))
        };
        let question = Question {
            number,
            replica,
            orders: self.replicas.lock().unwrap()[replica].orders.clone(),
            order,
            max_age: dice.in_thousand(600).then_some(Duration::ZERO),
            deadline: at + dice.within(500 * MILLI, 15 * SECOND),
        };
        tokio::spawn(question.ask(Arc::clone(self), at));
    }
}

impl Question {
    async fn ask(self, world: Arc<World>, at: Time) {
        let Self { number, replica, orders, order, max_age, deadline } = self;
        let order = OrderRef { provider: PROVIDER.into(), id: order, ..OrderRef::default() };
        let caller = Caller::default();
        let wanted = Wanted { max_age, ..Wanted::default() };
        let answer = orders.get(&caller, &order, wanted, world.stage.instant(deadline));
        let latest = world.stage.instant(deadline + SLACK);
        let answer = timeout_at(latest, answer).await;
        let now = world.stage.now();
        if world.is_dead(replica) {
            return;
        }
        let said = match &answer {
            Err(_) => {
                let what = format!("question {number} is not answered by its deadline");
                return world.stage.violated(now, what);
            }
            Ok(Ok(answer)) => format!("{:?}", answer.response.source()),
            Ok(Err(error)) => format!("{:?} {:?}", error.reason, error.detail),
        };
        let id = &order.id;
        let what = format!("question {number} for {id} at replica {replica}: {said}");
        world.stage.tell(now, what);
        if let Ok(Err(Error { reason: ErrorReason::StoreUnavailable, .. })) = answer {
            let well = match world.setup.faults {
                Faults::None => BEGINNING,
                Faults::Losses => world.setup.calm_from + BACK,
                Faults::Crashes | Faults::All => Time::MAX,
            };
            if at >= well {
                world
                    .stage
                    .violated(now, format!("question {number}: {said}, and nothing is wrong"));
            }
        }
    }
}
