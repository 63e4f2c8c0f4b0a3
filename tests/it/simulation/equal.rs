//! Holds the model to a real server: the same commands get the same answers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use order_query::chance;
use order_query::clock::{Clock as _, ManualClock};
use order_query::config::Secret;
use order_query::pb::Order;
use order_query::providers::{Token, TokenStore as _};
use order_query::store::{Call, Lease, Limit, Outcome, Redis, Server, Silence, Store as _, Window};
use redis::{Cmd, Value};
use tokio::time::Instant;

use super::model::{Model, Run};
use crate::support::manual_clock;
use crate::support::redis_server::RedisServer;

/// A real server and the model.
struct Both {
    real: RedisServer,
    model: Mutex<Model>,
    compared: Mutex<usize>,
}

impl Both {
    fn start() -> Arc<Self> {
        let both = Self {
            real: RedisServer::start(),
            model: Mutex::default(),
            compared: Mutex::default(),
        };
        let info: String = both.real.say(&["INFO", "replication"]);
        let id = info.lines().find_map(|line| line.strip_prefix("master_replid:")).unwrap();
        id.trim().clone_into(&mut both.model.lock().unwrap().id);
        Arc::new(both)
    }

    fn flush(&self, scripts: bool) {
        let mut model = self.model.lock().unwrap();
        let _: Value = self.real.say(&["FLUSHALL"]);
        model.data = Arc::default();
        if scripts {
            let _: Value = self.real.say(&["SCRIPT", "FLUSH"]);
            model.scripts.clear();
        }
    }
}

#[async_trait]
impl Server for Both {
    async fn send(&self, command: &Cmd, _: Instant) -> Result<Value, Silence> {
        let mut model = self.model.lock().unwrap();
        let run = Run::read(command);
        let words: Vec<_> = command.args_iter().collect();
        let real = self.real.run(command);
        let modelled = model.run(&run);
        match (&real, &modelled) {
            (Value::ServerError(real), Value::ServerError(modelled)) => {
                assert_eq!(real.code(), modelled.code(), "{words:?}");
            }
            _ => assert_eq!(real, modelled, "{words:?}"),
        }
        *self.compared.lock().unwrap() += 1;
        Ok(real)
    }
}

/// Random numbers that follow from a seed.
fn below(limit: u64) -> u64 {
    chance::seeded().unwrap() % limit
}

fn some_call() -> Call {
    let window = |key: String, max_calls, period| {
        let limit = if period > 60 { Limit::PerOrderPerDay } else { Limit::PerMinute };
        Window { key: key.into(), limit, max_calls, period: Duration::from_secs(period) }
    };
    let order = below(3);
    let mut windows = Vec::new();
    if below(4) > 0 {
        windows.push(window("minute".to_owned(), 3, 60));
    }
    if below(3) > 0 {
        windows.push(window(format!("day {order}"), 4, 86_400));
    }
    let lease = (below(2) == 0).then(|| Lease {
        key: format!("lease {order}"),
        owner: format!("owner {}", below(3)),
        life: Duration::from_secs(5),
        order: format!("order {order}").into(),
        seen: (below(2) == 0).then(|| manual_clock().now().into()),
    });
    Call {
        id: format!("call {}", below(30)),
        account: format!("account {}", below(2)).into(),
        windows,
        in_flight: Duration::from_secs(20 + below(3)),
        lease,
    }
}

async fn step(store: &Redis, clock: &ManualClock) {
    let order = format!("order {}", below(3)).into();
    let state = Order {
        terminal: below(8) == 0,
        remark: below(100).to_string(),
        observe_time: Some((clock.now() - Duration::from_millis(below(3000))).into()),
        ..Order::default()
    };
    let name = format!("name {}", below(2));
    let token = Token {
        value: Secret::from(&*format!("value {}", below(2))),
        renew_at: clock.now() + Duration::from_secs(below(20)),
    };
    match below(14) {
        0..3 => drop(store.reserve(&some_call()).await),
        3 => drop(store.cancel(&some_call()).await),
        4 => drop(store.finish(&some_call(), Outcome::Found(&order, &state)).await),
        5 => drop(store.finish(&some_call(), Outcome::Answered).await),
        6 => {
            let wait = Duration::from_secs(below(30));
            drop(store.pause(&"account 0".into(), wait, below(2) == 0).await);
        }
        7 => drop(store.spent(&"minute".into()).await),
        8 => drop(store.get(&order, Some(&"day 1".into())).await),
        9 => drop(store.put(&order, &state).await),
        10 => drop(store.save(&name, &token).await),
        11 => drop((store.load(&name).await, store.remove_if(&name, &token).await)),
        12 => {
            drop(store.lease(&name, "owner 1", Duration::from_secs(3)).await);
            drop(store.release(&name, &format!("owner {}", below(2))).await);
        }
        _ => drop(store.ping().await),
    }
}

#[tokio::test]
async fn the_model_answers_as_a_real_server_does() {
    let both = Both::start();
    for seed in 0..20 {
        chance::seed(Some(seed));
        both.flush(true);
        let clock = manual_clock();
        let store = || {
            let time = || Arc::new(clock.clone());
            Redis::over(Arc::clone(&both) as _, 1 << 20, time()).timed_by(time())
        };
        let mut stores = [store(), store()];
        for _ in 0..100 {
            clock.advance(Duration::from_millis(below(4) * below(4000)));
            match below(60) {
                0 => both.flush(below(2) == 0),
                1 => stores[0] = store(),
                _ => {
                    // The fence opens with time, which moves on its own here.
                    let one = &stores[usize::try_from(below(2)).unwrap()];
                    let _ =
                        tokio::time::timeout(Duration::from_millis(300), step(one, &clock)).await;
                }
            }
        }
    }
    chance::seed(None);
    assert!(*both.compared.lock().unwrap() > 1000);
}
