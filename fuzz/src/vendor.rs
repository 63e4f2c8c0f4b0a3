//! A vendor's module, made once from the vendor's fixtures, and asked over and over.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use std::{env, fs};

use async_trait::async_trait;
use order_query::clock::{Clock, ManualClock};
use order_query::config::Section;
use order_query::error::Error;
use order_query::outbound::Delivery;
use order_query::outbound::fuzzing::{self, Reply};
use order_query::pb::{self, Order};
use order_query::providers::{self, Gate, Provider, Query, Resources};
use order_query::store::Memory;
use order_query::telemetry::metrics::Metrics;
use toml::{Table, Value};

/// Every answer is tried with each of these: a good one, one that blames the request, one that asks
/// for patience, and one that blames the vendor.
const STATUSES: [u16; 4] = [200, 404, 429, 503];

/// Longer than any wait or token lasts, so that each question finds the module as if new.
const BETWEEN_QUESTIONS: Duration = Duration::from_hours(25);

/// After so many questions the time begins again, with another module: it must stay within the
/// years that the contract can tell.
const QUESTIONS: u32 = 100_000;

/// A vendor's module, with one account.
pub struct Vendor {
    /// The order of the fixtures.
    pub query: Query,
    /// The module's clock.
    pub clock: ManualClock,
    /// Where the order's status stands in an answer, and the words for it that the vendor promises
    /// to be the last.
    pub(crate) status_at: String,
    pub(crate) terminal: Vec<String>,
    /// The account's secrets.
    secrets: Vec<String>,
    /// The vendor's module.
    pub module: Box<dyn Provider>,
    /// The path and the usual answer of each call: the one for the order is the last, for its path
    /// is whatever is left.
    calls: Vec<(String, Vec<u8>)>,
    tokens: Memory,
    questions: u32,
}

/// One question, and how it ended.
pub(crate) struct Asked<'a> {
    /// What the input stood for.
    pub(crate) answer: &'a [u8],
    pub(crate) status: u16,
    /// Whether it answered the call for the order, or another one.
    pub(crate) is_order_call: bool,
    /// What no text for a caller may hold.
    pub(crate) secrets: Vec<String>,
    pub(crate) outcome: Result<Order, Error>,
}

/// Names the vendor, in its word: one process tries one vendor.
const VENDOR: &str = "FUZZ_VENDOR";

/// The vendor that the environment names.
fn chosen() -> pb::Provider {
    let word = env::var(VENDOR).unwrap_or_default();
    let words: Vec<_> = pb::Provider::all().map(pb::Provider::word).collect();
    pb::Provider::from_word(&word)
        .unwrap_or_else(|| panic!("{VENDOR} is {word:?}; set it to one of {}", words.join(", ")))
}

/// Asks the vendor for the order of its fixtures, with the input as the answer to each of its calls
/// in turn, and checks the outcome.
///
/// # Panics
/// Where something that must hold does not.
pub fn ask(input: &[u8]) {
    thread_local! {
        static VENDOR: RefCell<Option<Vendor>> = const { RefCell::new(None) };
    }
    VENDOR.with_borrow_mut(|vendor| {
        if vendor.as_ref().is_none_or(|vendor| vendor.questions >= QUESTIONS) {
            *vendor = Some(Vendor::of(chosen()));
        }
        let vendor = vendor.as_mut().expect("it was just made");
        for call in 0..vendor.calls.len() {
            for status in STATUSES {
                let asked = vendor.ask(call, status, input);
                vendor.check(asked);
            }
        }
        let beside = vendor.beside(input);
        let asked = vendor.ask(vendor.calls.len() - 1, 200, &beside);
        assert!(asked.outcome.is_ok(), "a field that nobody knows has cost the order");
        vendor.check(asked);
    });
}

impl Vendor {
    /// The module of a vendor, made from the vendor's fixtures.
    ///
    /// # Panics
    /// Where a fixture is missing or wrong.
    #[must_use]
    pub fn of(provider: pb::Provider) -> Self {
        let folder = fixtures().join(provider.word());
        let sheet = table(&folder.join("vendor.toml"));
        let words = table(&folder.join("words.toml"));
        let of_status = words["table"]
            .as_array()
            .and_then(|tables| tables.iter().find(|table| text(&table["name"]) == "/status"))
            .expect("words.toml has a table of the order's status");
        let clock = ManualClock::new(SystemTime::UNIX_EPOCH);
        let module = configured(provider, &sheet, &clock);
        let order = fs::read(folder.join("order.answer.json")).expect("a fixture");
        let others = sheet.get("calls").and_then(Value::as_table).into_iter().flatten();
        let mut calls: Vec<_> = others
            .map(|(_, call)| (path(text(&call["path"])), text(&call["answer"]).as_bytes().to_vec()))
            .collect();
        // Not what the module takes for a secret: it may be wrong.
        let account = sheet["account"].as_table().expect("a table").iter();
        let secrets = account
            .filter(|(key, _)| key.contains("secret") || key.contains("key"))
            .map(|(_, value)| text(value).to_owned())
            .collect();
        calls.push((String::new(), order));
        Self {
            query: Query {
                id: text(&sheet["id"]).to_owned(),
                machine_no: sheet.get("machine_no").map(text).unwrap_or_default().to_owned(),
            },
            status_at: text(&of_status["at"]).to_owned(),
            terminal: of_status["terminal"]
                .as_array()
                .expect("a list")
                .iter()
                .map(|word| text(word).to_owned())
                .collect(),
            secrets,
            module,
            calls,
            tokens: Memory::new(1 << 20, Arc::new(clock.clone())),
            clock,
            questions: 0,
        }
    }

    /// Asks for the order of the fixtures, with the usual answer to each call. Time stands still.
    ///
    /// # Panics
    /// Where the module reads no order in it.
    #[must_use]
    pub fn usual(&self) -> Order {
        self.outcome(|_, usual| (200, usual)).expect("the usual answer is an order")
    }

    /// Asks for the order, where `answer` has the status and the body for each call, from its number and
    /// its usual answer.
    fn outcome<'a>(
        &'a self,
        answer: impl Fn(usize, &'a [u8]) -> (u16, &'a [u8]),
    ) -> Result<Order, Error> {
        let replies = self.calls.iter().enumerate().map(|(index, (path, usual))| {
            let (status, body) = answer(index, usual);
            Reply { path: path.clone(), status, body: body.to_owned() }
        });
        fuzzing::answer(replies.collect());
        let means = Resources { gate: &Open, tokens: &self.tokens };
        crate::block_on(self.module.get_order(&self.query, means))
    }

    /// The documented order, with the input as a text in a field that nobody knows.
    fn beside(&self, input: &[u8]) -> Vec<u8> {
        let (_, order) = self.calls.last().expect("the call for the order");
        let members = order.strip_prefix(b"{").expect("an object");
        // What ends the text would be the object's.
        let text = input.iter().copied().filter(|byte| !matches!(byte, b'"' | b'\\'));
        let text: Vec<u8> = text.collect();
        [b"{\"unknown\":\"", &*text, b"\",", members].concat()
    }

    /// Asks for the order, where that call is answered so and the others as usual.
    fn ask<'a>(&mut self, call: usize, status: u16, answer: &'a [u8]) -> Asked<'a> {
        self.questions += 1;
        self.clock.advance(BETWEEN_QUESTIONS);
        let outcome = self.outcome(
            |index, usual| {
                if index == call { (status, answer) } else { (200, usual) }
            },
        );
        let is_order_call = call + 1 == self.calls.len();
        // What another call has given, a token say, is for no caller either.
        let mut secrets = self.secrets.clone();
        if is_order_call {
            secrets.extend(self.calls[..call].iter().flat_map(|(_, answer)| texts(answer)));
        }
        Asked { answer, status, is_order_call, secrets, outcome }
    }
}

/// The account of `vendor.toml`. Nothing is sent to its address.
fn configured(provider: pb::Provider, sheet: &Table, clock: &ManualClock) -> Box<dyn Provider> {
    let account = sheet["account"].as_table().expect("a table").iter();
    let lines = account.map(|(key, value)| format!("{key} = {:?}\n", text(value)));
    let lines = format!("base_url = 'http://127.0.0.1'\n{}", lines.collect::<String>());
    let mut section = Section::parse(&lines, Path::new("")).expect("TOML");
    let clock: Arc<dyn Clock> = Arc::new(clock.clone());
    let module = providers::configure(provider, &mut section, &clock, &Metrics::default());
    module.unwrap_or_else(|| panic!("the account is wrong: {:?}", section.problems()))
}

/// A path as the module asks for it: below the account's `base_url`.
fn path(text: &str) -> String {
    text.trim_start_matches('/').to_owned()
}

/// The folder of all fixtures: of where the targets were built, and run.
fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

fn table(path: &Path) -> Table {
    let text = fs::read_to_string(path).expect("a fixture");
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The texts in a JSON object.
fn texts(json: &[u8]) -> Vec<String> {
    let json: serde_json::Value = serde_json::from_slice(json).expect("JSON");
    let members = json.as_object().expect("an object").values();
    members.filter_map(|value| value.as_str()).map(str::to_owned).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

/// Lets every call through.
struct Open;

#[async_trait]
impl Gate for Open {
    async fn enter(&self) -> Result<String, Error> {
        Ok(String::new())
    }

    async fn leave(&self, _call: String, _delivery: Delivery) {}
}
