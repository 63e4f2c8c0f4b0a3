//! The vendor: requests reach it late, or never, and it counts them.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use order_query::clock::Clock;
use order_query::config::Secret;
use order_query::error::Error;
use order_query::outbound::Delivery;
use order_query::pb::Order;
use order_query::providers::{LiveCheck, Provider, Query, Resources, Rules, TokenStore};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::dice::Dice;
use super::stage::{MILLI, SECOND, Time};
use super::world::World;

/// What the vendor has seen.
#[derive(Default)]
pub struct Vendor {
    /// When requests arrived, and for which orders.
    pub arrivals: Vec<(Time, String)>,
    /// From when on orders are final.
    finals: BTreeMap<String, Time>,
}

/// A replica's module for the vendor.
pub struct Module {
    pub world: Arc<World>,
    pub replica: usize,
    pub clock: Arc<dyn Clock>,
}

/// How a request fares.
enum Way {
    /// It never leaves.
    Refused,
    /// It arrives after so long, and its answer so long after that, unless it is lost.
    Arrives(Time, Option<Time>),
    Lost,
}

impl Module {
    fn way(&self, call: &str, now: Time) -> Way {
        let mut dice = Dice::new(self.world.seed, call.as_bytes());
        let longest = self.world.setup.longest_call;
        if self.world.is_calm(now) {
            let arrives = dice.within(5 * MILLI, 400 * MILLI);
            return Way::Arrives(arrives, Some(dice.within(5 * MILLI, 400 * MILLI)));
        }
        let arrives = match dice.within(0, 100) {
            0 => return Way::Refused,
            1 => return Way::Lost,
            // Later than anyone waits for it: see `accounts::quota`.
            2..6 => dice.within(SECOND, longest + 9 * SECOND),
            6..20 => dice.within(5 * MILLI, 2 * SECOND),
            _ => dice.within(5 * MILLI, 300 * MILLI),
        };
        let answers = dice.within(5 * MILLI, 500 * MILLI);
        Way::Arrives(arrives, Some(answers).filter(|_| !dice.in_thousand(20)))
    }
}

impl World {
    /// A request arrives. Returns whether the order is final.
    fn arrives(&self, order: &str, call: &str, at: Time) -> bool {
        let mut vendor = self.vendor.lock().unwrap();
        vendor.arrivals.push((at, order.to_owned()));
        let mut dice = Dice::new(self.seed, order.as_bytes());
        let life = if dice.in_thousand(500) { dice.within(0, 60 * SECOND) } else { Time::MAX / 2 };
        let is_final = at >= *vendor.finals.entry(order.to_owned()).or_insert(at + life);
        self.stage.tell(at, format!("the vendor receives {call} for {order}; final: {is_final}"));
        is_final
    }
}

#[async_trait]
impl Provider for Module {
    fn identity(&self) -> String {
        "simulated".to_owned()
    }
    fn secrets(&self) -> Vec<Secret> {
        Vec::new()
    }
    fn check_id(&self, _: &str) -> Result<(), Error> {
        Ok(())
    }
    fn rules(&self) -> Rules {
        self.world.setup.rules()
    }
    async fn live_check(&self, _: Option<&dyn TokenStore>) -> Result<LiveCheck, Error> {
        unreachable!("nobody asks for proof")
    }
    async fn get_order(&self, query: &Query, resources: Resources<'_>) -> Result<Order, Error> {
        let call = resources.gate.enter().await?;
        let world = &self.world;
        if world.is_dead(self.replica) {
            return pending().await;
        }
        world.calls(self.replica, &query.id, &call);
        let (now, observed) = (world.stage.now(), self.clock.now());
        let (tell, told) = oneshot::channel();
        match self.way(&call, now) {
            Way::Refused => {
                resources.gate.leave(call, Delivery::NotSent).await;
                return Err(Error::failed("the vendor cannot be reached"));
            }
            Way::Lost => {}
            Way::Arrives(after, answer) => {
                let (order, of) = (query.id.clone(), call.clone());
                let (here, tie) = (Arc::clone(world), Dice::new(1, call.as_bytes()).number());
                world.stage.at(now + after, tie, move |at| {
                    let is_final = here.arrives(&order, &of, at);
                    if let Some(answer) = answer {
                        here.stage.at(at + answer, tie, move |_| {
                            let _ = tell.send(is_final);
                        });
                    }
                });
            }
        }
        let waits = async {
            match told.await {
                Ok(is_final) => is_final,
                Err(_lost) => pending().await,
            }
        };
        let outcome = timeout(Duration::from_micros(world.setup.longest_call), waits).await;
        if world.is_dead(self.replica) {
            return pending().await;
        }
        let delivery = if outcome.is_ok() { Delivery::Answered } else { Delivery::Unknown };
        resources.gate.leave(call, delivery).await;
        let terminal = outcome.map_err(|_| Error::failed("the vendor does not answer"))?;
        let (id, observe_time) = (query.id.clone(), Some(observed.into()));
        Ok(Order { id, terminal, observe_time, ..Order::default() })
    }
}
