//! A simulated vendor's server: a function of the test gives its answers, over plain HTTP or TLS. It
//! records its requests and counts its connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::support::child::PATIENCE;

/// A request that reached the vendor.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// The vendor.
pub struct Played {
    pub address: SocketAddr,
    asked: watch::Receiver<Vec<Asked>>,
    connections: Arc<AtomicUsize>,
}

impl Played {
    /// Starts over plain HTTP.
    pub async fn start<F>(answer: impl Fn(Asked) -> F + Clone + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::start_over(None, answer).await
    }

    /// Starts over TLS, if there is an acceptor.
    pub async fn start_over<F>(
        tls: Option<TlsAcceptor>,
        answer: impl Fn(Asked) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let (record, asked) = watch::channel(Vec::new());
        let router = axum::Router::new().fallback(async move |request: Request<Body>| {
            let (parts, body) = request.into_parts();
            let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
            let asked =
                Asked { method: parts.method, uri: parts.uri, headers: parts.headers, body };
            record.send_modify(|all| all.push(asked.clone()));
            answer(asked).await
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(connection(stream, tls.clone(), router.clone()));
            }
        });
        Self { address, asked, connections }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.borrow().clone()
    }

    /// Waits until this many requests have arrived.
    pub async fn until_asked(&self, times: usize) {
        let mut asked = self.asked.clone();
        let enough = asked.wait_for(|asked| asked.len() >= times);
        tokio::time::timeout(PATIENCE, enough).await.unwrap().unwrap();
    }

    /// The number of connections.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, router: axum::Router) {
    let service = TowerToHyperService::new(router);
    let http = hyper::server::conn::http1::Builder::new();
    // A client that leaves or does not trust us closes its connection: not a failure of the test.
    match tls {
        None => drop(http.serve_connection(TokioIo::new(stream), service).await),
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                drop(http.serve_connection(TokioIo::new(stream), service).await);
            }
        }
    }
}

/// An answer with this status and body.
pub fn answer(status: u16, body: impl Into<Body>) -> Response<Body> {
    Response::builder().status(status).body(body.into()).unwrap()
}
