//! The vendors as their fixtures describe them (`tests/fixtures/README.md`): accounts, requests and answers for
//! tests about every vendor, and for those about none in particular.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use order_query::pb::{GetOrderRequest, Provider};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::question;

/// The call that every vendor has.
pub const ORDER_CALL: &str = "order";

/// The folder of all fixtures.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// A vendor with its fixtures.
pub struct Vendor {
    pub provider: Provider,
    pub sheet: Sheet,
    folder: PathBuf,
}

/// `vendor.toml`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sheet {
    /// The order of `order.answer.json`.
    pub id: String,
    /// The path of the id in the answer.
    pub id_at: String,
    #[serde(default)]
    pub machine_no: String,
    /// The account's settings.
    pub account: BTreeMap<String, String>,
    /// Calls other than the one for the order, by name.
    #[serde(default)]
    pub calls: BTreeMap<String, Call>,
    /// The HTTP status of a fixture's answer, where it is not 200; by file name.
    #[serde(default)]
    pub status: BTreeMap<String, u16>,
}

/// A call other than the one for the order.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// The prefix of its path.
    pub path: String,
    /// The vendor's default answer.
    pub answer: String,
}

/// Whether a setting of an account is a secret.
pub fn is_secret(key: &str) -> bool {
    key.contains("secret") || key.contains("key")
}

/// Every vendor of the contract.
pub fn vendors() -> Vec<Vendor> {
    Provider::all().map(Vendor::of).collect()
}

impl Vendor {
    pub fn of(provider: Provider) -> Self {
        let folder = fixtures().join(provider.word());
        let sheet = toml::from_str(&read(&folder.join("vendor.toml"))).unwrap();
        Self { provider, sheet, folder }
    }

    /// A fixture's text.
    pub fn text(&self, file: &str) -> String {
        read(&self.folder.join(file))
    }

    /// A fixture in TOML.
    pub fn table<T: DeserializeOwned>(&self, file: &str) -> T {
        toml::from_str(&self.text(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    }

    /// A fixture in JSON.
    pub fn json(&self, file: &str) -> Value {
        serde_json::from_str(&self.text(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    }

    /// The names of the fixtures with that suffix, without the suffix.
    pub fn files(&self, end: &str) -> Vec<String> {
        let entries = fs::read_dir(&self.folder).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> =
            names.filter_map(|name| name.strip_suffix(end).map(str::to_owned)).collect();
        names.sort();
        names
    }

    /// The vendor's documented answer.
    pub fn sample(&self) -> Value {
        self.json("order.answer.json")
    }

    /// The order that the documented answer maps to.
    pub fn expected(&self) -> Value {
        self.json("order.expected.json")
    }

    /// The path prefix of each call; the order call has all other paths.
    pub fn paths(&self) -> BTreeMap<&str, &str> {
        let others = self.sheet.calls.iter().map(|(name, call)| (name.as_str(), &*call.path));
        others.chain([(ORDER_CALL, "")]).collect()
    }

    /// An account of that name at the vendor, at that address, changed by the test.
    pub fn account(
        &self,
        name: &str,
        url: &str,
        change: impl FnOnce(&mut BTreeMap<String, String>),
    ) -> String {
        let mut settings = self.sheet.account.clone();
        settings.insert("provider".to_owned(), self.provider.word());
        settings.insert("base_url".to_owned(), url.to_owned());
        change(&mut settings);
        let lines = settings.iter().map(|(key, value)| format!("{key} = {value:?}\n"));
        format!("[accounts.{name}]\n{}", lines.collect::<String>())
    }

    /// The request for the documented order.
    pub fn question(&self) -> GetOrderRequest {
        GetOrderRequest {
            machine_no: self.sheet.machine_no.clone(),
            // Always fetched live, whatever the server has cached.
            max_age: Some(prost_types::Duration::default()),
            ..question(self.provider, &self.sheet.id)
        }
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// An account at each vendor, named like the vendor, at one address. `more` is set for each of them.
pub fn accounts(url: &str, more: &str) -> String {
    accounts_changed(url, more, |_| {})
}

/// The same, each changed by the test.
pub fn accounts_changed(
    url: &str,
    more: &str,
    change: impl Fn(&mut BTreeMap<String, String>),
) -> String {
    let account = |vendor: &Vendor| {
        let account = vendor.account(&vendor.provider.word(), url, |settings| {
            if !vendor.sheet.machine_no.is_empty() {
                settings.insert("machine_no".to_owned(), vendor.sheet.machine_no.clone());
            }
            change(settings);
        });
        format!("{account}{more}\n")
    };
    vendors().iter().map(account).collect()
}

/// An answer that is order 54 at each of the vendors, and the answer to their other calls.
pub static ANSWER: LazyLock<String> = LazyLock::new(|| {
    let mut whole = json!({});
    for vendor in vendors() {
        let mut order = vendor.sample();
        let id = order.pointer(&vendor.sheet.id_at).is_some_and(Value::is_number);
        put(&mut order, &vendor.sheet.id_at, Some(if id { json!(54) } else { json!("54") }));
        merge(&mut whole, order);
        for call in vendor.sheet.calls.values() {
            merge(&mut whole, serde_json::from_str(&call.answer).unwrap());
        }
    }
    whole.to_string()
});

/// How many calls the first order of each vendor takes.
pub fn first_calls() -> usize {
    vendors().iter().map(|vendor| 1 + vendor.sheet.calls.len()).sum()
}

fn merge(whole: &mut Value, part: Value) {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            for (name, part) in part {
                merge(whole.entry(name).or_insert(Value::Null), part);
            }
        }
        (whole, part) => *whole = part,
    }
}

/// The JSON with `raw` verbatim in place of the member at that pointer; without the
/// member where `raw` is none.
pub fn with_member(sample: &Value, at: &str, raw: Option<&str>) -> String {
    const PLACE: &str = "@@PLACE@@";
    let mut edited = sample.clone();
    put(&mut edited, at, raw.map(|_| json!(PLACE)));
    edited.to_string().replace(&format!("\"{PLACE}\""), raw.unwrap_or_default())
}

/// Sets the value at that pointer; removes the member if it is none.
pub fn put(json: &mut Value, at: &str, value: Option<Value>) {
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
