//! TLS client hellos of unauthenticated peers.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use crate::support::authority::{Authority, settings};
use crate::support::child::{PATIENCE, Serving};

const HAOKA: &str = "[accounts.cards]\nprovider = \"haoka\"\nuser_id = \"agent\"\nsecret = \"s\"\n";

/// Invalid host names.
fn illegal_names() -> Vec<Vec<u8>> {
    vec![
        b"10.1.2.3".to_vec(),
        b"2001:db8::1".to_vec(),
        b"_a_stranger's_name_".to_vec(),
        b"a stranger.example".to_vec(),
        b"stranger\r\n{\"level\":\"ERROR\"}\x1b[31m\x00\x7f".to_vec(),
        "陌生人".as_bytes().to_vec(),
        vec![0xff; 300],
        vec![b'='; 60_000],
    ]
}

/// The content, prefixed with its length in `width` bytes.
fn sized(width: usize, content: &[u8]) -> Vec<u8> {
    let length = u64::try_from(content.len()).unwrap().to_be_bytes();
    [&length[8 - width..], content].concat()
}

/// A client hello for a host of that name, for TLS 1.2 and 1.3.
fn greeting(name: &[u8]) -> Vec<u8> {
    let extension =
        |kind: u16, content: &[u8]| [&kind.to_be_bytes()[..], &sized(2, content)].concat();
    let host = [&[0][..], &sized(2, name)].concat();
    let extensions = [
        extension(0, &sized(2, &host)),
        extension(10, &sized(2, &[0, 29, 0, 23])),
        extension(13, &sized(2, &[4, 3, 8, 4])),
        extension(43, &sized(1, &[3, 4, 3, 3])),
        extension(51, &sized(2, &[&[0, 29][..], &sized(2, &[9; 32])].concat())),
    ]
    .concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &sized(1, &[]),
        &sized(2, &[0x13, 0x01, 0xc0, 0x2b]),
        &sized(1, &[0]),
        &sized(2, &extensions),
    ]
    .concat();
    let hello = [&[1][..], &sized(3, &body)].concat();
    let records = hello.chunks(16_000).map(|part| [&[22, 3, 1][..], &sized(2, part)].concat());
    records.collect::<Vec<_>>().concat()
}

/// Sends a client hello, reads the reply, and closes in the middle of the handshake.
fn greet(address: SocketAddr, name: &[u8]) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The server may have closed before reading all of it.
    let _ = stream.write_all(&greeting(name));
    let _ = stream.read(&mut [0; 1]);
}

/// The log of a server that got a client hello with each name `times` times, until it is stopped.
fn log_of_flood(log: &str, times: usize) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    Authority::new().issue(&["localhost"]).write(folder.path());
    let server = Serving::start(&format!("{log}{HAOKA}{}", settings(folder.path(), None)));
    for _ in 0..times {
        for name in illegal_names() {
            greet(server.address, &name);
        }
    }
    let log = server.stop().err;
    let (flood, _) = log.split_once("stopping; calls").unwrap();
    flood.lines().map(str::to_owned).collect()
}

#[test]
fn a_flood_of_invalid_client_hellos_logs_a_few_lines() {
    for log in ["", "telemetry.log_level = \"trace\"\n"] {
        let lines = log_of_flood(log, 40);
        let loud: Vec<_> = lines.iter().filter(|line| !line.contains("DEBUG")).collect();
        // It listens, handshakes fail, it stops.
        assert!(loud.len() <= 3, "{loud:?}");
        let failed = loud.iter().filter(|line| line.contains("TLS handshakes fail")).count();
        assert_eq!(failed, 1, "{loud:?}");
        for line in &lines {
            assert!(line.len() < 300 && !line.contains("stranger"), "{line}");
        }
    }
}

/// A library that is named in the log level may log what a peer sends, but truncated.
#[test]
fn library_lines_about_a_peer_are_truncated() {
    for format in ["json", "text"] {
        let log = format!(
            "telemetry.log_format = \"{format}\"\ntelemetry.log_level = \"info,rustls=trace\"\n"
        );
        let lines = log_of_flood(&log, 1);
        let theirs: Vec<_> = lines.iter().filter(|line| line.contains("rustls::")).collect();
        assert!(theirs.len() >= illegal_names().len(), "{lines:?}");
        for line in theirs {
            assert!(line.chars().count() < 600, "{line}");
            assert!(!line.contains(char::is_control), "{line}");
            let Ok(line) = serde_json::from_str::<Value>(line) else {
                assert_eq!(format, "text", "{line}");
                continue;
            };
            let message = line["message"].as_str().unwrap();
            assert!(message.chars().count() <= 201, "{message}");
        }
    }
}
