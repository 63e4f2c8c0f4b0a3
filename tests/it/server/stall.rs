//! A server that stalls for a while, as when its CPU quota is exhausted: calls whose callers give
//! up meanwhile do not affect the others on their connection.

use std::io::Write as _;
use std::net::TcpStream;

use order_query::pb::{OrderRef, Provider, WatchOrderRequest};

use super::{DATA, END_STREAM, Frames, GOAWAY, HEADERS, PREFACE, RESET, call, dial, frame};
use crate::support::child::Serving;
use crate::support::question;

/// The most concurrent calls that one connection may have beside a watch.
const CALLS: u32 = 255;

fn get(stream: u32) -> Vec<u8> {
    call(stream, None, "GetOrder", &question(Provider::Haoka, "shipped"))
}

/// A connection with an open watch, on its first stream.
fn watching(server: &Serving) -> (TcpStream, Frames) {
    let mut stream = dial(server.address);
    let mut frames = Frames::of(stream.try_clone().unwrap());
    let id = "shipped".to_owned();
    let order = OrderRef { provider: Provider::Haoka.into(), id, ..OrderRef::default() };
    let watch = call(
        1,
        None,
        "WatchOrder",
        &WatchOrderRequest { order: Some(order), ..Default::default() },
    );
    stream.write_all(&[PREFACE, &frame(4, 0, 0, &[]), &watch].concat()).unwrap();
    assert!(frames.any(|frame| (frame.kind, frame.stream) == (DATA, 1)), "no first message");
    (stream, frames)
}

#[test]
fn calls_canceled_during_a_stall_do_not_affect_their_connection() {
    // The first calls, and those that replaced them.
    for rounds in [1, 3] {
        let server = Serving::start_with("", |command| {
            command.arg("--dev");
        });
        let (mut stream, mut frames) = watching(&server);
        let mut streams = (3..).step_by(2);
        let mut burst = Vec::new();
        for _ in 0..rounds {
            let round: Vec<u32> = streams.by_ref().take(CALLS as usize).collect();
            burst.extend(round.iter().flat_map(|&stream| get(stream)));
            // CANCEL: what a client sends when a deadline passes.
            burst.extend(round.iter().flat_map(|&stream| frame(RESET, 0, stream, &[0, 0, 0, 8])));
        }
        server.child.signal("STOP");
        stream.write_all(&burst).unwrap();
        server.child.signal("CONT");
        let last = streams.next().unwrap();
        stream.write_all(&get(last)).unwrap();
        let answer = frames.find(|frame| frame.kind == GOAWAY || frame.stream == last);
        let answer = answer.expect("the connection goes on");
        assert_eq!((answer.kind, answer.stream), (HEADERS, last), "{rounds}: {answer:?}");
        // The watch is notified when the server stops, and so lived until then.
        server.child.signal("TERM");
        let told = frames.find(|frame| frame.stream == 1).expect("the watch goes on");
        assert_eq!((told.kind, told.flags & END_STREAM), (HEADERS, END_STREAM), "{told:?}");
        drop((stream, frames));
        assert_eq!(server.child.end().code, Some(0));
    }
}

/// A client that is answered before it has sent its message still sends it, and many may do so at
/// once: as many as a burst on a busy connection, repeatedly.
#[test]
fn messages_after_their_answers_do_not_affect_their_connection() {
    let server = Serving::start_with("", |command| {
        command.arg("--dev");
    });
    let (mut stream, mut frames) = watching(&server);
    let mut streams = (3..).step_by(2);
    for round in 0..8 {
        let round_of: Vec<u32> = streams.by_ref().take(CALLS as usize).collect();
        let calls = round_of.iter().map(|&stream| call(stream, None, "NoSuchMethod", &()));
        // A call without its last frame, and that frame.
        let split = calls.map(|call| {
            let at = call.len() - (9 + 5);
            (call[..at].to_vec(), call[at..].to_vec())
        });
        let (heads, messages): (Vec<_>, Vec<_>) = split.unzip();
        stream.write_all(&heads.concat()).unwrap();
        for _ in &round_of {
            let answer = frames.find(|frame| matches!(frame.kind, HEADERS | GOAWAY)).unwrap();
            assert_eq!(answer.kind, HEADERS, "{round}: {answer:?}");
        }
        stream.write_all(&messages.concat()).unwrap();
    }
    let last = streams.next().unwrap();
    stream.write_all(&get(last)).unwrap();
    let answer = frames.find(|frame| frame.kind == GOAWAY || frame.stream == last);
    assert_eq!(answer.expect("the connection goes on").kind, HEADERS);
}
