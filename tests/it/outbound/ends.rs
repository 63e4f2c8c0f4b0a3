//! Answers whose connection ends before HTTP marks them as complete.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::sent::{ONCE, reasons};
use crate::support::authority::Authority;
use crate::support::facts::{ANSWER, accounts};
use crate::support::secured::acceptor;

/// A vendor that answers token calls correctly, and everything else with these bytes; then its
/// connection ends, over TLS without `close_notify`.
async fn vendor(tls: Option<TlsAcceptor>, bytes: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            match &tls {
                None => answer(&mut stream, &bytes).await,
                Some(tls) => {
                    let mut stream = tls.accept(stream).await.unwrap();
                    answer(&mut stream, &bytes).await;
                    stream.get_mut().0.shutdown().await.unwrap();
                }
            }
        }
    });
    address
}

async fn answer(
    stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin),
    bytes: &[u8],
) {
    let mut stream = BufReader::new(stream);
    let (mut path, mut line, mut length) = (String::new(), String::new(), 0);
    stream.read_line(&mut path).await.unwrap();
    while line != "\r\n" {
        line.clear();
        stream.read_line(&mut line).await.unwrap();
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    stream.read_exact(&mut vec![0; length]).await.unwrap();
    let token = http("200 OK", &format!("content-length: {}", ANSWER.len()), &ANSWER);
    let bytes = if path.contains("/cgi-bin/") { &token } else { bytes };
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
}

fn http(status: &str, header: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nconnection: close\r\n{header}\r\n\r\n{body}").into_bytes()
}

#[tokio::test]
async fn a_complete_response_is_read_however_its_connection_ends() {
    const FINE: [&str; 2] = ["", "PROVIDER_QUOTA_EXHAUSTED"];
    const CUT: [&str; 2] = ["PROVIDER_UNAVAILABLE", "PROVIDER_QUOTA_EXHAUSTED"];
    const TOO_OFTEN: [&str; 2] = ["PROVIDER_QUOTA_EXHAUSTED"; 2];
    let longer = |body: &str| format!("content-length: {}", body.len() + 2);
    let chunked = "transfer-encoding: chunked";
    let chunk = |body: &str| format!("{:x}\r\n{body}\r\n", body.len());
    let half = &ANSWER[..ANSWER.len() - 2];
    let more = format!("{}x", ANSWER.as_str());
    // The last: whether a connection without TLS ends as abruptly.
    let cases = [
        ("whole", http("200 OK", "x: y", ANSWER.as_str()), FINE, false),
        ("half", http("200 OK", "x: y", half), CUT, false),
        ("nothing", http("200 OK", "x: y", ""), CUT, false),
        ("a number", http("200 OK", "x: y", "12"), CUT, false),
        ("a page", http("200 OK", "x: y", "<html>"), CUT, false),
        ("more than whole", http("200 OK", "x: y", &more), CUT, false),
        ("less than promised, whole", http("200 OK", &longer(&ANSWER), &ANSWER), FINE, true),
        ("less than promised", http("200 OK", &longer(half), half), CUT, true),
        ("no last chunk, whole", http("200 OK", chunked, &chunk(&ANSWER)), FINE, true),
        ("no last chunk", http("200 OK", chunked, &chunk(half)), CUT, true),
        ("half a chunk", http("200 OK", chunked, &format!("ff\r\n{half}")), CUT, true),
        ("too often", http("429 Slow Down", "retry-after: 30", "<html>"), TOO_OFTEN, false),
        ("too often, less", http("429 Slow Down", &longer("<"), "<"), TOO_OFTEN, true),
        ("busy", http("503 Busy", "x: y", "<html>"), CUT, false),
    ];
    let authority = Authority::new();
    let directory = tempfile::tempdir().unwrap();
    let pem = directory.path().join("ca.pem");
    std::fs::write(&pem, &authority.pem).unwrap();
    let more = format!("timeout = \"1m\"\n{ONCE}\nca_file = \"{}\"", pem.display());
    for (case, bytes, expected, without_tls) in cases {
        let secured = vendor(Some(acceptor(&authority.issue(&["127.0.0.1"]))), bytes.clone()).await;
        let mut urls = vec![format!("https://{secured}")];
        if without_tls {
            urls.push(format!("http://{}", vendor(None, bytes).await));
        }
        for url in urls {
            for (provider, reasons) in reasons(&accounts(&url, &more)).await {
                assert_eq!(reasons, expected, "{case}, {}: {provider:?}", &url[..5]);
            }
        }
    }
}
