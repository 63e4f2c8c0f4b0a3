//! `demo`, `get`, `health` and `sandbox`: what they print and how they exit.

use std::net::TcpListener;
use std::process::Stdio;

use order_query::pb::DESCRIPTORS;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_server;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::support::child::{Child, Serving, command, run, write};

/// A server over its own sandbox vendors.
pub fn dev() -> Serving {
    Serving::start_with("", |command| {
        command.arg("--dev");
    })
}

#[test]
fn demo_prints_an_order_from_each_vendor() {
    let demo = run(["demo", "--once"]);
    assert_eq!(demo.code, Some(0), "{demo:?}");
    for (vendor, id, status) in [
        ("wechat", "DD2981741311549200000", "PAID (2)"),
        ("dingshang", "54", "PAID (SUCCESS)"),
        ("haoka", "shipped", "SHIPPED (已发货)"),
    ] {
        // The binary need not be on the PATH.
        let program = env!("CARGO_BIN_EXE_order-query");
        let command = format!("$ {program} get {vendor} {id} --endpoint http://127.0.0.1:");
        let (_, sheet) = demo.out.split_once(&command).expect(vendor);
        assert!(sheet.contains(&format!("\n{vendor} order {id}\n")), "{sheet}");
        assert!(sheet.contains(status), "{sheet}");
    }
    assert_eq!(demo.err, "", "a demo that goes well has nothing to warn of");
}

#[test]
fn demo_keeps_serving_until_it_is_stopped() {
    let mut demo = Child::start(command(["demo"]));
    let line = demo.out.with("Serving on http://127.0.0.1:");
    let url = line.split(' ').find(|word| word.starts_with("http://")).unwrap().to_owned();
    // The suggested command is complete: its port is not the default.
    let next = demo.out.next().unwrap();
    let (_, arguments) = next.split_once(env!("CARGO_BIN_EXE_order-query")).expect(&next);
    assert!(arguments.ends_with(&url), "{next}");
    let sheet = run(arguments.split_whitespace());
    assert_eq!(sheet.code, Some(0), "{sheet:?}");
    demo.signal("INT");
    assert_eq!(demo.end().code, Some(0));
}

#[test]
fn the_listening_line_has_both_addresses() {
    let server = dev();
    assert!(server.address.ip().is_loopback() && server.admin_address.ip().is_loopback());
    assert_ne!(server.address, server.admin_address);
    let ended = server.stop();
    let lines: Vec<Value> =
        ended.err.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let listening = lines.iter().find(|line| line["message"] == "listening").unwrap();
    assert_eq!(listening["level"], "INFO");
    assert_eq!(listening["target"], "order_query::app");
    assert!(listening["timestamp"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
    assert_eq!(ended.out, "", "logs go to standard error");
}

#[test]
fn get_prints_a_human_readable_order() {
    let server = dev();
    for (arguments, lines) in [
        (
            &["wechat", "DD2981741311549200000"][..],
            &["wechat order DD2981741311549200000", "PAID (2)", "CNY", "wechat-sandbox"][..],
        ),
        (
            &["dingshang", "54", "--machine-no", "16327129", "--max-age", "0s"],
            &["dingshang order 54", "PAID (SUCCESS)", "16327129", "LIVE, observed 20"],
        ),
        (&["haoka", "sample", "--max-age", "0"], &["haoka order sample", "LIVE, observed 20"]),
        (
            &["haoka", "shipped", "--min-observe-time", "1969-12-31T23:59:59.5Z"],
            &["haoka order shipped", "LIVE, observed 20"],
        ),
        (
            &["haoka", "settled", "--account", "haoka-sandbox"],
            &["haoka order settled", "SETTLED (已结算), final"],
        ),
    ] {
        let sheet = server.get(arguments);
        assert_eq!((sheet.code, sheet.err.as_str()), (Some(0), ""), "{sheet:?}");
        for text in lines {
            assert!(sheet.out.contains(text), "no {text:?} in {}", sheet.out);
        }
    }
}

#[test]
fn get_and_watch_pass_on_the_time_that_was_last_seen() {
    let server = dev();
    for command in ["get", "watch"] {
        let address = format!("http://{}", server.address);
        let endpoint = ["--endpoint", &address];
        let time = ["--min-observe-time", "9999-01-01T00:00:00+01:00"];
        let refused = run([&[command, "haoka", "shipped"][..], &time, &endpoint].concat());
        assert_eq!((refused.code, refused.out.as_str()), (Some(1), ""), "{refused:?}");
        assert!(refused.err.contains("min_observe_time is more than 2 minutes"), "{refused:?}");
    }
}

#[test]
fn get_prints_canonical_json() {
    let server = dev();
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let message = pool.get_message_by_name("orderquery.v1.GetOrderResponse").unwrap();
    for (vendor, id, status) in [
        ("wechat", "DD2981741311549200000", "ORDER_STATUS_PAID"),
        ("dingshang", "54", "ORDER_STATUS_PAID"),
        ("haoka", "shipped", "ORDER_STATUS_SHIPPED"),
    ] {
        let got = server.get(&[vendor, id, "--json"]);
        assert_eq!((got.code, got.err.as_str()), (Some(0), ""), "{got:?}");
        let json: Value = serde_json::from_str(&got.out).unwrap();
        let order = &json["order"];
        assert_eq!(order["status"], status);
        assert_eq!(order["provider"], format!("PROVIDER_{}", vendor.to_uppercase()));
        assert_eq!(order["id"], id);
        assert_eq!(json["source"], "SOURCE_LIVE");
        let observed = order["observeTime"].as_str().unwrap();
        assert!(observed.ends_with('Z') && observed.parse::<jiff::Timestamp>().is_ok());
        if let Some(total) = order.get("total") {
            let units = total["minorUnits"].as_str().expect("64-bit integers are texts");
            assert!(units.parse::<i64>().unwrap() > 0);
        }
        // The output parses as the contract's message and has no unknown names.
        let mut reader = serde_json::Deserializer::from_str(&got.out);
        DynamicMessage::deserialize(message.clone(), &mut reader).unwrap();
        reader.end().unwrap();
    }
}

#[test]
fn a_failed_get_prints_the_reason_and_no_order() {
    let server = dev();
    for (arguments, texts) in [
        (
            &["haoka", "nobody-knows"][..],
            &[
                "error: ORDER_NOT_FOUND: the vendor does not know the order; check the id",
                "provider: haoka",
                "account: haoka-sandbox",
                "the vendor's code: -1",
                "the vendor's text: 订单不存在",
            ][..],
        ),
        (&["dingshang", "40005"], &["ORDER_EXPIRED", "the vendor's code: 40005"]),
        (&["wechat", "fault-503"], &["PROVIDER_UNAVAILABLE", "(HTTP 503)"]),
        (&["wechat", "not/an/id"], &["INVALID_REQUEST", "1 to 64 letters"]),
        (&["haoka", "shipped", "--account", "other"], &["PROVIDER_NOT_CONFIGURED", "\"other\""]),
        // The last case, since it pauses the account.
        (
            &["wechat", "errcode-45009"],
            &["PROVIDER_QUOTA_EXHAUSTED", "wait before", "code: 45009", "retry in: 900s"],
        ),
    ] {
        let failed = server.get(arguments);
        assert_eq!((failed.code, failed.out.as_str()), (Some(1), ""), "{failed:?}");
        assert!(failed.err.starts_with("error: "), "{}", failed.err);
        for text in texts {
            assert!(failed.err.contains(text), "no {text:?} in {}", failed.err);
        }
    }
}

#[test]
fn get_reports_an_unreachable_server() {
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let failed = run(["get", "haoka", "shipped", "--endpoint", &nobody]);
    assert_eq!((failed.code, failed.out.as_str()), (Some(1), ""));
    assert!(failed.err.contains(&format!("cannot connect to {nobody}")), "{}", failed.err);

    let failed = run(["get", "haoka", "shipped", "--endpoint", "ftp://127.0.0.1:1"]);
    assert_eq!(failed.code, Some(1));
    assert!(failed.err.contains("must begin with http:// or https://"), "{}", failed.err);

    let failed = run(["health", "--endpoint", &nobody]);
    assert_eq!((failed.code, failed.out.as_str()), (Some(1), ""));
    assert!(failed.err.contains(&format!("cannot connect to {nobody}")), "{}", failed.err);
}

#[test]
fn usage_errors_exit_with_2() {
    for arguments in [
        &[][..],
        &["fly"],
        &["serve", "--fly"],
        &["get"],
        &["get", "wechat"],
        &["get", "amazon", "54"],
        &["get", "unspecified", "54"],
        &["get", "haoka", "x", "--max-age", "soon"],
        &["get", "haoka", "x", "--max-age", "-5s"],
        &["get", "haoka", "x", "--max-age", "5"],
        &["watch", "haoka", "x", "--max-age", "5s"],
        &["get", "haoka", "x", "--min-observe-time", "noon"],
        &["get", "haoka", "x", "--min-observe-time", "2026-09-21T13:33:20"],
        &["watch", "haoka", "x", "--min-observe-time", "2026-09-21"],
        &["get", "haoka", "x", "--max-age", "18446744073709551615s"],
        &["get", "haoka", "x", "--endpoint", "not a url"],
        &["health", "a", "b"],
        &["sandbox", "--listen", "somewhere"],
    ] {
        let wrong = run(arguments);
        assert_eq!((wrong.code, wrong.out.as_str()), (Some(2), ""), "{arguments:?} {wrong:?}");
        assert!(!wrong.err.is_empty(), "{arguments:?}");
    }
    for arguments in [&["--help"][..], &["--version"], &["get", "--help"]] {
        let shown = run(arguments);
        assert_eq!((shown.code, shown.err.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(shown.out.contains("order-query"), "{}", shown.out);
    }
}

#[test]
fn health_works_on_both_listeners() {
    let server = dev();
    for address in [server.address, server.admin_address] {
        let endpoint = format!("--endpoint=http://{address}");
        for name in [
            None,
            Some("orderquery.v1.OrderService"),
            Some("readiness"),
            Some("liveness"),
            Some("account/haoka-sandbox"),
        ] {
            let health = run(["health", &endpoint].into_iter().chain(name));
            let told = (health.code, health.out.as_str(), health.err.as_str());
            assert_eq!(told, (Some(0), "SERVING\n", ""), "{name:?}");
        }
        let health = run(["health", &endpoint, "account/nobody"]);
        assert_eq!((health.code, health.out.as_str()), (Some(1), "SERVICE_UNKNOWN\n"));
        assert!(health.err.starts_with("error: the server has no health service of that name\n"));
    }
    let orders = run(["get", "haoka", "shipped", "--endpoint"].into_iter().chain([format!(
        "http://{}",
        server.admin_address
    )
    .as_str()]));
    assert_eq!((orders.code, orders.out.as_str()), (Some(1), ""), "probes have no orders");
}

/// `order-query get … | head -0`: a closed pipe is a failure and not a panic.
#[test]
fn a_closed_stdout_is_a_failure_and_not_a_panic() {
    let server = dev();
    let nobody = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        Stdio::from(writer)
    };
    let health = format!("--endpoint=http://{}", server.admin_address);
    for command in [
        server.get_command(&["haoka", "sample"]),
        server.get_command(&["haoka", "sample", "--json"]),
        command(["health", &health]),
        command(["sandbox"]),
        command(["demo"]),
    ] {
        let ended = Child::start_into(command, nobody(), Stdio::piped()).end();
        let told = (ended.code, ended.err.as_str());
        assert_eq!(
            told,
            (Some(1), "error: cannot write to standard output: Broken pipe (os error 32)\n")
        );
    }
    let failing = server.get_command(&["haoka", "nobody-knows"]);
    assert_eq!(Child::start_into(failing, Stdio::piped(), nobody()).end().code, Some(1));
}

#[test]
fn the_sandbox_prints_accounts_that_check_accepts_and_serve_uses() {
    let mut sandbox = Child::start(command(["sandbox"]));
    let mut accounts = String::new();
    // The last line of the last account.
    while !accounts.contains("haoka-sandbox-secret") {
        accounts += &sandbox.out.next().unwrap();
        accounts.push('\n');
    }
    let directory = tempfile::tempdir().unwrap();
    let checked = run(["check", "--config", &write(&directory, &accounts)]);
    assert_eq!((checked.code, checked.err.as_str()), (Some(0), ""), "{checked:?}");
    assert_eq!(checked.out, "the configuration is valid; accounts: 3\n");

    let server = Serving::start(&accounts);
    for (vendor, id) in [("wechat", "status-2"), ("dingshang", "54"), ("haoka", "sample")] {
        assert_eq!(server.get(&[vendor, id]).code, Some(0));
    }
    sandbox.signal("TERM");
    assert_eq!(sandbox.end().code, Some(0));

    let exposed = run(["sandbox", "--listen", "0.0.0.0:0"]);
    assert_eq!((exposed.code, exposed.out.as_str()), (Some(1), ""));
    assert!(exposed.err.contains("loopback addresses only"), "{}", exposed.err);
}

/// A foreign server whose error messages contain terminal control sequences.
struct Hostile;

#[tonic::async_trait]
impl health_server::Health for Hostile {
    async fn check(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        Err(Status::unknown("\u{1b}[31mno\r\nerror: \u{202e}yes\u{9b}"))
    }

    type WatchStream = tokio_stream::Empty<Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        _: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_servers_error_message_is_printed_without_control_characters() {
    let routes = Routes::new(health_server::HealthServer::new(Hostile));
    let address = crate::support::serve(routes, CancellationToken::new()).await;
    let failed = run(["health", "--endpoint", &format!("http://{address}")]);
    assert_eq!((failed.code, failed.out.as_str()), (Some(1), ""));
    assert_eq!(failed.err, "error: \u{fffd}[31mno\u{fffd}\u{fffd}error: \u{fffd}yes\u{fffd}\n");
}

#[test]
fn commands_time_out_on_a_silent_server() {
    // The system accepts its connections; no program serves them.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let encrypted = format!("https://{address}");
    let plain = format!("http://{address}");
    let asks = |arguments: &[&str]| Child::start(command(arguments));
    let children = [
        (asks(&["health", "--endpoint", &encrypted]), "cannot connect to https://"),
        (asks(&["get", "haoka", "1", "--endpoint", &encrypted]), "cannot connect to https://"),
        (asks(&["watch", "haoka", "1", "--endpoint", &plain]), "error: "),
    ];
    for (child, text) in children {
        let failed = child.end();
        assert_eq!((failed.code, failed.out.as_str()), (Some(1), ""), "{failed:?}");
        assert!(failed.err.contains(text), "{}", failed.err);
    }
}
