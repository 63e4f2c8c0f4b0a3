//! One run: replicas, servers, a vendor, and what is seen of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use order_query::accounts::{Account, Accounts};
use order_query::clock::Clock;
use order_query::orders::Orders;
use order_query::pb::{Order, Provider};
use order_query::store::Redis;
use prost::Message as _;
use redis::Value;

use super::dice::Dice;
use super::model::Run;
use super::network::Line;
use super::setup::Setup;
use super::site::{Site, Sites};
use super::stage::{SECOND, Stage, Time, Watch};
use super::vendor::{Module, Vendor};

/// How long a replica that was parted may be taken for one that is gone.
const FORGETTING: Time = 20 * SECOND;

const CACHE_BYTES: usize = 1 << 20;

/// The provider of the account: any, since the vendor is the simulation's.
pub const PROVIDER: Provider = Provider::Haoka;

pub struct World {
    pub seed: u64,
    pub setup: Setup,
    pub stage: Arc<Stage>,
    pub sites: Mutex<Sites>,
    pub vendor: Mutex<Vendor>,
    pub replicas: Mutex<Vec<Replica>>,
    /// What each script is, by its hash.
    scripts: Mutex<BTreeMap<String, &'static str>>,
    seen: Mutex<Seen>,
}

/// A replica, from its start to its crash.
pub struct Replica {
    pub orders: Orders,
    pub is_alive: bool,
    /// Whether it has heard that it is a member.
    pub is_member: bool,
    /// The epoch and whether it was open, in its last beat.
    fence: Option<(Vec<u8>, bool)>,
}

#[derive(Default)]
struct Seen {
    /// Which replicas know the final state of an order that a server had then.
    finals: BTreeMap<String, Vec<(usize, Time)>>,
    /// When a server has reserved a call.
    reserved: BTreeMap<String, Time>,
}

impl World {
    pub fn new(seed: u64) -> Arc<Self> {
        let setup = Setup::new(seed);
        let site = |shard| {
            let drift = i64::try_from(shard).unwrap() * 700_000;
            let mut site = Site { ahead: setup.server_ahead + drift, ..Site::default() };
            site.model.id = new_server_id(seed, shard);
            site
        };
        let all = (0..setup.shards).map(site).collect();
        let sites = Sites { all, primaries: (0..setup.shards).collect(), ..Sites::default() };
        Arc::new(Self {
            seed,
            setup,
            stage: Stage::new(),
            sites: Mutex::new(sites),
            vendor: Mutex::default(),
            replicas: Mutex::default(),
            scripts: Mutex::default(),
            seen: Mutex::default(),
        })
    }

    /// Starts one more replica.
    pub fn start(self: &Arc<Self>, at: Time) {
        let index = self.replicas.lock().unwrap().len();
        let mut dice = Dice::new(self.seed, format!("replica {index}").as_bytes());
        let ahead = i64::try_from(dice.within(0, 4001)).unwrap() - 2000;
        let clock: Arc<dyn Clock> = Arc::new(Watch { stage: Arc::clone(&self.stage), ahead });
        let line = Arc::new(Line::new(self, index));
        let store = Arc::new(Redis::over(line, CACHE_BYTES, Arc::clone(&clock)));
        let module = Module { world: Arc::clone(self), replica: index, clock: Arc::clone(&clock) };
        let account = Account::new("simulated", PROVIDER, true, Box::new(module));
        let pinged = Arc::clone(&store);
        let orders = Orders::new(Accounts::new(vec![account]), store, clock);
        let replica = Replica { orders, is_alive: true, is_member: false, fence: None };
        self.replicas.lock().unwrap().push(replica);
        self.stage.tell(at, format!("replica {index} starts, {ahead} ms ahead"));
        tokio::spawn(async move {
            use order_query::store::Store as _;
            pinged.opened().await;
        });
    }

    /// Breaks the circles of what refers to it.
    pub fn end(&self) {
        self.replicas.lock().unwrap().clear();
        self.stage.clear();
    }

    /// The replicas that are alive.
    pub fn alive(&self) -> Vec<usize> {
        let replicas = self.replicas.lock().unwrap();
        let alive = replicas.iter().enumerate().filter(|(_, replica)| replica.is_alive);
        alive.map(|(index, _)| index).collect()
    }

    pub fn is_dead(&self, replica: usize) -> bool {
        !self.replicas.lock().unwrap()[replica].is_alive
    }

    /// Whether nothing goes wrong any more.
    pub fn is_calm(&self, at: Time) -> bool {
        at >= self.setup.calm_from
    }

    /// Whether a message of that replica is lost.
    pub fn loses(&self, replica: usize, at: Time, dice: &mut Dice) -> bool {
        let sites = self.sites.lock().unwrap();
        let (until, share) = sites.lossy;
        let is_lost = dice.in_thousand(share) && at < until;
        is_lost || sites.is_parted(replica, at) || self.is_dead(replica)
    }

    /// A server runs a script.
    pub fn run(&self, site: usize, replica: usize, run: &Run, at: Time) -> Value {
        let mut sites = self.sites.lock().unwrap();
        let is_primary = sites.primaries.contains(&site);
        let server = &mut sites.all[site];
        server.set_time(at);
        let value = server.model.run(run);
        server.note(at);
        let mut said = Vec::new();
        write_down(&value, &mut said);
        self.stage.count(Dice::new(at, &said).number());
        let what = self.name(run);
        let answer: Vec<_> = numbers(&value).collect();
        match what {
            "beat"
                if is_primary
                    && !wants_survey(&value)
                    && self.replicas.lock().unwrap()[replica].is_member =>
            {
                sites.is_unreached = false;
            }
            "reserve" => {
                let (mark, _) = mark(&run.arguments[3]);
                self.tell_run(site, replica, what, mark, &answer, at);
                if answer.first() == Some(&0) {
                    self.seen.lock().unwrap().reserved.insert(mark.to_owned(), at);
                }
            }
            "finish" => self.tell_run(site, replica, what, mark(&run.arguments[5]).0, &answer, at),
            "cancel" => self.tell_run(site, replica, what, mark(&run.arguments[3]).0, &answer, at),
            "restore" => self.tell_run(site, replica, what, &text(&run.keys[0]), &answer, at),
            _ => {}
        }
        value
    }

    fn tell_run(
        &self,
        site: usize,
        replica: usize,
        what: &str,
        of: &str,
        answer: &[i64],
        at: Time,
    ) {
        let what = format!("server {site}: {what} {of} by replica {replica}: {answer:?}");
        self.stage.tell(at, what);
    }

    /// What a script is.
    fn name(&self, run: &Run) -> &'static str {
        const NAMES: [(&str, &str); 7] = [
            ("Renews a replica's membership", "beat"),
            ("Reserves a call: its lease", "reserve"),
            ("Records that a call's answer", "finish"),
            ("Frees a call's slots", "cancel"),
            ("Restores a replica's own slots", "restore"),
            ("Reads an order's snapshot and", "get"),
            ("Ends a replica's membership", "leave"),
        ];
        let mut scripts = self.scripts.lock().unwrap();
        if let Some(code) = &run.code {
            let found = NAMES.into_iter().find(|(text, _)| code.contains(text));
            scripts.insert(run.hash.clone(), found.map_or("other", |(_, name)| name));
        }
        scripts.get(&run.hash).copied().unwrap_or("unknown")
    }

    /// A replica hears the answer to a script that ran then.
    pub fn heard(&self, replica: usize, run: &Run, value: &Value, ran: Time) {
        let is_final = match self.name(run) {
            "beat" => return self.heard_beat(replica, value),
            // A slow clock's answer does not replace a later one, final or not.
            "finish" => {
                run.arguments[9] == b"1"
                    && matches!(value, Value::Array(all) if matches!(all.get(1), Some(Value::Nil)))
            }
            "get" => matches!(value, Value::Array(all) if is_final(all)),
            _ => false,
        };
        let key = if self.name(run) == "get" { run.keys.first() } else { run.keys.get(2) };
        if is_final && let Some(order) = key.and_then(|key| order_of(key)) {
            let mut seen = self.seen.lock().unwrap();
            let knowing = seen.finals.entry(order.clone()).or_default();
            if knowing.iter().all(|(known, _)| *known != replica) {
                knowing.push((replica, ran));
                self.stage.tell(ran, format!("replica {replica} knows that {order} is final"));
            }
        }
    }

    fn heard_beat(&self, replica: usize, value: &Value) {
        let Value::Array(all) = value else { return };
        let [Value::BulkString(epoch), Value::Int(open), ..] = all.as_slice() else { return };
        if wants_survey(value) {
            return;
        }
        let known = &mut self.replicas.lock().unwrap()[replica];
        known.is_member = true;
        let fence = Some((epoch.clone(), *open == 1));
        if known.fence != fence {
            known.fence = fence;
            let what = format!("replica {replica} hears epoch {}: open {open}", text(epoch));
            self.stage.tell(self.stage.now(), what);
        }
    }

    /// A replica is about to call the vendor.
    pub fn calls(&self, replica: usize, order: &str, call: &str) {
        let now = self.stage.now();
        self.stage.tell(now, format!("replica {replica} calls for {order}: {call}"));
        let seen = self.seen.lock().unwrap();
        let Some(reserved) = seen.reserved.get(call) else {
            return self.stage.violated(now, format!("{call} was never reserved"));
        };
        let sites = self.sites.lock().unwrap();
        if now < sites.split_until + FORGETTING {
            return;
        }
        for (knowing, since) in seen.finals.get(order).into_iter().flatten() {
            let was_parted =
                sites.parted.get(knowing).is_some_and(|until| now < until + FORGETTING);
            if since < reserved && !self.is_dead(*knowing) && !was_parted {
                let what =
                    format!("{call} asks for {order}, which replica {knowing} knows is final");
                self.stage.violated(now, what);
            }
        }
    }
}

/// Whether the answer to a beat asks for a survey of a cluster, and tells nothing else.
fn wants_survey(answer: &Value) -> bool {
    let Value::Array(all) = answer else { return false };
    matches!(all.get(10), Some(Value::BulkString(task)) if task == b"survey")
}

/// Appends what a server has answered, for the hash of the run.
fn write_down(value: &Value, said: &mut Vec<u8>) {
    match value {
        Value::Int(number) => said.extend(number.to_le_bytes()),
        Value::BulkString(text) => said.extend(text),
        Value::Array(all) => all.iter().for_each(|one| write_down(one, said)),
        Value::Nil => said.push(0),
        other => said.extend(format!("{other:?}").into_bytes()),
    }
    said.push(b',');
}

/// The replication id of a new server.
pub fn new_server_id(seed: u64, number: usize) -> String {
    let mut dice = Dice::new(seed, format!("server {number}").as_bytes());
    format!("{:016x}{:016x}{:08x}", dice.number(), dice.number(), dice.number() >> 32)
}

fn is_final(answer: &[Value]) -> bool {
    let [Value::Int(1), Value::BulkString(state), ..] = answer else { return false };
    Order::decode(state.as_slice()).unwrap().terminal
}

/// The id of the order with that key in the store.
fn order_of(key: &[u8]) -> Option<String> {
    let name = text(key);
    let (_, order) = name.split_once("order:")?;
    let parts: Vec<String> = serde_json::from_str(order).ok()?;
    parts.get(2).cloned()
}

/// A call's id, and how long it may be in flight.
fn mark(word: &[u8]) -> (&str, &str) {
    std::str::from_utf8(word).unwrap().split_once('~').unwrap()
}

pub fn text(word: &[u8]) -> String {
    String::from_utf8_lossy(word).into_owned()
}

fn numbers(value: &Value) -> impl Iterator<Item = i64> {
    let all =
        if let Value::Array(all) = value { all.as_slice() } else { std::slice::from_ref(value) };
    all.iter().filter_map(|one| if let Value::Int(number) = one { Some(*number) } else { None })
}
