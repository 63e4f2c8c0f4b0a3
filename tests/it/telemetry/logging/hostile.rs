//! Untrusted text: callers and vendors may send anything.

use order_query::pb::{GetOrderRequest, Provider};
use serde_json::{Value, json};

use super::GRPC;
use crate::support::child::Serving;
use crate::support::played::{Played, answer};
use crate::support::{bare_client, framed, question, raw};

/// Characters that control a terminal, end a line for some reader, or hide text.
const HOSTILE: &str = "\"}\n{\"level\":\"ERROR\"}\r\u{1b}[31m\u{9b}2J\u{7}\u{7f}\u{85}\u{2028}\u{2029}\u{202e}\u{2066}";

fn is_hostile(c: char) -> bool {
    HOSTILE.contains(c) && !c.is_ascii_graphic() && !c.is_ascii_alphanumeric()
}

/// Every untrusted text that may reach a log, with all of those characters in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn untrusted_text_neither_forges_nor_hides_a_line() {
    let verbose = format!("{HOSTILE}{}", "x".repeat(300));
    let said = json!({
        "code": verbose, "message": verbose, "errcode": verbose, "errmsg": verbose,
        "data": { "orderNo": HOSTILE, "orderStatus": HOSTILE, "cardStatus": HOSTILE },
    });
    let fine = json!({
        "code": 0, "data": { "orderNo": "1", "orderStatus": HOSTILE, "cardStatus": HOSTILE },
    });
    for format in ["json", "text"] {
        let said = said.to_string();
        let fine = fine.to_string();
        let vendor = Played::start(move |asked| {
            let order = String::from_utf8_lossy(&asked.body).contains("odd-word");
            let said = if order { fine.clone() } else { said.clone() };
            async { answer(200, said) }
        })
        .await;
        let server = serve(&vendor.url(), format);
        let calls = ask_all(&server).await;
        let log = server.stop().err;
        let lines: Vec<_> = log.lines().collect();
        assert_eq!(lines.iter().filter(|line| line.contains("GetOrder")).count(), calls, "{log}");
        for line in lines {
            assert!(!line.contains(is_hostile), "{line:?}");
            assert!(!line.contains(&"x".repeat(200)), "{line:?}");
            let is_json = serde_json::from_str::<Value>(line).is_ok_and(|line| line.is_object());
            let is_text = line.starts_with("20") && line.contains(" order_query::");
            assert!(if format == "json" { is_json } else { is_text }, "{line:?}");
        }
    }
}

fn serve(url: &str, format: &str) -> Serving {
    Serving::start(&format!(
        "telemetry.log_format = \"{format}\"\ntelemetry.log_level = \"trace\"\n\
         [accounts.market]\nprovider = \"wechat\"\nbase_url = \"{url}\"\napp_id = \"wx\"\n\
         app_secret = \"s\"\n\
         [accounts.vending]\nprovider = \"dingshang\"\nbase_url = \"{url}\"\napp_id = \"ds\"\n\
         app_secret = \"s\"\napp_key = \"k\"\nmachine_no = \"16327129\"\n\
         [accounts.cards]\nprovider = \"haoka\"\nbase_url = \"{url}\"\nuser_id = \"u\"\n\
         secret = \"s\"\n"
    ))
}

/// Puts it into everything that a caller sends. Returns the number of calls.
async fn ask_all(server: &Serving) -> usize {
    let mut client = bare_client(server.address);
    let mut calls = 0;
    for provider in Provider::all() {
        let hostile = || HOSTILE.to_owned();
        for question in [
            question(provider, "1708"),
            question(provider, "odd-word"),
            GetOrderRequest { account: hostile(), ..question(provider, "1708") },
            GetOrderRequest { machine_no: hostile(), ..question(provider, "1708") },
            question(provider, HOSTILE),
        ] {
            let _ = client.get_order(question).await;
            calls += 1;
        }
    }
    // Headers cannot contain line breaks, but any non-ASCII bytes.
    let header: String = HOSTILE.chars().filter(|c| !c.is_ascii_control()).collect();
    for name in ["traceparent", "grpc-encoding", "grpc-timeout", "authorization", "user-agent"] {
        let headers = [GRPC, (name, &header)];
        let path = "/orderquery.v1.OrderService/GetOrder";
        raw(server.address, path, &headers, Some(framed(0, b""))).await;
        calls += 1;
    }
    calls
}
