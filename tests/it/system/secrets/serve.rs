//! A server that logs everything, with every behavior of vendors.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::process::Command;

use futures_util::future::join_all;
use order_query::pb::order_service_client::OrderServiceClient;
use order_query::pb::{GetOrderResponse, Provider};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::Status;
use tonic::transport::Channel;

use super::vendor::{Behavior, PLAYED, Vendor, bad_behaviors, order};
use super::{
    ACCESS_TOKEN, DINGSHANG_KEY, DINGSHANG_SECRET, HAOKA_SECRET, ID_MIDDLE, NAME, NUMBER_ID,
    NUMBER_MIDDLE, PERSONAL, PHONE, PROXY_WORD, REMARK, SECRETS, WECHAT_SECRET, WORD_ID,
    assert_libraries_are_quiet, assert_none, found,
};
use crate::support::child::Serving;
use crate::support::collector::Collector;
use crate::support::played::{Asked, Played, answer};
use crate::support::{Failed, connect, question};

/// The three accounts, each with its secrets in another place. The timeout is short, so that silence
/// does not delay the test.
fn accounts(url: &str, more: &str, directory: &TempDir) -> String {
    let file = directory.path().join("secret");
    fs::write(&file, format!("{WECHAT_SECRET}\n")).unwrap();
    let file = file.display();
    let common = format!("base_url = \"{url}\"\ntimeout = \"1s\"\n{more}");
    format!(
        "[accounts.market]\nprovider = \"wechat\"\n{common}\napp_id = \"wx\"\n\
         app_secret = {{ file = \"{file}\" }}\n\
         [accounts.vending]\nprovider = \"dingshang\"\n{common}\napp_id = \"ds\"\n\
         app_secret = {{ env = \"ORDER_QUERY_TEST_SECRET\" }}\napp_key = \"{DINGSHANG_KEY}\"\n\
         machine_no = \"16327129\"\n\
         [accounts.cards]\nprovider = \"haoka\"\n{common}\nuser_id = \"agent\"\n\
         body = \"urlencoded\"\nsecret = \"{HAOKA_SECRET}\"\n"
    )
}

/// Everything, and the libraries by their names.
pub const LOUDEST: &str = "trace,h2=trace,hyper=trace,hyper_util=trace,rustls=trace,\
    tokio_rustls=trace,reqwest=trace,tonic=trace,tower=trace,redis=trace,redb=trace";

/// How a server is made to log everything.
#[derive(Debug, Clone, Copy)]
enum Loud {
    ByFile,
    ByEnvironment,
}

impl Loud {
    fn settings(self) -> &'static str {
        match self {
            Self::ByFile => "telemetry.log_level = \"trace\"\n",
            Self::ByEnvironment => "telemetry.log_format = \"text\"\n",
        }
    }

    fn environment(self, command: &mut Command) {
        command.env("ORDER_QUERY_TEST_SECRET", DINGSHANG_SECRET);
        // It would put source paths into a panic.
        command.env("RUST_BACKTRACE", "1");
        if matches!(self, Self::ByEnvironment) {
            command.env("ORDER_QUERY_LOG", LOUDEST);
        }
    }

    fn serve(self, accounts: &str) -> Serving {
        let config = format!("{}{accounts}", self.settings());
        Serving::start_with(&config, |command| self.environment(command))
    }
}

/// The order call of these tests.
async fn ask(channel: &Channel, provider: Provider) -> Result<GetOrderResponse, Status> {
    let id = if provider == Provider::Dingshang { NUMBER_ID } else { WORD_ID };
    let mut client = OrderServiceClient::new(channel.clone());
    client.get_order(question(provider, id)).await.map(tonic::Response::into_inner)
}

/// Checks all details of a failed call. Returns the reason.
fn check_failure(name: &str, status: &Status) -> String {
    let failed = Failed::from(status);
    let details = String::from_utf8_lossy(status.details());
    let told = format!("{name}: {status:?} {failed:?} {details}");
    assert_none(&SECRETS, &told);
    assert_none(&PERSONAL, &told);
    failed.reason
}

async fn nothing_leaks(loud: Loud) {
    let directory = tempfile::tempdir().unwrap();
    let trap = Played::start(|_| async { answer(200, "{}") }).await;
    let vendor = Vendor::start().await;
    let (collector, address) = Collector::start().await;
    let config = format!(
        "telemetry.otlp_endpoint = \"http://{address}\"\n{}",
        accounts(&vendor.played.url(), "", &directory)
    );
    let mut server = loud.serve(&config);
    prove_loud(&mut server);
    let channel = connect(server.address).await;

    vendor.does(&Behavior::Answers(200, order().to_string()));
    for provider in PLAYED {
        let answer = ask(&channel, provider).await.unwrap().order.unwrap();
        if provider == Provider::Haoka {
            let recipient = answer.recipient.unwrap();
            assert_eq!((recipient.name.as_str(), recipient.phone.as_str()), (NAME, PHONE));
            assert_eq!(answer.remark, REMARK);
        }
    }
    check_arrived(&vendor.played.asked());

    let mut log = server.stop().err;
    let mut reasons = BTreeSet::new();
    for (name, behavior) in bad_behaviors(&trap.url()) {
        // A new server for each: one behavior may pause an account for the next.
        let server = loud.serve(&config);
        let channel = connect(server.address).await;
        vendor.does(&behavior);
        let calls = PLAYED.map(|provider| ask(&channel, provider));
        for status in join_all(calls).await.into_iter().filter_map(Result::err) {
            reasons.insert(check_failure(&name, &status));
        }
        log += &server.stop().err;
    }
    for kind in [
        "INVALID_REQUEST",
        "ORDER_EXPIRED",
        "ORDER_NOT_FOUND",
        "PROVIDER_CREDENTIALS_REJECTED",
        "PROVIDER_ERROR",
        "PROVIDER_QUOTA_EXHAUSTED",
        "PROVIDER_RESPONSE_INVALID",
        "PROVIDER_UNAVAILABLE",
    ] {
        assert!(reasons.contains(kind), "{kind} was never seen among {reasons:?}");
    }
    assert_eq!(trap.connections(), 0, "a redirect was followed");
    let asked = vendor.played.asked();
    assert!(asked.iter().all(|asked| !asked.headers.contains_key("referer")));
    assert!(asked.iter().all(|asked| !asked.headers.contains_key("cookie")));

    check_log(&log);
    check_spans(&collector);
}

/// Waits for an event that is logged at debug level only.
fn prove_loud(server: &mut Serving) {
    let mut stranger = TcpStream::connect(server.address).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\nHost: order-query\r\n\r\n").unwrap();
    assert!(server.child.err.with("a connection failed").contains("DEBUG"));
}

/// The vendor received the secrets, so they could have leaked.
fn check_arrived(asked: &[Asked]) {
    let of = |path: &str| {
        let asked = asked.iter().find(|asked| asked.uri.path().starts_with(path));
        let asked = asked.unwrap_or_else(|| panic!("{path} was not asked"));
        (asked.uri.to_string(), asked.headers.clone(), String::from_utf8_lossy(&asked.body))
    };
    assert!(of("/cgi-bin/stable_token").2.contains(WECHAT_SECRET));
    assert!(of("/wxa/").0.contains(&format!("access_token={ACCESS_TOKEN}")));
    assert_eq!(of("/api/openapi/").1["appsecret"], DINGSHANG_SECRET);
    assert!(of("/api/openapi/").0.contains(NUMBER_ID));
    assert!(of("/api/order/").2.contains(ID_MIDDLE));
}

/// Spans describe the requests that had the secrets, without the canaries.
fn check_spans(collector: &Collector) {
    let told = format!("{:?}", collector.messages());
    assert_none(&SECRETS, &told);
    assert_none(&PERSONAL, &told);
    for of_orders in [WORD_ID, NUMBER_ID, "http://", "/cgi-bin", "/api/"] {
        assert!(!told.contains(of_orders), "{of_orders}");
    }
    let expected = ["find order", "token", "PROVIDER_UNAVAILABLE", "127.0.0.1", "POST", "GET"];
    assert_eq!(found(&expected, &told), expected, "{told}");
}

/// The log has the expected lines, without the canaries.
fn check_log(log: &str) {
    assert_none(&SECRETS, log);
    assert_none(&PERSONAL, log);
    // The search works on this text: it finds what may be there.
    let expected = ["…0042", "cards", "PROVIDER_UNAVAILABLE", "listening", "stopped"];
    assert_eq!(found(&expected, log), expected, "{log}");
    assert_libraries_are_quiet(log);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_leaks_when_the_file_enables_all_logs() {
    nothing_leaks(Loud::ByFile).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_leaks_when_the_environment_enables_all_logs() {
    nothing_leaks(Loud::ByEnvironment).await;
}

/// Transport errors contain URLs and hosts: no listener, no TLS,
/// no route through the proxy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_leaks_when_the_vendor_is_unreachable() {
    let directory = tempfile::tempdir().unwrap();
    let vendor = Played::start(|_| async { answer(200, order().to_string()) }).await;
    let refusing = Played::start(|_| async { answer(407, NAME) }).await;
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let through = |address| format!("proxy = \"http://someone:{PROXY_WORD}@{address}\"");
    for (url, more) in [
        (format!("http://{nobody}"), String::new()),
        (format!("https://{}", vendor.address), String::new()),
        (vendor.url(), through(nobody)),
        (vendor.url(), through(refusing.address)),
        (format!("https://{}", vendor.address), through(refusing.address)),
    ] {
        let server = Loud::ByFile.serve(&accounts(&url, &more, &directory));
        let channel = connect(server.address).await;
        for provider in PLAYED {
            let status = ask(&channel, provider).await.unwrap_err();
            check_failure(&url, &status);
        }
        let log = server.stop().err;
        assert_none(&SECRETS, &log);
        assert_none(&PERSONAL, &log);
        assert_eq!(found(&["…0042"], &log), ["…0042"]);
    }
    // It could have leaked, in the only form in which it is sent.
    let sent = refusing.asked();
    assert!(sent.iter().all(|asked| asked.headers.contains_key("proxy-authorization")));
    // Where no connection was made, order calls are retried.
    assert_eq!(sent.len(), 3 + 3 + 2);
}

/// The commands print the order, and no secret.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_print_the_order_and_no_secret() {
    let directory = tempfile::tempdir().unwrap();
    let vendor = Vendor::start().await;
    let server = Loud::ByFile.serve(&accounts(&vendor.played.url(), "", &directory));
    vendor.does(&Behavior::Answers(200, order().to_string()));
    for provider in PLAYED {
        let id = if provider == Provider::Dingshang { NUMBER_ID } else { WORD_ID };
        for json in [None, Some("--json")] {
            let mut command = server.get_command(&[&provider.word(), id]);
            command.args(json).env("ORDER_QUERY_LOG", "trace");
            let got = crate::support::child::Child::start(command).end();
            assert_eq!((got.code, got.err.as_str()), (Some(0), ""));
            assert_none(&SECRETS, &got.out);
            let middle = if provider == Provider::Dingshang { NUMBER_MIDDLE } else { ID_MIDDLE };
            assert_eq!(found(&[middle], &got.out), [middle]);
        }
    }
    vendor.does(&Behavior::Answers(503, NAME.to_owned()));
    let failed = server.get(&["haoka", WORD_ID, "--max-age", "0s"]);
    assert_eq!((failed.code, failed.out.as_str()), (Some(1), ""));
    assert_none(&SECRETS, &failed.err);
    assert_none(&PERSONAL, &failed.err);
}
