//! The memory of a pod as docs/operations.md computes it, and ordinary use within that: no request of a
//! well-behaved caller is shed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use order_query::pb::order_result::Result as Outcome;
use order_query::pb::{BatchGetOrdersRequest, OrderRef, Provider, WatchOrderRequest};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_rustls::{TlsConnector, rustls};

use crate::support::authority::{self, Authority, BOTH};
use crate::support::child::Serving;
use crate::support::played::{Played, answer};
use crate::support::{bare_client, memory, question};

const OPERATIONS: &str = include_str!("../../../docs/operations.md");
const DEPLOYMENT: &str = include_str!("../../../deploy/base/deployment.yaml");

const MIB: u64 = 1 << 20;

/// The rows of the table in docs/operations.md: the part, and how many MiB it takes at most.
fn rows() -> Vec<(&'static str, u64)> {
    let (_, section) = OPERATIONS.split_once("\n### Memory\n").unwrap();
    let lines = section.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
    lines
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            (cells[0], cells[2].parse().unwrap())
        })
        .collect()
}

/// The bytes of the row with this prefix.
fn row(begin: &str) -> u64 {
    rows().into_iter().find(|(what, _)| what.starts_with(begin)).unwrap().1 * MIB
}

/// All rows together, in bytes.
pub fn documented() -> u64 {
    rows().iter().map(|(_, mib)| mib * MIB).sum()
}

/// The number between these two texts.
fn number(text: &str, before: &str, after: &str) -> u64 {
    let (_, rest) = text.split_once(before).unwrap();
    rest.split_once(after).unwrap().0.parse().unwrap()
}

#[test]
fn the_documented_memory_adds_up_and_fits_the_pod_limit() {
    let sum = documented() / MIB;
    assert_eq!(number(OPERATIONS, "\nThat is ", " MiB, and the manifests allow"), sum);
    let limit = number(DEPLOYMENT, "limits: {memory: ", "Mi}");
    assert_eq!(number(OPERATIONS, " MiB, and the manifests allow ", "."), limit);
    assert!(sum <= limit, "{sum} MiB of {limit}");
}

/// A vendor that has every order, without limits.
async fn vendor() -> Played {
    Played::start(move |asked| async move {
        sleep(Duration::from_millis(50)).await;
        let id = asked.uri.path().rsplit('/').next().unwrap_or_default();
        let order = format!(
            r#"{{"order_id":{id},"date":"2024-04-26","amount":"2.50","status":"SUCCESS","records":[]}}"#
        );
        answer(200, format!(r#"{{"code":0,"data":{order}}}"#))
    })
    .await
}

fn vending(vendor: &Played) -> String {
    format!(
        "[accounts.vending]\nprovider = \"dingshang\"\nbase_url = \"{}\"\napp_id = \"d\"\n\
         app_secret = \"s\"\nmachine_no = \"16327129\"\n",
        vendor.url()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_use_no_more_memory_than_documented() {
    const OPEN: u64 = 300;
    const ALLOWED: u64 = 1024 + 100;
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    authority.issue(&["localhost"]).write(directory.path());
    let path = directory.path().display();
    let vendor = vendor().await;
    let server = Serving::start(&format!(
        "[server.tls]\ncert_file = \"{path}/tls.crt\"\nkey_file = \"{path}/tls.key\"\n{}",
        vending(&vendor)
    ));
    let mut config = authority::client(&authority.pem, BOTH, None);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let before = memory(server.child.id());
    let mut open = Vec::new();
    for _ in 0..OPEN {
        let stream = TcpStream::connect(server.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = connector.connect(name, stream).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        open.push(client.ready().await.unwrap());
    }
    let each = memory(server.child.id()).saturating_sub(before) / OPEN;
    println!("{} KiB a connection", each / 1024);
    assert!(each * ALLOWED <= row("connections"), "{each} bytes a connection");
}

fn order(id: String) -> OrderRef {
    OrderRef { provider: Provider::Dingshang.into(), id, ..OrderRef::default() }
}

async fn watches(address: SocketAddr, from: u32, count: u32) -> usize {
    let client = bare_client(address);
    let open = (from..from + count).map(|number| {
        let mut client = client.clone();
        async move {
            let order = Some(order((number % 100 + 1).to_string()));
            let mut news = client
                .watch_order(WatchOrderRequest { order, ..Default::default() })
                .await?
                .into_inner();
            news.message().await?;
            Ok::<_, tonic::Status>(news)
        }
    });
    let open = try_join_all(open).await.unwrap();
    // They stay open until the test ends.
    let count = open.len();
    tokio::spawn(async move {
        let _open = open;
        std::future::pending::<()>().await;
    });
    count
}

/// A caller's hundreds of watches share one connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_watches_use_no_more_memory_than_documented() {
    let vendor = vendor().await;
    let server = Serving::start(&vending(&vendor));
    let before = memory(server.child.id());
    let all = join_all((0..4).map(|number| watches(server.address, number * 256, 256))).await;
    assert_eq!(all.iter().sum::<usize>(), 1024);
    let grown = memory(server.child.id()).saturating_sub(before);
    println!("{} KiB a watch", grown / 1024 / 1024);
    // The row includes as many health watches again.
    assert!(grown <= row("watches") / 2, "{grown} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_from_a_large_caller_is_answered() {
    let vendor = vendor().await;
    let server = Serving::start(&vending(&vendor));
    let connections = [(); 3].map(|()| bare_client(server.address));
    let calls =
        (0..256).map(|number| {
            let mut client = connections[number % 3].clone();
            async move {
                client.get_order(question(Provider::Dingshang, &(number + 1).to_string())).await
            }
        });
    let answered = try_join_all(calls).await.unwrap();
    assert_eq!(answered.len(), 256);
    let batches = (0..3).map(|number| {
        let mut client = connections[number].clone();
        let orders = (0..100).map(|place| order((1000 * (number + 1) + place).to_string()));
        let batch = BatchGetOrdersRequest { orders: orders.collect(), ..Default::default() };
        async move { client.batch_get_orders(batch).await }
    });
    for batch in try_join_all(batches).await.unwrap() {
        let results = batch.into_inner().results;
        assert_eq!(results.len(), 100);
        assert!(
            results.iter().all(|one| matches!(one.result, Some(Outcome::Found(_)))),
            "{results:?}"
        );
    }
}
