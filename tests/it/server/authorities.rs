//! Which `:authority` callers may send: the HTTP/2 library parses it before our code.

use std::io::Write as _;

use order_query::pb::Provider;

use super::{Frames, HEADERS, PREFACE, RESET, call, frame, say};
use crate::support::child::Serving;
use crate::support::question;

/// As docs/runbook.md states: a name with a port, and nothing else.
#[test]
fn an_invalid_authority_ends_only_its_own_call() {
    let fine = [
        None,
        Some("order-query.order-query.svc.cluster.local:50051"),
        Some("order_query"),
        Some("10.0.0.1:50051"),
        Some("[::1]:50051"),
        Some("a,b"),
    ];
    let wrong = [
        "10.0.0.1:50051,10.0.0.2:50051",
        "services/orders",
        "services%2Forders",
        "dns:///order-query:50051",
        "订单:50051",
        "a b",
        "",
    ];
    let server = Serving::start_with("", |command| {
        command.arg("--dev");
    });
    let mut stream = say(server.address, &[PREFACE, &frame(4, 0, 0, &[])].concat());
    let mut frames = Frames::of(stream.try_clone().unwrap());
    let question = question(Provider::Haoka, "shipped");
    let cases = fine.map(|name| (name, HEADERS)).into_iter();
    let cases = cases.chain(wrong.map(|name| (Some(name), RESET)));
    for (number, (authority, expected)) in (1..).step_by(2).zip(cases) {
        stream.write_all(&call(number, authority, "GetOrder", &question)).unwrap();
        let answer = frames.find(|frame| frame.stream == number).expect("the connection goes on");
        assert_eq!(answer.kind, expected, "{authority:?}");
    }
}
