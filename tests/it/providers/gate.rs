//! What the limits require of every vendor's module: each order call passes the gate once, before it is
//! sent, and no other call does.

use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use order_query::clock::{Clock, SystemClock};
use order_query::config::Section;
use order_query::error::Error;
use order_query::outbound::Delivery;
use order_query::providers::{self, Gate, Query, Resources};
use order_query::store::Memory;
use order_query::telemetry::metrics::Metrics;

use crate::support::facts::{Vendor, vendors};
use crate::support::{CACHE_BYTES, Scripted};

/// A gate that records the calls that pass.
#[derive(Default)]
struct Noting(Mutex<Vec<String>>);

impl Noting {
    fn note(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

#[async_trait]
impl Gate for Noting {
    async fn enter(&self) -> Result<String, Error> {
        self.note("enter".to_owned());
        Ok("a call".to_owned())
    }

    async fn leave(&self, call: String, delivery: Delivery) {
        self.note(format!("leave {call} {delivery:?}"));
    }
}

/// A gate that refuses everything.
struct Shut;

#[async_trait]
impl Gate for Shut {
    async fn enter(&self) -> Result<String, Error> {
        Err(Error::unavailable("shut"))
    }

    async fn leave(&self, _: String, _: Delivery) {
        unreachable!("nothing has entered")
    }
}

#[tokio::test]
async fn only_order_calls_pass_the_gate_each_exactly_once() {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    for vendor in vendors() {
        let server = Scripted::start().await;
        server.answers(200, vendor.sample().to_string());
        for call in vendor.sheet.calls.values() {
            server.answers_at(&call.path, 200, call.answer.clone());
        }
        let account =
            vendor.account("main", &server.url(), |settings| drop(settings.remove("provider")));
        let mut root = Section::parse(&account, Path::new("")).unwrap();
        let mut section = root.section("accounts").section("main");
        let module =
            providers::configure(vendor.provider, &mut section, &clock, &Metrics::default());
        let module = module.unwrap_or_else(|| panic!("{:?}", root.problems()));
        let tokens = Memory::new(CACHE_BYTES, Arc::clone(&clock));
        let (id, machine_no) = (vendor.sheet.id.clone(), vendor.sheet.machine_no.clone());
        let query = Query { id, machine_no };
        let name = vendor.provider.word();

        let shut = Resources { gate: &Shut, tokens: &tokens };
        module.get_order(&query, shut).await.unwrap_err();
        assert!(server.asked().is_empty(), "{name}: nothing is sent before the gate");

        let gate = Noting::default();
        let resources = Resources { gate: &gate, tokens: &tokens };
        // The first call fetches a token, where the vendor has tokens.
        for round in 1..=2 {
            module.get_order(&query, resources).await.unwrap();
            assert_eq!(orders_asked(&server, &vendor), round, "{name}");
            assert_eq!(gate.take(), ["enter", "leave a call Answered"], "{name} {round}");
        }
    }
}

/// How many order calls arrived: those at none of the other calls' paths.
fn orders_asked(server: &Scripted, vendor: &Vendor) -> usize {
    let is_order =
        |path: &str| !vendor.sheet.calls.values().any(|call| path.starts_with(&call.path));
    server.asked().iter().filter(|asked| is_order(asked.uri.path())).count()
}
