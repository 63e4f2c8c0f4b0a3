//! What the mapping tests share: a vendor's fixtures, a server that asks a scripted vendor, and
//! outcomes as JSON, so that they can be compared with files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use axum::body::Bytes;
use order_query::clock::ManualClock;
use order_query::pb::{DESCRIPTORS, GetOrderRequest, Order, Provider};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::support::{Failed, Scripted, Server, manual_clock, question};

/// The contract, as it describes itself.
pub(super) static CONTRACT: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).unwrap());

/// The account's name in every test.
const ACCOUNT: &str = "main";

/// The call that every vendor has.
pub(super) const ORDER_CALL: &str = "order";

/// The folder of all fixtures.
pub(super) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// A vendor with its fixtures.
pub(super) struct Vendor {
    pub(super) provider: Provider,
    pub(super) sheet: Sheet,
    folder: PathBuf,
}

/// `vendor.toml`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sheet {
    /// The order of `order.answer.json`.
    pub(super) id: String,
    /// Where the id stands in the answer.
    pub(super) id_at: String,
    #[serde(default)]
    pub(super) machine_no: String,
    /// The account's settings.
    pub(super) account: BTreeMap<String, String>,
    /// Calls other than the one for the order, by name.
    #[serde(default)]
    pub(super) calls: BTreeMap<String, Call>,
}

/// A call other than the one for the order.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Call {
    /// What its path begins with.
    pub(super) path: String,
    /// What the vendor answers as a rule.
    pub(super) answer: String,
}

/// Every vendor of the contract.
pub(super) fn vendors() -> Vec<Vendor> {
    Provider::all().map(Vendor::of).collect()
}

impl Vendor {
    pub(super) fn of(provider: Provider) -> Self {
        let folder = fixtures().join(provider.word());
        let sheet = toml::from_str(&read(&folder.join("vendor.toml"))).unwrap();
        Self { provider, sheet, folder }
    }

    /// A fixture's text.
    pub(super) fn text(&self, file: &str) -> String {
        read(&self.folder.join(file))
    }

    /// A fixture in TOML.
    pub(super) fn table<T: DeserializeOwned>(&self, file: &str) -> T {
        toml::from_str(&self.text(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    }

    /// A fixture in JSON.
    pub(super) fn json(&self, file: &str) -> Value {
        serde_json::from_str(&self.text(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    }

    /// The names of the fixtures that end so, without that end.
    pub(super) fn files(&self, end: &str) -> Vec<String> {
        let entries = fs::read_dir(&self.folder).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> =
            names.filter_map(|name| name.strip_suffix(end).map(str::to_owned)).collect();
        names.sort();
        names
    }

    /// The vendor's documented answer.
    pub(super) fn sample(&self) -> Value {
        self.json("order.answer.json")
    }

    /// The order that the documented answer becomes.
    pub(super) fn expected(&self) -> Value {
        self.json("order.expected.json")
    }

    /// What each call's path begins with; the order call's is whatever is left.
    pub(super) fn paths(&self) -> BTreeMap<&str, &str> {
        let others = self.sheet.calls.iter().map(|(name, call)| (name.as_str(), &*call.path));
        others.chain([(ORDER_CALL, "")]).collect()
    }

    /// The question for the documented order.
    pub(super) fn question(&self) -> GetOrderRequest {
        GetOrderRequest {
            machine_no: self.sheet.machine_no.clone(),
            // Always asked for anew, whatever the server keeps.
            max_age: Some(prost_types::Duration::default()),
            ..question(self.provider, &self.sheet.id)
        }
    }

    /// What becomes of that answer to the order call, on a server that was never asked before: no
    /// limit, token or earlier answer plays a part.
    pub(super) async fn outcome(&self, body: impl Into<Bytes>) -> Value {
        let bench = Bench::start(self).await;
        bench.scripted.answers(200, body);
        bench.finish(self.question()).await
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A server with one account at a scripted vendor, at a time that stands still.
pub(super) struct Bench<'a> {
    pub(super) vendor: &'a Vendor,
    pub(super) scripted: Scripted,
    pub(super) clock: ManualClock,
    server: Server,
}

impl<'a> Bench<'a> {
    /// With the account of `vendor.toml`.
    pub(super) async fn start(vendor: &'a Vendor) -> Self {
        Self::start_with(vendor, |_| {}).await
    }

    /// With an account that is changed.
    pub(super) async fn start_with(
        vendor: &'a Vendor,
        change: impl FnOnce(&mut BTreeMap<String, String>),
    ) -> Self {
        let scripted = Scripted::start().await;
        let mut account = vendor.sheet.account.clone();
        account.insert("provider".into(), vendor.provider.word());
        account.insert("base_url".into(), format!("http://{}", scripted.address));
        change(&mut account);
        let lines = account.iter().map(|(key, value)| format!("{key} = {value:?}\n"));
        let config = format!("[accounts.{ACCOUNT}]\n{}", lines.collect::<String>());
        let clock = manual_clock();
        let server = Server::start_at(&config, Arc::new(clock.clone())).await;
        let bench = Self { vendor, scripted, clock, server };
        bench.reset();
        bench
    }

    /// From here on the vendor answers as its documents say.
    pub(super) fn reset(&self) {
        self.scripted.answers(200, self.vendor.text("order.answer.json"));
        for call in self.vendor.sheet.calls.values() {
            self.scripted.answers_at(&call.path, 200, call.answer.clone());
        }
    }

    /// What becomes of a question: the order, or `{"failure": …}`.
    pub(super) async fn ask(&self, question: GetOrderRequest) -> Value {
        match self.server.get(question).await {
            Ok(answer) => canonical(&answer.order.unwrap()),
            Err(failed) => json!({ "failure": self.failure(&failed) }),
        }
    }

    /// The same, and the end of the server.
    pub(super) async fn finish(self, question: GetOrderRequest) -> Value {
        let outcome = self.ask(question).await;
        self.server.app.stop().await;
        outcome
    }

    fn failure(&self, failed: &Failed) -> Value {
        assert_eq!(failed.domain, "orderquery", "{failed:?}");
        assert_eq!(failed.metadata["provider"], self.vendor.provider.word());
        assert_eq!(failed.metadata["account"], ACCOUNT);
        let retry = failed.retry_delay.inspect(|delay| assert_eq!(delay.subsec_nanos(), 0));
        let members = [
            ("code", Some(json!(code_name(failed.code)))),
            ("reason", Some(json!(failed.reason))),
            ("field", failed.field.as_ref().map(|field| json!(field))),
            ("retry_seconds", retry.map(|delay| json!(delay.as_secs()))),
            ("provider_code", failed.metadata.get("provider_code").map(|code| json!(code))),
            ("provider_message", failed.metadata.get("provider_message").map(|text| json!(text))),
        ];
        members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

/// A gRPC code as the contract writes it: `NOT_FOUND`.
fn code_name(code: tonic::Code) -> String {
    let mut name = String::new();
    for c in format!("{code:?}").chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

/// The order as canonical protobuf JSON.
pub(super) fn canonical(order: &Order) -> Value {
    let message = CONTRACT.get_message_by_name("orderquery.v1.Order").unwrap();
    let message = DynamicMessage::decode(message, order.encode_to_vec().as_slice()).unwrap();
    serde_json::to_value(&message).unwrap()
}

/// The failure that an answer ends in which cannot be read.
pub(super) fn unreadable() -> Value {
    json!({ "failure": { "code": "INTERNAL", "reason": "PROVIDER_RESPONSE_INVALID" } })
}

/// The JSON with `raw` in the place of the member at that pointer, to the letter; without the
/// member where `raw` is none.
pub(super) fn with_member(sample: &Value, at: &str, raw: Option<&str>) -> String {
    const PLACE: &str = "@@PLACE@@";
    let mut edited = sample.clone();
    put(&mut edited, at, raw.map(|_| json!(PLACE)));
    edited.to_string().replace(&format!("\"{PLACE}\""), raw.unwrap_or_default())
}

/// Puts the value at that pointer; takes away what is there where it is none.
pub(super) fn put(json: &mut Value, at: &str, value: Option<Value>) {
    let (parent, name) = at.rsplit_once('/').unwrap();
    let parent = json.pointer_mut(parent).unwrap_or_else(|| panic!("{at} has no parent"));
    match (parent, value) {
        (Value::Object(members), Some(value)) => {
            members.insert(name.to_owned(), value);
        }
        (Value::Object(members), None) => {
            members.remove(name);
        }
        (Value::Array(elements), Some(value)) => elements[name.parse::<usize>().unwrap()] = value,
        (parent, _) => panic!("{at} is in {parent}"),
    }
}
