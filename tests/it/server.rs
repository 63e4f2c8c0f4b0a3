//! The listener from outside: what a connection may take, how it ends, and TLS.

mod aging;
mod drain;
mod limits;
pub mod tls;

use std::error::Error as _;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use order_query::pb::Provider;
use order_query::pb::order_service_client::OrderServiceClient;
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::Channel;

use crate::support::question;

/// How long a test waits for a connection to be ended: less than until a keepalive would do it.
const LONGEST: Duration = Duration::from_secs(30);

/// A bare connection.
fn knock(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).unwrap()
}

/// A bare connection that says something first.
fn say(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = knock(address);
    stream.write_all(bytes).unwrap();
    stream
}

/// Waits until the server ends the connection, whatever it says before.
fn closes(mut stream: TcpStream) {
    let mut said = [0; 1024];
    let end = Instant::now() + LONGEST;
    loop {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left)).unwrap();
        match stream.read(&mut said) {
            Ok(0) => return,
            Ok(_) => {}
            // A reset is an end as well.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
            Err(error) => panic!("it is still open: {error}"),
        }
    }
}

/// Asks for an order as gRPC wants it from clients: a call that the server has not seen, because
/// its connection was ended just then, is made again over the next one. tonic's client leaves that
/// to its user.
async fn ask(client: &mut OrderServiceClient<Channel>) {
    loop {
        match client.get_order(question(Provider::Haoka, "settled")).await {
            Ok(_) => return,
            Err(status) => assert!(unseen(&status), "a call was lost: {status:?}"),
        }
    }
}

/// Whether the call was never sent, or was refused by the GOAWAY that ends a connection.
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
