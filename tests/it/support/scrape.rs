//! The metrics page, as a scraper reads it.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::child::{PATIENCE, Serving};

/// The response to a request's first lines over HTTP/1.1; empty if the connection is closed.
pub async fn http1(address: SocketAddr, head: &str) -> String {
    http1_over(TcpStream::connect(address).await.unwrap(), head).await
}

async fn http1_over(mut stream: TcpStream, head: &str) -> String {
    let request = format!("{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // After a reset no more data follows.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

pub async fn page(server: &Serving) -> String {
    page_at(server.admin_address).await
}

/// The page of that admin listener, as a scraper gets it.
pub async fn page_at(admin_address: SocketAddr) -> String {
    let answer = http1(admin_address, "GET /metrics").await;
    let (head, page) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    page.to_owned()
}

/// The value of a series; `None` where it is absent.
pub fn value(page: &str, series: &str) -> Option<f64> {
    let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|value| value.parse().unwrap())
}

/// Fails if the page does not contain these lines.
#[track_caller]
pub fn assert_reported(page: &str, lines: &[&str]) {
    let missing: Vec<_> =
        lines.iter().filter(|wanted| page.lines().all(|line| line != **wanted)).collect();
    assert!(missing.is_empty(), "{missing:#?} is not in\n{page}");
}

/// Waits until the page contains these lines: a call is counted once it has ended completely.
pub async fn until_reported(server: &Serving, lines: &[&str]) -> String {
    let mut last = String::new();
    let told = async {
        loop {
            last = page(server).await;
            if lines.iter().all(|wanted| last.lines().any(|line| line == *wanted)) {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    let in_time = timeout(PATIENCE, told).await.is_ok();
    assert!(in_time, "{lines:#?} is never in\n{last}");
    last
}
