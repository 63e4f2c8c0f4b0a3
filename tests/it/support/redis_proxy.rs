//! A proxy between a store and its server that can drop replies, and switch servers. Used
//! by the tests of the shared store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};

/// A proxy to a server.
pub struct Line {
    pub port: u16,
    server: Arc<AtomicU16>,
    deaf: Arc<AtomicBool>,
}

impl Line {
    /// A proxy to the server at this port.
    pub async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let deaf = Arc::new(AtomicBool::new(false));
        let server = Arc::new(AtomicU16::new(server));
        let (loses, leads_to) = (Arc::clone(&deaf), Arc::clone(&server));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = ("127.0.0.1", leads_to.load(Ordering::SeqCst));
                // While the server is down, a connection ends at once.
                if let Ok(far) = TcpStream::connect(far).await {
                    tokio::spawn(carry(near, far, Arc::clone(&loses)));
                }
            }
        });
        Self { port, server, deaf }
    }

    /// From here on new connections go to the server at this port.
    pub fn lead_to(&self, server: u16) {
        self.server.store(server, Ordering::SeqCst);
    }

    /// From here on requests arrive, and replies do not.
    pub fn lose_answers(&self, lose: bool) {
        self.deaf.store(lose, Ordering::SeqCst);
    }
}

async fn carry(near: TcpStream, far: TcpStream, deaf: Arc<AtomicBool>) {
    let (mut near_in, mut near_out) = near.into_split();
    let (mut far_in, mut far_out) = far.into_split();
    tokio::spawn(async move { copy(&mut near_in, &mut far_out).await });
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = far_in.read(&mut bytes).await {
        if !deaf.load(Ordering::SeqCst) && near_out.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
