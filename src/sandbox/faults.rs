//! What goes wrong below the vendors' own answers, in one table for all vendors: HTTP statuses, broken
//! JSON, endless bodies, cut connections. Used by the sandbox only: the vendors look up their ids here,
//! and [`send`] plays the fault.

use std::io;
use std::time::{Duration, SystemTime};

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, DATE};
use axum::http::{HeaderValue, Response, StatusCode};
use futures_util::{StreamExt as _, stream};

use super::Reply;

const JSON: &str = "application/json; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// How long `slow` waits before it answers.
const SLOW: Duration = Duration::from_secs(5);
/// When `hang` and `endless` give up: nothing here waits forever.
const GIVE_UP: Duration = Duration::from_mins(10);
/// The time between two bytes of a slow body.
const DRIP: Duration = Duration::from_secs(1);
/// The depth of `nested`.
const DEPTH: usize = 10_000;
/// The size of one piece of the huge body, and the number of pieces: 100 MiB in all.
const PIECE: usize = 64 * 1024;
const PIECES: usize = 1600;

/// A fault that every vendor can play.
pub(super) struct Fault {
    /// The order id at vendors whose ids are words.
    pub(super) id: &'static str,
    /// The order id at vendors whose ids are numbers.
    pub(super) number: u64,
    /// A short description of the answer.
    pub(super) answers: &'static str,
    how: How,
}

enum How {
    /// A fixed answer: status, content type, one further header, body.
    Fixed(StatusCode, &'static str, Option<(&'static str, &'static str)>, &'static [u8]),
    /// The first half of the ordinary answer, as if it were the whole.
    Truncated,
    /// The ordinary answer with an additional, unknown field, whose text is cut in the middle of a
    /// character.
    Cut,
    /// Deeply nested arrays.
    Nested,
    /// A text of 100 MiB, generated while it is sent.
    Huge,
    /// Half of the ordinary answer, then one space per second for ten minutes.
    Endless,
    /// The ordinary answer, late.
    Slow,
    /// No answer; the connection is cut after ten minutes.
    Hang,
    /// Half of the ordinary answer, then the connection is cut.
    Reset,
}

pub(super) fn by_id(id: &str) -> Option<&'static Fault> {
    FAULTS.iter().find(|fault| fault.id == id)
}

pub(super) fn by_number(number: u64) -> Option<&'static Fault> {
    FAULTS.iter().find(|fault| fault.number == number)
}

const fn fault(id: &'static str, number: u64, answers: &'static str, how: How) -> Fault {
    Fault { id, number, answers, how }
}

/// A status with a page in HTML, as from a gateway in front of the vendor.
const fn page(status: StatusCode, header: Option<(&'static str, &'static str)>) -> How {
    How::Fixed(status, HTML, header, b"<html><body><h1>gateway</h1></body></html>")
}

/// A body that claims to be a vendor's JSON.
const fn body(bytes: &'static [u8]) -> How {
    How::Fixed(StatusCode::OK, JSON, None, bytes)
}

#[rustfmt::skip]
pub(super) static FAULTS: &[Fault] = &[
    fault("fault-500", 9001, "HTTP 500", page(StatusCode::INTERNAL_SERVER_ERROR, None)),
    fault("fault-503", 9002, "HTTP 503", page(StatusCode::SERVICE_UNAVAILABLE, None)),
    fault("fault-404", 9003, "HTTP 404", page(StatusCode::NOT_FOUND, None)),
    fault("fault-429", 9004, "HTTP 429 with `Retry-After: 30`", page(StatusCode::TOO_MANY_REQUESTS, Some(("retry-after", "30")))),
    fault("fault-redirect", 9005, "HTTP 302 to `/sandbox/redirected` of the same vendor", page(StatusCode::FOUND, Some(("location", "/sandbox/redirected")))),
    fault("fault-html", 9006, "a page in HTML with HTTP 200", page(StatusCode::OK, None)),
    fault("fault-empty", 9007, "an empty body with HTTP 200", body(b"")),
    fault("fault-truncated", 9008, "half of the JSON, complete as HTTP", How::Truncated),
    fault("fault-types", 9009, "JSON whose members all have the wrong type", body(br#"{"errcode":[],"errmsg":7,"order":"x","code":{},"message":[],"data":true,"errs":7}"#)),
    fault("fault-nested", 9010, "an order of JSON arrays, 10,000 deep", How::Nested),
    fault("fault-huge", 9011, "a body of 100 MiB", How::Huge),
    fault("fault-endless", 9012, "a body that drips for 10 minutes", How::Endless),
    fault("fault-slow", 9013, "an ordinary order, after 5 s", How::Slow),
    fault("fault-hang", 9014, "nothing; the connection is cut after 10 minutes", How::Hang),
    fault("fault-reset", 9015, "half of the body, then the connection is cut", How::Reset),
    fault("fault-list", 9016, "a JSON array in place of the object", body(b"[]")),
    fault("fault-bytes", 9017, "bytes that are not UTF-8", body(b"{\"code\":0,\"message\":\"\xff\xfe\"}")),
    fault("fault-cut", 9018, "an ordinary order, and a text cut in the middle of a character in a field that nobody knows", How::Cut),
    fault("fault-block", 9019, "HTTP 403 with a page in HTML, as a firewall blocks", page(StatusCode::FORBIDDEN, None)),
];

/// Sends a reply, at the pace that it needs. The `Date` header is the time of the sandbox's clock. An
/// error cuts the connection.
pub(super) async fn send(reply: Reply, time: SystemTime) -> io::Result<Response<Body>> {
    let mut response = match reply {
        Reply::Json(status, text) => plain(status, JSON, Body::from(text)),
        Reply::Text(status, text) => plain(status, TEXT, Body::from(text)),
        Reply::Fault(fault, ordinary) => play(&fault.how, ordinary).await?,
    };
    if let Some(date) = http_date(time) {
        response.headers_mut().insert(DATE, date);
    }
    Ok(response)
}

async fn play(how: &How, ordinary: String) -> io::Result<Response<Body>> {
    let whole = Bytes::from(ordinary);
    let half = whole.slice(..whole.len() / 2);
    let ok = |body| plain(StatusCode::OK, JSON, body);
    Ok(match how {
        How::Fixed(status, content_type, header, bytes) => {
            let mut response = plain(*status, content_type, Body::from(*bytes));
            if let Some((name, value)) = header {
                response.headers_mut().insert(*name, HeaderValue::from_static(value));
            }
            response
        }
        How::Truncated => ok(Body::from(half)),
        How::Cut => {
            let order = whole.strip_prefix(b"{").unwrap_or(&whole);
            ok(Body::from([b"{\"note\":\"\xe5\x8f\xb7\xe5\x8f\",", order].concat()))
        }
        How::Nested => {
            // Uses the names that hold the order, so that no reader skips it as unknown.
            let nest = "[".repeat(DEPTH) + &"]".repeat(DEPTH);
            ok(Body::from(format!(r#"{{"errcode":0,"code":0,"order":{nest},"data":{nest}}}"#)))
        }
        How::Huge => ok(huge()),
        How::Endless => ok(endless(half)),
        How::Slow => {
            tokio::time::sleep(SLOW).await;
            ok(Body::from(whole))
        }
        How::Hang => {
            tokio::time::sleep(GIVE_UP).await;
            return Err(cut());
        }
        How::Reset => {
            let mut response = ok(cut_after(half));
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(whole.len()));
            response
        }
    })
}

fn plain(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Has no `Content-Length`, so that the reader must count for itself.
fn huge() -> Body {
    let piece = Bytes::from(vec![b'a'; PIECE]);
    let start = stream::iter([Ok::<_, io::Error>(Bytes::from_static(br#"{"message":""#))]);
    Body::from_stream(start.chain(stream::repeat_with(move || Ok(piece.clone())).take(PIECES)))
}

fn endless(half: Bytes) -> Body {
    let drips = usize::try_from(GIVE_UP.as_secs() / DRIP.as_secs()).unwrap_or(usize::MAX);
    let drip = stream::repeat(()).take(drips).then(|()| async {
        tokio::time::sleep(DRIP).await;
        Ok::<_, io::Error>(Bytes::from_static(b" "))
    });
    Body::from_stream(stream::iter([Ok(half)]).chain(drip))
}

fn cut_after(half: Bytes) -> Body {
    let end = stream::once(async {
        // Lets the first half be sent: an immediate error would discard it.
        tokio::task::yield_now().await;
        Err(cut())
    });
    Body::from_stream(stream::iter([Ok(half)]).chain(end))
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the sandbox cuts this connection")
}

/// The time as an HTTP date; `None` if a date cannot express it.
fn http_date(time: SystemTime) -> Option<HeaderValue> {
    let time = jiff::Timestamp::try_from(time).ok()?;
    let text =
        jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&time).ok()?;
    HeaderValue::try_from(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_formatted_as_http_dates() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let written = HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(http_date(time), Some(written));
    }
}
