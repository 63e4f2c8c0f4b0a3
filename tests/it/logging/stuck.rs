//! A log that nobody reads.

use std::io::{BufRead as _, BufReader, PipeReader};
use std::process::Stdio;

use order_query::pb::order_service_client::OrderServiceClient;
use order_query::pb::{BatchGetOrdersRequest, OrderRef, Provider};
use serde_json::Value;
use tokio::time::timeout;

use crate::child::{Child, LISTEN, Lines, PATIENCE, command, write};
use crate::support::{BareChannel, bare_client};

/// How many lines a call is: one for each order of a batch, and its own.
const LINES: usize = 101;

/// The binary, with a log that nobody reads once it listens.
struct Unread {
    child: Child,
    log: BufReader<PipeReader>,
    client: OrderServiceClient<BareChannel>,
    _directory: tempfile::TempDir,
}

impl Unread {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let account = "[accounts.cards]\nprovider = \"haoka\"\nuser_id = \"u\"\nsecret = \"s\"\n\
                       base_url = \"http://127.0.0.1:1\"\n";
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
        let client = bare_client(line["address"].as_str().unwrap().parse().unwrap());
        Self { child, log, client, _directory: directory }
    }

    /// Makes so many calls, each of which is [`LINES`] lines. All are answered.
    async fn flood(&self, calls: usize) {
        for _ in 0..calls {
            let order = |number| OrderRef {
                provider: Provider::Haoka.into(),
                id: format!("a/{number}"),
                ..OrderRef::default()
            };
            let orders = (1..LINES).map(order).collect();
            let request = BatchGetOrdersRequest { orders, max_age: None };
            let mut client = self.client.clone();
            let answer = timeout(PATIENCE, client.batch_get_orders(request)).await.unwrap();
            assert_eq!(answer.unwrap().into_inner().results.len(), LINES - 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_reads_holds_nobody_up_and_tells_what_it_lost() {
    let unread = Unread::start();
    // Far more than the pipe and the queue hold.
    unread.flood(60).await;
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
async fn a_log_that_nobody_reads_does_not_keep_the_server_from_ending() {
    let unread = Unread::start();
    // More than the pipe holds.
    unread.flood(5).await;
    let Unread { child, log, .. } = unread;
    child.signal("TERM");
    let ended = tokio::task::spawn_blocking(move || child.end());
    assert_eq!(timeout(PATIENCE, ended).await.unwrap().unwrap().code, Some(0));
    drop(log);
}
