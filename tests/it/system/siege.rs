//! All attacks on memory, permits and probes at once, against the real binary with the settings of
//! `deploy/base`. `make siege` runs it for a minute; `make test` for some seconds.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::Request;
use h2::client::SendRequest;
use order_query::pb::{BatchGetOrdersRequest, GetOrderRequest, OrderRef, Provider};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::child::Serving;
use crate::support::played::{Asked, Played, answer};
use crate::support::{bare_client, connect, frame_of, peak_memory};
use crate::system::memory::documented;

/// The peak memory that the server may reach.
const MEMORY: u64 = 256 << 20;

/// The tokens of the caller that attacks, and of the one that does not.
const HOSTILE: &str = "token-of-the-hostile-one";
const FRIENDLY: &str = "token-of-the-friendly-one";

/// How long the siege lasts.
fn duration() -> Duration {
    let seconds = std::env::var("SIEGE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(6))
}

/// A Dingshang server that misbehaves as the order's id states.
async fn bad_vendor() -> Played {
    let item = r#"{"id":70,"product_id":121,"quantity":1,"price":"2.50","status":"IS_SUCCESS"}"#;
    let order = |items: String| {
        format!(
            r#"{{"code":0,"data":{{"order_id":1,"date":"2024-04-26","amount":"2.50","status":"SUCCESS","records":[{items}]}}}}"#
        )
    };
    let large = order(vec![item; 1000].join(","));
    let too_large = order(vec![item; 2900].join(","));
    let empty = order(vec!["{}"; 60_000].join(","));
    let small = order(item.to_owned());
    Played::start(move |asked: Asked| {
        let id = asked.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
        let body = match id.as_bytes().first() {
            Some(b'1') => large.clone(),
            Some(b'2') => too_large.clone(),
            Some(b'3') => empty.clone(),
            _ => small.clone(),
        };
        // The vendor echoes the requested id.
        let body = body.replacen("\"order_id\":1", &format!("\"order_id\":{id}"), 1);
        async move {
            if id.starts_with('4') {
                sleep(Duration::from_secs(2)).await;
            }
            answer(200, body)
        }
    })
    .await
}

async fn good_vendor() -> Played {
    let text = r#"{"code":0,"data":{"orderNo":"1","orderStatus":"已发货"}}"#;
    Played::start(move |_| async move { answer(200, text) }).await
}

/// A raw HTTP/2 connection with this receive window for each stream.
async fn raw_http2(address: SocketAddr, window: u32) -> Option<SendRequest<Bytes>> {
    let stream = TcpStream::connect(address).await.ok()?;
    let handshake = h2::client::Builder::new().initial_window_size(window).handshake(stream);
    let (client, connection) = handshake.await.ok()?;
    tokio::spawn(connection);
    client.ready().await.ok()
}

fn post(path: &str) -> axum::http::request::Builder {
    Request::post(format!("http://localhost{path}")).header("content-type", "application/grpc")
}

/// Many incomplete requests, whose headers HPACK expands.
async fn half_sent(address: SocketAddr) {
    let long = "x".repeat(3500);
    loop {
        let Some(mut client) = raw_http2(address, 65_535).await else { continue };
        let mut open = Vec::new();
        for _ in 0..256 {
            let mut request = post("/grpc.health.v1.Health/Check");
            for number in 0..4 {
                request = request.header(format!("x-{number}"), &long);
            }
            let Ok(()) = std::future::poll_fn(|context| client.poll_ready(context)).await else {
                break;
            };
            let Ok(stream) = client.send_request(request.body(()).unwrap(), false) else { break };
            open.push(stream);
        }
        sleep(Duration::from_secs(4)).await;
    }
}

/// As many health watches as are accepted.
async fn health_watches(address: SocketAddr) {
    let Some(mut client) = raw_http2(address, 65_535).await else { return };
    let mut open = Vec::new();
    for _ in 0..256 {
        let request = post("/grpc.health.v1.Health/Watch").body(()).unwrap();
        let Ok(()) = std::future::poll_fn(|context| client.poll_ready(context)).await else {
            break;
        };
        let Ok((answer, mut body)) = client.send_request(request, false) else { break };
        let _ = body.send_data(frame_of(&HealthCheckRequest::default()), true);
        open.push((answer, body));
    }
    std::future::pending::<()>().await;
}

/// Batches whose answers are never read.
async fn untaken_batches(address: SocketAddr) {
    let order = OrderRef {
        provider: Provider::Dingshang.into(),
        id: "17".to_owned(),
        ..OrderRef::default()
    };
    let batch = frame_of(&BatchGetOrdersRequest { orders: vec![order; 40], ..Default::default() });
    loop {
        let Some(mut client) = raw_http2(address, 0).await else { continue };
        let mut open = Vec::new();
        for _ in 0..250 {
            let request = post("/orderquery.v1.OrderService/BatchGetOrders")
                .header("authorization", format!("Bearer {HOSTILE}"));
            let Ok(()) = std::future::poll_fn(|context| client.poll_ready(context)).await else {
                break;
            };
            let Ok((answer, mut body)) = client.send_request(request.body(()).unwrap(), false)
            else {
                break;
            };
            let _ = body.send_data(batch.clone(), true);
            open.push((answer, body));
        }
        sleep(Duration::from_secs(3)).await;
    }
}

fn with_token<T>(message: T, token: &str) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

/// Orders that are large, too large, mostly empty, or late: of each kind `a_second`.
async fn bad_orders(address: SocketAddr, kind: u64, a_second: u32) {
    let mut calls = JoinSet::new();
    let client = bare_client(address);
    for number in 0.. {
        let id = (kind * 1_000_000 + number).to_string();
        let question = GetOrderRequest {
            provider: Provider::Dingshang.into(),
            id,
            ..GetOrderRequest::default()
        };
        let mut client = client.clone();
        calls.spawn(async move { client.get_order(with_token(question, HOSTILE)).await.is_ok() });
        while calls.try_join_next().is_some() {}
        sleep(Duration::from_secs(1) / a_second).await;
    }
}

/// Connections to the admin listener that are idle, or request pages that they do not read.
async fn crowd_of_probes(address: SocketAddr) {
    let mut open = Vec::new();
    loop {
        for window in [0, 65_535] {
            let Some(mut client) = raw_http2(address, window).await else { continue };
            if window == 0 {
                for _ in 0..40 {
                    let request = Request::get("http://localhost/metrics").body(()).unwrap();
                    let Ok((answer, _)) = client.send_request(request, true) else { break };
                    open.push(Err(answer));
                }
            }
            open.push(Ok(client));
        }
        if open.len() > 10_000 {
            open.clear();
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// How many calls were made, and how many of them were answered.
#[derive(Default)]
struct Tally {
    asked: AtomicUsize,
    answered: AtomicUsize,
}

impl Tally {
    fn count(&self, answered: bool) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.answered.fetch_add(usize::from(answered), Ordering::Relaxed);
    }

    fn get(&self) -> (usize, usize) {
        (self.asked.load(Ordering::Relaxed), self.answered.load(Ordering::Relaxed))
    }
}

/// A probe as a kubelet makes it: on its own connection.
async fn probes(address: SocketAddr, tally: Arc<Tally>) {
    loop {
        let probe = async {
            let mut health = HealthClient::new(connect(address).await);
            health.check(HealthCheckRequest { service: "liveness".to_owned() }).await.is_ok()
        };
        tally.count(timeout(Duration::from_secs(5), probe).await.unwrap_or(false));
        sleep(Duration::from_millis(200)).await;
    }
}

async fn friendly_calls(address: SocketAddr, tally: Arc<Tally>) {
    let mut client = bare_client(address);
    for number in 0.. {
        let question = GetOrderRequest {
            provider: Provider::Haoka.into(),
            id: format!("A{}", number % 20),
            ..GetOrderRequest::default()
        };
        let mut request = with_token(question, FRIENDLY);
        request.metadata_mut().insert("grpc-timeout", "5S".parse().unwrap());
        tally.count(client.get_order(request).await.is_ok());
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_attacks_exhaust_neither_memory_nor_permits_nor_probes() {
    let (bad, good) = (bad_vendor().await, good_vendor().await);
    let directory = tempfile::tempdir().unwrap();
    let server = Serving::start(&format!(
        "store.url = \"file:{}/orders.redb\"\n\
         [clients.hostile]\ntoken = \"{HOSTILE}\"\n[clients.friendly]\ntoken = \"{FRIENDLY}\"\n\
         [accounts.vending]\nprovider = \"dingshang\"\nbase_url = \"{}\"\napp_id = \"d\"\n\
         app_secret = \"s\"\nmachine_no = \"16327129\"\n\
         [accounts.cards]\nprovider = \"haoka\"\nbase_url = \"{}\"\nuser_id = \"u\"\nsecret = \"s\"\n",
        directory.path().display(),
        bad.url(),
        good.url()
    ));
    let (of_probes, of_calls) = (Arc::<Tally>::default(), Arc::<Tally>::default());
    // On separate threads, so that a late probe is the server's fault.
    let threads =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let (threads, mut attackers) = (threads.unwrap(), JoinSet::new());
    let attack = threads.handle();
    for _ in 0..20 {
        attackers.spawn_on(half_sent(server.address), attack);
    }
    for _ in 0..100 {
        attackers.spawn_on(health_watches(server.address), attack);
    }
    attackers.spawn_on(untaken_batches(server.address), attack);
    for (kind, a_second) in [(1, 20), (2, 20), (3, 20), (4, 120)] {
        attackers.spawn_on(bad_orders(server.address, kind, a_second), attack);
    }
    attackers.spawn_on(crowd_of_probes(server.admin_address), attack);
    let mut others = JoinSet::new();
    others.spawn(probes(server.admin_address, Arc::clone(&of_probes)));
    others.spawn(friendly_calls(server.address, Arc::clone(&of_calls)));
    let end = Instant::now() + duration();
    while Instant::now() < end {
        sleep(Duration::from_secs(1)).await;
        assert!(attackers.len() > 20, "the attackers are gone");
    }
    let peak = peak_memory(server.child.id());
    others.abort_all();
    attackers.abort_all();
    threads.shutdown_background();
    let ((asked, told), (calls, answered)) = (of_probes.get(), of_calls.get());
    println!("probes: {told} of {asked}; calls: {answered} of {calls}; peak: {} MiB", peak >> 20);
    assert!(asked > 0 && told == asked, "{told} of {asked} probes were answered");
    assert!(calls > 0 && answered * 100 >= calls * 99, "{answered} of {calls} calls were answered");
    assert!(peak <= MEMORY.min(documented()), "{} MiB", peak >> 20);
}
