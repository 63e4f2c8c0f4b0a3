//! The HTTP client for vendors, and the only user of reqwest. Used by the vendors' modules, one
//! client for each account.
//!
//! It turns off everything that reqwest does by itself and that would do harm here: it follows no
//! redirect (a redirect would carry tokens and secrets along), sends no referer, reads no proxy from
//! the environment, repeats no request, and prints no URL.
#![allow(clippy::disallowed_types, reason = "the one module of reqwest")]

mod answer;
mod departure;
#[cfg(fuzzing)]
pub mod fuzzing;
mod permit;
mod settings;
mod url;

use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use std::{io, iter};

use reqwest::Method;
use reqwest::header::{DATE, HeaderMap, HeaderValue, RETRY_AFTER};
use serde::de::IgnoredAny;
use tokio::time::Instant;

pub use self::answer::Answer;
use self::departure::Departure;
pub use self::permit::{Counting, Delivery, Permit, Uncounted};
use self::url::Urls;
use crate::clock::Clock;
use crate::error::Error;
use crate::telemetry::metrics::{ByWord, Gauge, Histogram, Lazy};
use crate::telemetry::spans;

/// The most bytes of an answer that are read.
const BODY_LIMIT: usize = 256 * 1024;

/// The bounds that a vendor's `Retry-After` is clamped to.
const RETRY_AFTER_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(1));

/// One request to a vendor.
#[derive(Default)]
pub struct Request<'a> {
    /// What the request is for, in one of our own words: `order`, `token`.
    pub operation: &'static str,
    /// The path below the account's `base_url`, one segment each. Segments are escaped.
    pub path: &'a [&'a str],
    /// The parameters of the query. Values are escaped.
    pub query: &'a [(&'a str, &'a str)],
    /// Further headers. The values are sensitive: no log shows them.
    pub headers: &'a [(&'static str, &'a str)],
    /// The body. It also decides the method: GET without a body, otherwise POST.
    pub body: Body<'a>,
}

/// The body of a request.
#[derive(Default)]
pub enum Body<'a> {
    /// No body.
    #[default]
    Empty,
    /// No body, but the method is POST.
    EmptyPost,
    /// `application/json`
    Json(String),
    /// `application/x-www-form-urlencoded`
    UrlEncoded(&'a [(&'static str, &'a str)]),
    /// `multipart/form-data`
    Multipart(&'a [(&'static str, &'a str)]),
}

/// Sends the requests of one account.
pub struct Client {
    account: String,
    http: reqwest::Client,
    urls: Urls,
    /// The base URL in its canonical form, which all its spellings share.
    known_as: String,
    timeout: Duration,
    clock: Arc<dyn Clock>,
    meters: Meters,
}

/// The metrics of one account's requests.
struct Meters {
    /// By operation.
    seconds: ByWord<Histogram>,
    /// Absent from the page until a vendor sends its time.
    clock_difference: Lazy<Gauge>,
}

impl Client {
    /// The account's name in the configuration.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.account
    }

    /// The vendor's URL in its canonical form: part of what distinguishes one account from another.
    #[must_use]
    pub fn base_url(&self) -> &str {
        &self.known_as
    }

    /// How long one attempt may take, connecting included.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The Unix time in seconds by the machine's clock, for a request that is about to be sent.
    #[must_use]
    pub fn unix_time(&self) -> u64 {
        let since_1970 = self.clock.wall().duration_since(SystemTime::UNIX_EPOCH);
        since_1970.unwrap_or_default().as_secs()
    }

    /// Sends the request once and reads the answer, with any HTTP status. A counted call passes its
    /// [`Permit`], any other call [`Uncounted`].
    ///
    /// # Errors
    /// `PROVIDER_UNAVAILABLE` where no whole answer came in time, `PROVIDER_RESPONSE_INVALID` where
    /// the answer is larger than 256 KiB.
    pub async fn send(
        &self,
        request: Request<'_>,
        counting: impl Into<Counting>,
    ) -> Result<Answer, Error> {
        let operation = request.operation;
        let request = self.build(request)?;
        let (host, port) = (self.urls.host(), self.urls.port());
        let span = spans::vendor_request(&self.account, operation, request.method(), host, port);
        let begin = Instant::now();
        let outcome = span.within(self.exchange(request, &counting.into())).await;
        self.meters.seconds.of(operation).observe(begin.elapsed());
        span.end_request(outcome.as_ref().map(|answer| answer.status));
        outcome
    }

    async fn exchange(
        &self,
        mut request: reqwest::Request,
        counting: &Counting,
    ) -> Result<Answer, Error> {
        let sent = self.clock.now();
        #[cfg(fuzzing)]
        if let Some(answer) = fuzzing::played(request.url().path(), sent) {
            counting.note(Delivery::Answered);
            return Ok(answer);
        }
        let departure = Departure::of(&mut request);
        counting.note(Delivery::Unknown);
        let answered = self.http.execute(request).await;
        let mut response = answered.map_err(|error| {
            let never_began = departure.never_began();
            if never_began {
                counting.note(Delivery::NotSent);
            }
            self.failure(error, never_began)
        })?;
        let date = header_date(response.headers(), DATE.as_str());
        let now = self.clock.wall();
        let sent_then = now - self.clock.now().duration_since(sent).unwrap_or_default();
        let clock_difference = date.map(|date| ahead(date, sent_then, now));
        if let Some(seconds) = clock_difference {
            // A clock that is decades ahead is wrong enough; the exact value does not matter.
            let seconds = i32::try_from(seconds).unwrap_or(i32::MAX);
            self.meters.clock_difference.get().set(seconds.into());
        }
        let tls = response.extensions_mut().remove();
        let body = self.body(&mut response).await?;
        let retry_after = retry_after(response.headers(), date.unwrap_or(sent));
        let status = response.status().as_u16();
        counting.note(Delivery::Answered);
        Ok(Answer { body, sent, clock_difference, tls, status, retry_after })
    }

    /// The answer's body. The connection may end before HTTP says that the body is whole. The body is
    /// accepted even then where it is a complete JSON object, or where the status is no success,
    /// which says enough.
    async fn body(&self, response: &mut reqwest::Response) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() > BODY_LIMIT => {
                    return Err(Error::unreadable("it is larger than 256 KiB"));
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => return Ok(body),
                Err(error)
                    if is_ended(&error) && (is_whole(&body) || !response.status().is_success()) =>
                {
                    return Ok(body);
                }
                Err(error) => return Err(self.failure(error, false)),
            }
        }
    }

    fn build(&self, request: Request<'_>) -> Result<reqwest::Request, Error> {
        let url = self.urls.url(request.path, request.query)?;
        let method = if matches!(request.body, Body::Empty) { Method::GET } else { Method::POST };
        let mut headers = HeaderMap::new();
        for (name, value) in request.headers {
            let mut value = HeaderValue::from_str(value)
                .map_err(|_| Error::internal(format!("the header {name} has an invalid value")))?;
            value.set_sensitive(true);
            headers.insert(*name, value);
        }
        let mut builder = self.http.request(method, url).headers(headers);
        builder = match request.body {
            Body::Empty | Body::EmptyPost => builder,
            Body::Json(text) => {
                builder.header(reqwest::header::CONTENT_TYPE, "application/json").body(text)
            }
            Body::UrlEncoded(fields) => builder.form(fields),
            Body::Multipart(fields) => builder.multipart(
                fields.iter().fold(reqwest::multipart::Form::new(), |form, (name, value)| {
                    form.text(*name, (*value).to_owned())
                }),
            ),
        };
        builder.build().map_err(|error| Error::internal(causes(error)))
    }

    /// Why a request has no answer, whether it was sent or not.
    fn failure(&self, error: reqwest::Error, never_began: bool) -> Error {
        let message = if never_began {
            "the vendor cannot be reached; retry later".to_owned()
        } else if error.is_timeout() {
            format!("the vendor did not answer within {:?}; retry later", self.timeout)
        } else {
            "the connection to the vendor broke before its answer was complete; retry later"
                .to_owned()
        };
        let advice = tls_error(&error).and_then(tls_advice);
        Error { advice, ..Error::failed(message).detail(causes(error)) }
    }
}

/// Whether the vendor has ended the connection early: over TLS without announcing the end, or before
/// everything had come that HTTP promised.
fn is_ended(error: &reqwest::Error) -> bool {
    let mut kinds =
        sources(error).filter_map(|cause| Some(cause.downcast_ref::<io::Error>()?.kind()));
    kinds.any(|kind| matches!(kind, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset))
}

/// Whether the body is a complete JSON object, which shows its own end. Anything after that would add
/// nothing to it.
fn is_whole(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"{") && serde_json::from_slice::<IgnoredAny>(body).is_ok()
}

/// The chain of causes of an error.
fn sources(error: &reqwest::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    iter::successors(error.source(), |&cause| {
        // The error inside an I/O error is not among its sources.
        match cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(made_of) => Some(made_of),
            None => cause.source(),
        }
    })
}

/// The TLS error among the causes, if there is one.
fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    sources(error).find_map(|cause| cause.downcast_ref())
}

/// What the operator can do where TLS fails.
fn tls_advice(error: &rustls::Error) -> Option<&'static str> {
    use rustls::AlertDescription::{HandshakeFailure, InsufficientSecurity, ProtocolVersion};
    match error {
        rustls::Error::InvalidCertificate(_) => Some(
            "check base_url and this machine's clock, and set ca_file to the authority of the \
             vendor's certificate if the system does not trust it",
        ),
        rustls::Error::AlertReceived(HandshakeFailure | InsufficientSecurity | ProtocolVersion)
        | rustls::Error::PeerIncompatible(_) => Some(
            "the vendor and this machine have no TLS version or no cipher in common, or the vendor \
             knows no host of this name: check base_url; this machine supports TLS 1.2 with ECDHE \
             and AES-GCM or ChaCha20, and TLS 1.3",
        ),
        rustls::Error::InvalidMessage(_) => {
            Some("the server at base_url does not speak TLS: check its port")
        }
        _ => None,
    }
}

/// An error and its causes, without the URL.
fn causes(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn header_date(headers: &HeaderMap, name: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok()
}

/// How many seconds the clock that wrote `date` is ahead of ours. The date was written between `sent`
/// and `now`: the result is 0 where our clock showed the same at some time in between.
fn ahead(date: SystemTime, sent: SystemTime, now: SystemTime) -> i64 {
    let seconds = |from: SystemTime, to: SystemTime| {
        let seconds = to.duration_since(from).unwrap_or_default().as_secs();
        i64::try_from(seconds).unwrap_or(i64::MAX)
    };
    seconds(now, date) - seconds(date, sent)
}

/// The vendor's `Retry-After`, in seconds or as a date, between 1 s and 1 h.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    let wait = match text.trim().parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            header_date(headers, RETRY_AFTER.as_str())?.duration_since(now).unwrap_or_default()
        }
    };
    let (least, most) = RETRY_AFTER_RANGE;
    Some(wait.clamp(least, most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_skew_is_computed_within_the_precision_of_a_date_header() {
        let at = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        for (date, sent, now, expected) in [
            (100, 100_000, 100_000, 0),
            // The vendor's date has no fraction of a second.
            (100, 100_999, 100_999, 0),
            (100, 99_500, 103_000, 0),
            (103, 99_500, 103_000, 0),
            (104, 99_500, 103_000, 1),
            (98, 100_999, 101_000, -2),
            (400, 100_000, 100_100, 299),
            (400, 100_000, 100_000, 300),
            (100, 400_000, 409_000, -300),
        ] {
            let case = format!("{date} between {sent} and {now}");
            assert_eq!(ahead(at(date * 1000), at(sent), at(now)), expected, "{case}");
        }
    }
}
