//! Acme's shops, played from their documents. The sandbox alone may use it.

use async_trait::async_trait;
use axum::http::header::AUTHORIZATION;
use axum::http::{Method, StatusCode};
use serde_json::json;

use super::scenes::{Scene, Stage, over};
use super::{Answer, Call, Kind, Reply, Vendor, faults};

const API_KEY: &str = "acme-sandbox-key";

const SHOP_PATH: &str = "/shops/sandbox";
const ORDERS_PATH: &str = "/shops/sandbox/orders/";

/// The vendor.
pub(super) struct Acme;

#[async_trait]
impl Vendor for Acme {
    fn name(&self) -> &'static str {
        "acme"
    }

    fn settings(&self) -> String {
        format!("shop = \"sandbox\"\napi_key = \"{API_KEY}\"\n")
    }

    fn stage(&self) -> &'static Stage {
        &STAGE
    }

    fn sample(&self) -> &'static str {
        "paid"
    }

    async fn answer(&self, call: Call) -> Answer {
        let given = call.parts.headers.get(AUTHORIZATION);
        let is_known = given.is_some_and(|given| *given == format!("Bearer {API_KEY}"));
        let refused = || failure(StatusCode::UNAUTHORIZED, 1, "unknown key");
        let path = call.parts.uri.path();
        if call.parts.method == Method::GET && path == SHOP_PATH {
            let shop = Reply::Json(StatusCode::OK, json!({ "name": "Sandbox" }).to_string());
            let reply = if is_known { shop } else { refused() };
            return Answer { kind: Kind::Other, order_id: None, reply };
        }
        match path.strip_prefix(ORDERS_PATH) {
            Some(id) if call.parts.method == Method::GET => {
                let reply = if is_known { play(id) } else { refused() };
                Answer { kind: Kind::Order, order_id: Some(id.to_owned()), reply }
            }
            _ => Answer::unknown_path(),
        }
    }
}

/// What the order `id` answers to a good request.
fn play(id: &str) -> Reply {
    if let Some(reply) = STAGE.scene(id, id) {
        return reply;
    }
    match faults::by_id(id) {
        Some(fault) => STAGE.fault(fault, id),
        None => failure(StatusCode::NOT_FOUND, 4, "no such order"),
    }
}

fn failure(status: StatusCode, code: u32, message: &str) -> Reply {
    Reply::Json(status, json!({ "code": code, "message": message }).to_string())
}

/// A paid order; the other scenes are made from it.
const ORDINARY: &str = r#"{"id":"","state":"paid","amount_cents":1999,"created_at":1700000000}"#;

static STAGE: Stage = Stage { ordinary: ORDINARY, id_at: "/id", scenes: SCENES };

static SCENES: &[Scene] = &[
    over(&["open"], "`state` open", r#"{"state":"open"}"#),
    over(&["paid"], "`state` paid", "{}"),
    over(&["sent"], "`state` sent", r#"{"state":"sent"}"#),
    over(&["canceled"], "`state` canceled, terminal", r#"{"state":"canceled"}"#),
    over(&["state-unknown"], "`state` lost, a word that no table has", r#"{"state":"lost"}"#),
];
