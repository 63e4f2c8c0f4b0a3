//! Limits of connections: the time until they speak, and their number.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;

use super::{Frames, GOAWAY, PREFACE, RESET, closes, dial, frame, say};
use crate::support::authority::Authority;
use crate::support::child::{self, Child, PATIENCE, Serving};
use crate::support::{connect, raw, serve};

const HAOKA: &str = "[accounts.cards]\nprovider = \"haoka\"\nuser_id = \"agent\"\nsecret = \"s\"\n";

/// The first bytes of a TLS handshake.
const HALF_HANDSHAKE: &[u8] = &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01];

#[test]
fn a_connection_without_a_handshake_is_closed_in_time() {
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    authority.issue(&["localhost"]).write(directory.path());
    let path = directory.path().display();
    let tls = format!(
        "[server.tls]\ncert_file = \"{path}/tls.crt\"\nkey_file = \"{path}/tls.key\"\n{HAOKA}"
    );
    let plain = Serving::start(HAOKA);
    let encrypted = Serving::start(&tls);
    let mut half_settings = PREFACE.to_vec();
    // A SETTINGS frame that promises one setting, and stops before it.
    half_settings.extend([0, 0, 6, 4, 0, 0, 0, 0, 0]);
    let all: Vec<TcpStream> = [
        (&plain, &b""[..]),
        (&plain, &PREFACE[..12]),
        (&plain, PREFACE),
        (&plain, &half_settings),
        (&plain, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"),
        (&encrypted, b""),
        (&encrypted, HALF_HANDSHAKE),
    ]
    .into_iter()
    .map(|(server, bytes)| say(server.address, bytes))
    .chain([dial(plain.admin_address), say(encrypted.admin_address, PREFACE)])
    .collect();
    // One after the other: all have been waiting since the start.
    all.into_iter().for_each(closes);
}

/// Whether a new connection is accepted and served.
async fn serves(address: SocketAddr) -> bool {
    let mut health = HealthClient::new(connect(address).await);
    health.check(HealthCheckRequest::default()).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn excess_connections_are_closed_at_once_and_probes_are_not() {
    let mut server = Serving::start(&format!("server.max_connections = 2\n{HAOKA}"));
    let crowd = [say(server.address, PREFACE), say(server.address, PREFACE)];
    for _ in 0..3 {
        closes(dial(server.address));
    }
    let line = server.child.err.with("the limit max_connections is reached");
    assert!(line.contains("\"listener\":\"server\",\"open\":2"), "{line}");
    assert!(serves(server.admin_address).await);
    drop(crowd);
    // The server notices a little later that they have closed.
    let let_in = async { while !serves(server.address).await {} };
    tokio::time::timeout(PATIENCE, let_in).await.unwrap();
    let ended = server.stop();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let told = ended.err.matches("the limit max_connections is reached").count();
    assert_eq!(told, 1, "once, and not again for each");
}

/// The processor time that a process has used, in ticks of 10 ms.
fn processor_time(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn without_file_descriptors_the_server_waits_without_spinning() {
    let directory = tempfile::tempdir().unwrap();
    let path = child::write(&directory, &format!("{}{HAOKA}", child::LISTEN));
    let binary = child::command(["serve", "--config", &path]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 40; exec \"$@\"", "sh"]);
    limited.arg(binary.get_program()).args(binary.get_args());
    let mut child = Child::start(limited);
    let line: serde_json::Value = serde_json::from_str(&child.err.with("listening")).unwrap();
    let address = line["address"].as_str().unwrap().parse().unwrap();
    let crowd: Vec<TcpStream> = (0..60).map(|_| dial(address)).collect();
    child.err.with("connections cannot be accepted");
    let before = processor_time(child.id());
    thread::sleep(Duration::from_secs(1));
    let used = processor_time(child.id()) - before;
    assert!(used < 20, "{used} of 100 ticks: it spins");
    drop(crowd);
    let command = child::command(["health", "--endpoint", &format!("http://{address}")]);
    let answered = Child::start(command).end();
    assert_eq!(answered.code, Some(0), "{answered:?}");
    child.signal("INT");
    child.signal("INT");
    let ended = child.end();
    assert_eq!(ended.err.matches("connections cannot be accepted").count(), 1, "{}", ended.err);
}

/// A connection has a maximum number of concurrent calls.
#[tokio::test]
async fn streams_and_headers_are_limited() {
    let server = Serving::start(HAOKA);
    let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let (client, mut connection) = h2::client::handshake(stream).await.unwrap();
    let (tell, mut told) = mpsc::channel(1);
    let driver = tokio::spawn(async move {
        let settings = std::future::poll_fn(|context| {
            let polled = connection.poll_unpin(context);
            assert!(polled.is_pending(), "{polled:?}");
            match connection.max_concurrent_send_streams() {
                streams if streams < usize::MAX => std::task::Poll::Ready(streams),
                _ => std::task::Poll::Pending,
            }
        });
        tell.send(settings.await).await.unwrap();
        connection.await
    });
    let streams = tokio::time::timeout(PATIENCE, told.recv()).await.unwrap();
    assert_eq!(streams, Some(256));
    let mut client = client.ready().await.unwrap();
    let long = "x".repeat(4000);
    for (headers, value, status) in
        [(3, &*long, 415), (5, &*long, 431), (100, "x", 415), (101, "x", 431)]
    {
        let path = "http://localhost/orderquery.v1.OrderService/GetOrder";
        let mut request = http::Request::post(path);
        for i in 0..headers {
            request = request.header(format!("x-{i}"), value);
        }
        let (answer, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
        let answer = tokio::time::timeout(PATIENCE, answer).await.unwrap();
        assert_eq!(answer.unwrap().status(), status, "{headers} of {} bytes", value.len());
    }
    driver.abort();
}

/// A stream's first frame, either valid or with a stream error.
fn headers(stream: u32, is_fine: bool) -> Vec<u8> {
    const HEADERS: u8 = 1;
    // POST http /, and a header that HTTP/2 does not have.
    let block: &[u8] =
        if is_fine { b"\x83\x86\x84" } else { b"\x83\x86\x84\x00\x0aconnection\x01x" };
    frame(HEADERS, 4, stream, block)
}

#[test]
fn a_flood_of_stream_resets_ends_the_connection() {
    const ENHANCE_YOUR_CALM: [u8; 4] = [0, 0, 0, 11];
    let server = Serving::start(HAOKA);
    for by_peer in [false, true] {
        let mut bytes = [PREFACE, &frame(4, 0, 0, &[])].concat();
        for call in 0..2000 {
            let stream = call * 2 + 1;
            bytes.extend(headers(stream, by_peer));
            if by_peer {
                bytes.extend(frame(RESET, 0, stream, &[0, 0, 0, 8]));
            }
        }
        let stream = say(server.address, &bytes);
        let last = Frames::of(stream).filter(|frame| frame.kind == GOAWAY).last();
        assert_eq!(
            last.expect("a GOAWAY").payload[4..8],
            ENHANCE_YOUR_CALM,
            "by the peer: {by_peer}"
        );
    }
}

/// Starts HTTP/2 correctly, and replies to nothing from then on.
#[tokio::test(start_paused = true)]
async fn a_connection_without_keepalive_replies_is_closed() {
    let address = serve(Routes::default(), CancellationToken::new()).await;
    let mut silent = tokio::net::TcpStream::connect(address).await.unwrap();
    silent.write_all(&[PREFACE, &frame(4, 0, 0, &[])].concat()).await.unwrap();
    let begin = Instant::now();
    // Tokio's time is paused: it advances when every task is idle.
    silent.read_to_end(&mut Vec::new()).await.unwrap();
    let open = begin.elapsed();
    assert!((80..120).contains(&open.as_secs()), "{open:?}; its age would be an hour");
}

/// Health and reflection need no authentication, so their requests are bounded like calls.
#[tokio::test]
async fn unauthenticated_requests_are_bounded_in_size_and_time() {
    let server = Serving::start(&format!(
        "server.request_timeout = \"100ms\"\nserver.reflection = true\n{HAOKA}"
    ));
    let grpc = [("content-type", "application/grpc")];
    for address in [server.address, server.admin_address] {
        let ask = async |method: &str, body| {
            let path = format!("/grpc.health.v1.Health/{method}");
            let answer = raw(address, &path, &grpc, body);
            tokio::time::timeout(PATIENCE, answer).await.expect("an answer in time")
        };
        // The length prefix of a message.
        let too_large = [&[0][..], &(64 * 1024 + 1_u32).to_be_bytes()].concat();
        for method in ["Check", "Watch"] {
            let refused = ask(method, Some(too_large.clone())).await;
            assert_eq!(refused.headers()["grpc-status"], "11", "{method}: OUT_OF_RANGE");
            assert_eq!(ask(method, None).await.status(), 408, "{method}");
        }
    }
    let mut client = ServerReflectionClient::new(connect(server.address).await)
        .max_encoding_message_size(1024 * 1024);
    let mut answers = async |host: usize| {
        let message_request = Some(MessageRequest::ListServices(String::new()));
        let request = ServerReflectionRequest { host: "x".repeat(host), message_request };
        let answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap();
        answers.into_inner().message().await.is_ok_and(|answer| answer.is_some())
    };
    assert!(answers(64 * 1000).await);
    assert!(!answers(64 * 1024).await);
}
