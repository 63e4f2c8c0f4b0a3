//! The listener from outside: limits of a connection, how it ends, and TLS.

mod aging;
mod authorities;
mod budgets;
mod drain;
mod limits;
mod reflection;
mod stall;
pub mod tls;

use std::error::Error as _;
use std::io::{BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use order_query::pb::Provider;
use order_query::pb::order_service_client::OrderServiceClient;
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::Channel;

use crate::support::child::PATIENCE;
use crate::support::framed;
use crate::support::question;

/// How long a test waits for a connection to end: less than a keepalive timeout.
const LONGEST: Duration = Duration::from_secs(30);

/// The preface of an HTTP/2 client.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The kinds of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const GOAWAY: u8 = 7;

/// The flags `END_STREAM` and `END_HEADERS`.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The frames of a call to that method with this message.
fn call(
    stream: u32,
    authority: Option<&str>,
    method: &str,
    message: &impl prost::Message,
) -> Vec<u8> {
    let path = format!("/orderquery.v1.OrderService/{method}");
    // Literals whose names are in HPACK's static table.
    let literal = |name: &[u8], value: &str| {
        [name, &[u8::try_from(value.len()).unwrap()], value.as_bytes()].concat()
    };
    // POST and http.
    let mut block = vec![0x83, 0x86];
    block.extend(literal(&[0x04], &path));
    block.extend(authority.map(|authority| literal(&[0x01], authority)).unwrap_or_default());
    block.extend(literal(&[0x0f, 0x10], "application/grpc"));
    let body = framed(0, &message.encode_to_vec());
    [frame(HEADERS, END_HEADERS, stream, &block), frame(DATA, END_STREAM, stream, &body)].concat()
}

/// A frame that a server has sent.
#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// The frames that a server sends, until it closes the connection.
struct Frames(BufReader<TcpStream>);

impl Frames {
    fn of(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }
}

impl Iterator for Frames {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        let mut header = [0; 9];
        self.0.read_exact(&mut header).ok()?;
        let [a, b, c, kind, flags, stream @ ..] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.0.read_exact(&mut payload).ok()?;
        Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
    }
}

/// A bare connection.
fn dial(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).unwrap()
}

/// A bare connection that first sends these bytes.
fn say(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = dial(address);
    stream.write_all(bytes).unwrap();
    stream
}

/// Waits until the server closes the connection, whatever it sends before.
fn closes(mut stream: TcpStream) {
    let mut said = [0; 1024];
    let end = Instant::now() + LONGEST;
    loop {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left)).unwrap();
        match stream.read(&mut said) {
            Ok(0) => return,
            Ok(_) => {}
            // A reset closes it as well.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
            Err(error) => panic!("it is still open: {error}"),
        }
    }
}

/// Fetches an order as gRPC requires of clients: a call that the server has not seen, because its
/// connection was just closed, is retried over the next one. tonic's client leaves that to its
/// user.
async fn ask(client: &mut OrderServiceClient<Channel>) {
    loop {
        match client.get_order(question(Provider::Haoka, "settled")).await {
            Ok(_) => return,
            Err(status) => assert!(unseen(&status), "a call was lost: {status:?}"),
        }
    }
}

/// Whether the call was never sent, or was refused by the GOAWAY that closes a connection.
fn unseen(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        let unsent = error.downcast_ref().is_some_and(hyper::Error::is_canceled);
        let refused = error.downcast_ref().is_some_and(|error: &h2::Error| {
            error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR)
        });
        if unsent || refused {
            return true;
        }
        cause = error.source();
    }
    false
}
