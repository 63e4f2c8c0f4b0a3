//! A log that is not read.

use std::io::{BufRead as _, BufReader, PipeReader};
use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;

use order_query::pb::order_service_client::OrderServiceClient;
use order_query::pb::{BatchGetOrdersRequest, OrderRef, Provider};
use serde_json::Value;
use tokio::time::timeout;

use crate::support::child::{Child, LISTEN, Lines, PATIENCE, command, write};
use crate::support::scrape::{page_at, value};
use crate::support::{BareChannel, bare_client, question};

/// How many lines a call is: one for each order of a batch, and its own.
const LINES: usize = 101;

/// The binary, with a log that is not read once it listens.
struct Unread {
    child: Child,
    log: BufReader<PipeReader>,
    address: SocketAddr,
    admin_address: SocketAddr,
    client: OrderServiceClient<BareChannel>,
    vendor: TcpListener,
    _directory: tempfile::TempDir,
}

impl Unread {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        // It accepts what is sent to it, and never answers.
        let vendor = TcpListener::bind("127.0.0.1:0").unwrap();
        let account = format!(
            "[accounts.cards]\nprovider = \"haoka\"\nuser_id = \"u\"\nsecret = \"s\"\n\
             base_url = \"http://{}\"\n",
            vendor.local_addr().unwrap()
        );
        let level = "telemetry.log_level = \"trace\"\n";
        let path = write(&directory, &format!("{LISTEN}{level}{account}"));
        let (reader, writer) = std::io::pipe().unwrap();
        let command = command(["serve", "--config", &path]);
        let child = Child::start_into(command, Stdio::piped(), Stdio::from(writer));
        let mut log = BufReader::new(reader);
        let mut line = String::new();
        while !line.contains("\"listening\"") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0);
        }
        let line: Value = serde_json::from_str(&line).unwrap();
        let [address, admin_address] =
            ["address", "admin_address"].map(|name| line[name].as_str().unwrap().parse().unwrap());
        let client = bare_client(address);
        Self { child, log, address, admin_address, client, vendor, _directory: directory }
    }

    /// Makes this many calls, each of which logs [`LINES`] lines. All are answered.
    async fn flood(&self, calls: usize) {
        for _ in 0..calls {
            let order = |number| OrderRef {
                provider: Provider::Haoka.into(),
                id: format!("a/{number}"),
                ..OrderRef::default()
            };
            let orders = (1..LINES).map(order).collect();
            let request = BatchGetOrdersRequest { orders, ..Default::default() };
            let mut client = self.client.clone();
            let answer = timeout(PATIENCE, client.batch_get_orders(request)).await.unwrap();
            assert_eq!(answer.unwrap().into_inner().results.len(), LINES - 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unread_log_blocks_no_call_and_reports_lost_lines() {
    let unread = Unread::start();
    // Far more than the pipe and the queue hold.
    unread.flood(60).await;
    // Before the log is read.
    let page = page_at(unread.admin_address).await;
    let counted = value(&page, "order_query_log_lines_lost_total").unwrap();
    assert!(counted > 0.0, "{page}");
    let mut log = Lines::of(unread.log);
    let lost: Value = serde_json::from_str(&log.with("\"lost\"")).unwrap();
    assert_eq!(lost["level"], "WARN");
    unread.child.signal("TERM");
    let ended = tokio::task::spawn_blocking(move || unread.child.end());
    assert_eq!(timeout(PATIENCE, ended).await.unwrap().unwrap().code, Some(0));
    let lines: Vec<Value> =
        log.rest().lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let written = lines.iter().filter(|line| line.get("method").is_some()).count();
    let lost = usize::try_from(lost["lost"].as_u64().unwrap()).unwrap();
    assert!(lost > 0 && written > 0);
    assert_eq!(written + lost, 60 * LINES);
    assert_eq!(lines.last().unwrap()["message"], "stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_that_cannot_be_written_are_counted() {
    const { assert!(3 * LINES == 303) };
    let mut unread = Unread::start();
    // The other end of the log's pipe is closed.
    drop(std::mem::replace(&mut unread.log, BufReader::new(std::io::pipe().unwrap().0)));
    unread.flood(3).await;
    let all_counted = async {
        loop {
            let page = page_at(unread.admin_address).await;
            let lost = value(&page, "order_query_log_lines_lost_total").unwrap();
            if lost >= 303.0 {
                return;
            }
        }
    };
    timeout(PATIENCE, all_counted).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unread_log_does_not_block_shutdown() {
    for (signals, code) in [(1, 0), (2, 1)] {
        let unread = Unread::start();
        // More than the pipe holds.
        unread.flood(5).await;
        let mut client = unread.client.clone();
        let asking = async move { client.get_order(question(Provider::Haoka, "hangs")).await };
        let asking = (signals == 2).then(|| tokio::spawn(asking));
        let Unread { child, log, vendor, address, .. } = unread;
        let mut silent = None;
        if asking.is_some() {
            // With a call in flight, only a second signal stops it now.
            let asked = tokio::task::spawn_blocking(move || vendor.accept().unwrap());
            silent = Some(timeout(PATIENCE, asked).await.unwrap().unwrap());
        }
        child.signal("TERM");
        if asking.is_some() {
            // The log cannot show that it has the first one; but it stops accepting then.
            while tokio::net::TcpStream::connect(address).await.is_ok() {}
            child.signal("TERM");
        }
        let ended = tokio::task::spawn_blocking(move || child.end());
        assert_eq!(timeout(PATIENCE, ended).await.unwrap().unwrap().code, Some(code));
        drop((log, silent));
    }
}
