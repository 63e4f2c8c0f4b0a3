//! The way from a replica to its server and back: messages take time, are lost, or come twice.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use order_query::store::{Server, Silence};
use redis::{Cmd, Value};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::dice::Dice;
use super::model::Run;
use super::stage::{MILLI, SECOND, Time};
use super::world::World;

/// How long callers fail at once after a failure, as those of a connection do.
const CLOSED_FOR: Duration = Duration::from_millis(500);

/// What a replica hears.
enum Heard {
    Answer(Value),
    /// The connection has broken; the command may have run.
    Broken,
}

/// A replica's connection.
pub struct Line {
    pub world: Arc<World>,
    pub replica: usize,
    closed_until: Mutex<Option<Instant>>,
    /// When the last message arrives: those of one connection keep their order.
    last: Arc<Mutex<Time>>,
}

impl Line {
    pub fn new(world: &Arc<World>, replica: usize) -> Self {
        let world = Arc::clone(world);
        Self { world, replica, closed_until: Mutex::default(), last: Arc::default() }
    }

    /// Sends a command, and returns where its answer comes.
    fn post(&self, run: Arc<Run>, attempt: u64) -> oneshot::Receiver<Heard> {
        let (answer, heard) = oneshot::channel();
        let (world, replica, last) =
            (Arc::clone(&self.world), self.replica, Arc::clone(&self.last));
        let sent = world.stage.now();
        let mut dice = message(&world, &run, replica, sent, attempt);
        let tie = dice.number();
        // A moment later: which of the tasks that wake at one time runs first is tokio's own chance.
        world.clone().stage.at(sent + 1, tie, move |sent| {
            let site = {
                let sites = world.sites.lock().unwrap();
                sites.of(sites.shard_of(&run.keys[0]), replica, sent)
            };
            let arrives = if dice.in_thousand(2) && !world.is_calm(sent) {
                // So late that nobody waits for it: its connection has been replaced.
                sent + dice.within(250 * MILLI, 5 * SECOND)
            } else {
                let mut last = last.lock().unwrap();
                *last = (sent + latency(&mut dice)).max(*last + 1);
                *last
            };
            let message = Message { world, replica, site, run, answer, dice };
            message.world.clone().stage.at(arrives, tie, move |at| message.arrives(at));
        });
        heard
    }
}

/// A command on its way.
struct Message {
    world: Arc<World>,
    replica: usize,
    site: usize,
    run: Arc<Run>,
    answer: oneshot::Sender<Heard>,
    dice: Dice,
}

impl Message {
    /// It reaches the server, unless it is lost.
    fn arrives(self, at: Time) {
        let Self { world, replica, site, run, answer, mut dice } = self;
        if world.loses(replica, at, &mut dice) {
            return;
        }
        if world.sites.lock().unwrap().all[site].is_down {
            let _ = answer.send(Heard::Broken);
            return;
        }
        let value = world.run(site, replica, &run, at);
        let (back, ran) = (at + latency(&mut dice), at);
        let breaks = dice.in_thousand(2) && !world.is_calm(at);
        world.clone().stage.at(back, dice.number(), move |at| {
            if breaks {
                let _ = answer.send(Heard::Broken);
            } else if !world.loses(replica, at, &mut dice) {
                world.heard(replica, &run, &value, ran);
                let _ = answer.send(Heard::Answer(value));
            }
        });
    }
}

#[async_trait]
impl Server for Line {
    fn is_cluster(&self) -> bool {
        self.world.setup.shards > 1
    }

    async fn send(&self, command: &Cmd, deadline: Instant) -> Result<Value, Silence> {
        let run = Arc::new(Run::read(command));
        let mut was_sent = false;
        for attempt in 0..2 {
            if self.world.is_dead(self.replica) {
                return pending().await;
            }
            let closed = *self.closed_until.lock().unwrap();
            if closed.is_some_and(|until| Instant::now() < until) {
                return Err(Silence { was_sent });
            }
            was_sent = true;
            let heard = timeout_at(deadline, self.post(Arc::clone(&run), attempt)).await;
            if self.world.is_dead(self.replica) {
                return pending().await;
            }
            match heard {
                Ok(Ok(Heard::Answer(value))) => return Ok(value),
                Ok(Ok(Heard::Broken)) if attempt == 0 && Instant::now() < deadline => {}
                Ok(Ok(Heard::Broken)) | Err(_) => break,
                Ok(Err(_lost)) => {
                    sleep_until(deadline).await;
                    break;
                }
            }
        }
        if !self.is_cluster() {
            *self.closed_until.lock().unwrap() = Some(Instant::now() + CLOSED_FOR);
        }
        Err(Silence { was_sent })
    }
}

/// The chance of one message.
fn message(world: &World, run: &Run, replica: usize, sent: Time, attempt: u64) -> Dice {
    let mut purpose = format!("{replica} {sent} {attempt} {}", run.hash).into_bytes();
    for word in run.keys.iter().chain(&run.arguments) {
        purpose.extend(word);
    }
    Dice::new(world.seed, &purpose)
}

fn latency(dice: &mut Dice) -> Time {
    if dice.in_thousand(10) { dice.within(5 * MILLI, 100 * MILLI) } else { dice.within(100, 4000) }
}
