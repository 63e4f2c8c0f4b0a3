//! A plain answer from memory takes a shorter way than all other answers. Callers cannot tell the two
//! ways apart: the same question gets the same answer on both.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use h2::client::SendRequest;
use h2::{Ping, PingPong};
use http::{HeaderMap, Request, StatusCode};
use order_query::clock::{Clock as _, ManualClock};
use order_query::pb::{GetOrderRequest, GetOrderResponse, Provider, Source};
use prost::Message as _;
use prost::bytes::Bytes;
use tokio::net::TcpStream;

use crate::support::{frame_of, framed, manual_clock, question, sandboxed_at};

/// Everything that a caller sees of an answer.
#[derive(Debug, PartialEq)]
struct Seen {
    status: StatusCode,
    headers: HeaderMap,
    messages: Vec<GetOrderResponse>,
    trailers: Option<HeaderMap>,
}

/// One connection of a caller.
struct Caller {
    requests: SendRequest<Bytes>,
    pings: PingPong,
    address: SocketAddr,
}

impl Caller {
    async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (requests, mut connection) = h2::client::handshake(stream).await.unwrap();
        let pings = connection.ping_pong().unwrap();
        tokio::spawn(connection);
        Self { requests, pings, address }
    }

    /// Sends the pieces of a request one after the other: the server has read each before the next one
    /// is sent.
    async fn ask(&mut self, pieces: &[&[u8]]) -> Seen {
        let uri = format!("http://{}/orderquery.v1.OrderService/GetOrder", self.address);
        let request = Request::post(uri).header("content-type", "application/grpc");
        let request = request.header("te", "trailers").body(()).unwrap();
        let mut requests = self.requests.clone().ready().await.unwrap();
        let (answer, mut body) = requests.send_request(request, false).unwrap();
        let (last, before) = pieces.split_last().unwrap();
        for piece in before {
            body.send_data(Bytes::copy_from_slice(piece), false).unwrap();
            self.pings.ping(Ping::opaque()).await.unwrap();
        }
        body.send_data(Bytes::copy_from_slice(last), true).unwrap();
        let (parts, mut body) = answer.await.unwrap().into_parts();
        let mut bytes = Vec::new();
        while let Some(data) = body.data().await {
            bytes.extend_from_slice(&data.unwrap());
        }
        let trailers = body.trailers().await.unwrap();
        let mut headers = parts.headers;
        assert!(headers.remove("date").is_some());
        Seen { status: parts.status, headers, messages: messages(&bytes), trailers }
    }

    /// Asks the same question on both ways.
    async fn ask_twice(&mut self, question: &GetOrderRequest) -> [Seen; 2] {
        let frame = frame_of(question);
        let (head, tail) = frame.split_at(7);
        [self.ask(&[&frame]).await, self.ask(&[head, tail]).await]
    }
}

/// The messages of an answer's body.
fn messages(mut bytes: &[u8]) -> Vec<GetOrderResponse> {
    let mut messages = Vec::new();
    while let Some((prefix, rest)) = bytes.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
        assert_eq!(prefix[0], 0, "nothing is compressed");
        let (message, after) = rest.split_at(usize::try_from(length).unwrap());
        messages.push(GetOrderResponse::decode(message).unwrap());
        bytes = after;
    }
    assert!(bytes.is_empty());
    messages
}

#[tokio::test]
async fn a_hit_is_the_answer_that_the_handler_gives() {
    let clock = Arc::new(manual_clock());
    let (_sandbox, server) = sandboxed_at(clock.clone()).await;
    let mut caller = Caller::connect(server.app.address).await;
    for (provider, id) in [
        (Provider::Wechat, "DD2981741311549200000"),
        (Provider::Dingshang, "54"),
        // It has a daily limit, and is not terminal.
        (Provider::Haoka, "shipped"),
        // It is terminal, so there is no refresh_time.
        (Provider::Haoka, "settled"),
    ] {
        let question = question(provider, id);
        let first = caller.ask(&[&frame_of(&question)]).await;
        let [live] = &first.messages[..] else { panic!("{provider:?} {id}: {first:?}") };
        assert_eq!(live.source(), Source::Live, "{provider:?} {id}");
        clock.advance(Duration::from_secs(1));
        // With and without the most that the caller sets.
        let week = prost_types::Duration { seconds: 604_800, nanos: 0 };
        for max_age in [None, Some(week)] {
            let question = GetOrderRequest { max_age, ..question.clone() };
            let [hit, handled] = caller.ask_twice(&question).await;
            assert_eq!(hit, handled, "{provider:?} {id}");
            assert_eq!(hit.messages.len(), 1);
            assert_eq!(hit.messages[0].source(), Source::Cache);
            assert_eq!(hit.messages[0].order, live.order, "{provider:?} {id}");
            assert_eq!(hit.status, StatusCode::OK);
        }
    }
}

#[tokio::test]
async fn a_state_that_is_too_old_is_no_hit() {
    let clock = Arc::new(manual_clock());
    let (_sandbox, server) = sandboxed_at(clock.clone()).await;
    let mut caller = Caller::connect(server.app.address).await;
    let question = question(Provider::Dingshang, "54");
    let second = prost_types::Duration { seconds: 1, nanos: 0 };
    let strict = GetOrderRequest { max_age: Some(second), ..question.clone() };
    for (question, source) in
        [(&question, Source::Live), (&strict, Source::Cache), (&question, Source::Cache)]
    {
        assert_eq!(caller.ask(&[&frame_of(question)]).await.messages[0].source(), source);
    }
    clock.advance(Duration::from_secs(2));
    for (question, source) in [(&question, Source::Cache), (&strict, Source::Live)] {
        assert_eq!(caller.ask(&[&frame_of(question)]).await.messages[0].source(), source);
    }
}

#[tokio::test]
async fn a_state_that_was_observed_too_early_is_no_hit() {
    let clock = Arc::new(manual_clock());
    let (_sandbox, server) = sandboxed_at(clock.clone()).await;
    let mut caller = Caller::connect(server.app.address).await;
    let first = question(Provider::Dingshang, "54");
    caller.ask(&[&frame_of(&first)]).await;
    let now = |clock: &ManualClock| Some(clock.now().into());
    let content = GetOrderRequest { min_observe_time: now(&clock), ..first.clone() };
    clock.advance(Duration::from_secs(1));
    let later = GetOrderRequest { min_observe_time: now(&clock), ..first };
    for (question, source) in [
        (&content, Source::Cache),
        (&later, Source::Live),
        (&later, Source::Cache),
        (&content, Source::Cache),
    ] {
        assert_eq!(caller.ask(&[&frame_of(question)]).await.messages[0].source(), source);
    }
    let [hit, handled] = caller.ask_twice(&later).await;
    assert_eq!(hit, handled);
    // A terminal order is a hit, whatever the time.
    let settled = question(Provider::Haoka, "settled");
    caller.ask(&[&frame_of(&settled)]).await;
    clock.advance(Duration::from_hours(24));
    let later = GetOrderRequest { min_observe_time: now(&clock), ..settled };
    let [hit, handled] = caller.ask_twice(&later).await;
    assert_eq!(hit, handled);
    assert_eq!(hit.messages[0].source(), Source::Cache);
}

#[tokio::test]
async fn a_request_that_is_no_plain_question_gets_the_handlers_error() {
    let (_sandbox, server) = sandboxed_at(Arc::new(manual_clock())).await;
    let mut caller = Caller::connect(server.app.address).await;
    let known = question(Provider::Haoka, "settled");
    caller.ask(&[&frame_of(&known)]).await;
    let message = known.encode_to_vec();
    let negative = prost_types::Duration { seconds: -1, nanos: 0 };
    let never = prost_types::Timestamp { seconds: 0, nanos: -1 };
    let whole = framed(0, &message);
    let changed = |change: &dyn Fn(&mut GetOrderRequest)| {
        let mut question = known.clone();
        change(&mut question);
        framed(0, &question.encode_to_vec())
    };
    for (case, body, is_answered) in [
        ("compressed", framed(1, &message), false),
        ("a byte too few", whole[..whole.len() - 1].to_vec(), false),
        ("nothing", Vec::new(), false),
        ("no message", framed(0, b"\xff\xff"), false),
        ("no time", changed(&|question| question.min_observe_time = Some(never)), false),
        ("no age", changed(&|question| question.max_age = Some(negative)), false),
        (
            "no such account",
            changed(&|question| "nobodys".clone_into(&mut question.account)),
            false,
        ),
        // The handler reads the first message only.
        ("two messages", [&whole[..], &whole].concat(), true),
    ] {
        let at_once = caller.ask(&[&body]).await;
        let in_pieces = caller.ask(&[&body[..body.len() / 2], &body[body.len() / 2..]]).await;
        assert_eq!(at_once, in_pieces, "{case}");
        let trailers = at_once.trailers.as_ref().unwrap_or(&at_once.headers);
        assert_eq!(trailers["grpc-status"] == "0", is_answered, "{case}: {at_once:?}");
        let has_details = trailers.contains_key("grpc-status-details-bin");
        assert_eq!(has_details, !is_answered, "{case}: {at_once:?}");
    }
}
