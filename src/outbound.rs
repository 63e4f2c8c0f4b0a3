//! The HTTP client for vendors, and the only user of reqwest. Used by the vendors' modules, one
//! client for each account.
//!
//! What reqwest does by itself and would hurt here is off: it follows no redirect (a redirect
//! would carry tokens and secrets along), sends no referer, reads no proxy from the environment,
//! repeats nothing, and prints no URL.
#![allow(clippy::disallowed_types, reason = "the one room of reqwest")]

#[cfg(fuzzing)]
pub mod fuzzing;

use std::error::Error as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::header::{DATE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Method, Proxy, Url};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::config::Section;
use crate::error::{Closing, Error, Trouble};
use crate::metrics::VENDOR_REQUEST_SECONDS;
use crate::pb::ErrorReason;

/// The most of an answer that is read, in bytes.
const BODY_LIMIT: usize = 256 * 1024;

/// The largest `ca_file` that is read, in bytes.
const CA_FILE_LIMIT: u64 = 1024 * 1024;

/// How long connecting may take, within the whole attempt's time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an idle connection is kept: less than what servers use to keep theirs, so that a
/// request is not sent into a connection that is being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// What an account may set as `timeout`.
const TIMEOUT_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_mins(5);

/// The bounds of a vendor's `Retry-After`.
const RETRY_AFTER_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(1));

/// How long to wait after HTTP 429 without a `Retry-After`.
const TOO_MANY_REQUESTS_RETRY: Duration = Duration::from_mins(1);

/// One request to a vendor.
#[derive(Default)]
pub struct Request<'a> {
    /// What is asked for, in a word of ours: `order`, `token`.
    pub operation: &'static str,
    /// The path below the account's `base_url`, a segment each; segments are escaped.
    pub path: &'a [&'a str],
    /// The query's parameters; values are escaped.
    pub query: &'a [(&'a str, &'a str)],
    /// Further headers. The values are sensitive: no log shows them.
    pub headers: &'a [(&'static str, &'a str)],
    /// The body, and with it the method: GET without one, else POST.
    pub body: Body<'a>,
}

/// The body of a request.
#[derive(Default)]
pub enum Body<'a> {
    /// None.
    #[default]
    Empty,
    /// `application/json`
    Json(String),
    /// `application/x-www-form-urlencoded`
    UrlEncoded(&'a [(&'static str, &'a str)]),
    /// `multipart/form-data`
    Multipart(&'a [(&'static str, &'a str)]),
}

/// What a vendor answered, with whatever HTTP status.
pub struct Answer {
    /// The body, at most 256 KiB.
    pub body: Vec<u8>,
    /// When the request was sent, by our clock.
    pub sent: SystemTime,
    /// The answer's `Date`.
    pub date: Option<SystemTime>,
    status: u16,
    retry_after: Option<Duration>,
}

/// Sends the requests of one account.
pub struct Client {
    account: String,
    http: reqwest::Client,
    base: Url,
    timeout: Duration,
    clock: Arc<dyn Clock>,
}

impl Client {
    /// Reads an account's `base_url`, `timeout`, `ca_file` and `proxy`. `base_url` must be set
    /// where the vendor has none of its own. `None` where something is wrong, which is noted.
    pub fn configure(
        section: &mut Section,
        base_url: Option<&str>,
        timeout: Duration,
        clock: &Arc<dyn Clock>,
    ) -> Option<Self> {
        let timeout = section.duration("timeout", TIMEOUT_RANGE).unwrap_or(timeout);
        let certificates = certificates(section);
        let proxy = proxy(section);
        let base: String = match base_url {
            Some(default) => section.take("base_url").unwrap_or_else(|| default.to_owned()),
            None => section.require("base_url")?,
        };
        let base = parse_base_url(&base).map_err(|text| section.problem("base_url", text)).ok()?;
        let http = build(&base, timeout, certificates, proxy)
            .map_err(|text| section.problem("base_url", text))
            .ok()?;
        let account = section.name().to_owned();
        Some(Self { account, http, base, timeout, clock: Arc::clone(clock) })
    }

    /// The account's name in the configuration.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.account
    }

    /// Where the vendor is: part of what tells one account from another.
    #[must_use]
    pub fn base_url(&self) -> &str {
        self.base.as_str()
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

    /// Sends the request once and reads the answer, whatever its HTTP status.
    ///
    /// # Errors
    /// `PROVIDER_UNAVAILABLE` where no whole answer came in time, `PROVIDER_RESPONSE_INVALID`
    /// where it is larger than 256 KiB.
    pub async fn send(&self, request: Request<'_>) -> Result<Answer, Error> {
        let operation = request.operation;
        let request = self.build(request)?;
        let begin = Instant::now();
        let outcome = self.exchange(request).await;
        VENDOR_REQUEST_SECONDS.observe([&self.account, operation], begin.elapsed());
        outcome
    }

    async fn exchange(&self, request: reqwest::Request) -> Result<Answer, Error> {
        let sent = self.clock.now();
        #[cfg(fuzzing)]
        if let Some(answer) = fuzzing::played(request.url().path(), sent) {
            return Ok(answer);
        }
        let mut response = self.http.execute(request).await.map_err(|error| self.failure(error))?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failure(error))? {
            if body.len() + chunk.len() > BODY_LIMIT {
                return Err(Error::unreadable("it is larger than 256 KiB"));
            }
            body.extend_from_slice(&chunk);
        }
        let date = header_date(response.headers(), DATE.as_str());
        let retry_after = retry_after(response.headers(), date.unwrap_or(sent));
        Ok(Answer { body, sent, date, status: response.status().as_u16(), retry_after })
    }

    fn build(&self, request: Request<'_>) -> Result<reqwest::Request, Error> {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .map_err(|()| Error::internal("a base_url that cannot have a path"))?
            .pop_if_empty()
            .extend(request.path);
        let method = if matches!(request.body, Body::Empty) { Method::GET } else { Method::POST };
        let mut headers = HeaderMap::new();
        for (name, value) in request.headers {
            let mut value = HeaderValue::from_str(value)
                .map_err(|_| Error::internal(format!("the header {name} has an unfit value")))?;
            value.set_sensitive(true);
            headers.insert(*name, value);
        }
        let mut builder = self.http.request(method, url).headers(headers);
        if !request.query.is_empty() {
            builder = builder.query(request.query);
        }
        builder = match request.body {
            Body::Empty => builder,
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

    fn failure(&self, error: reqwest::Error) -> Error {
        let message = if error.is_timeout() {
            format!("the vendor did not answer within {:?}; ask again later", self.timeout)
        } else if error.is_connect() {
            "the vendor cannot be reached; ask again later".to_owned()
        } else {
            "the connection to the vendor broke before its answer was whole; ask again later"
                .to_owned()
        };
        // A connection that was never made carried nothing.
        let unsent = error.is_connect();
        let trouble = Some(Trouble::Passing);
        Error { unsent, trouble, ..Error::unavailable(message).detail(causes(error)) }
    }
}

impl Answer {
    /// What an HTTP status other than 2xx means where the body does not say it better.
    ///
    /// # Errors
    /// `QUOTA_EXHAUSTED` for 429, `PROVIDER_UNAVAILABLE` for 408 and 5xx, else
    /// `PROVIDER_ERROR`: a redirect and a 404 come from a wrong `base_url`, not from an order.
    pub fn check_status(&self) -> Result<(), Error> {
        let error = match self.status {
            200..=299 => return Ok(()),
            429 => Error {
                retry_after: self.retry_after.or(Some(TOO_MANY_REQUESTS_RETRY)),
                closes: Some(Closing::ForTheTime),
                ..Error::new(
                    ErrorReason::ProviderQuotaExhausted,
                    "the vendor answered that it is asked too often (HTTP 429); wait before \
                     asking again",
                )
            },
            status @ (408 | 500..=599) => {
                let error = Error::unavailable(format!(
                    "the vendor answered that it cannot serve now (HTTP {status}); ask again later"
                ));
                // What says when to come back says as well not to come before.
                let trouble = self.retry_after.map_or(Trouble::Passing, |_| Trouble::Lasting);
                let retry_after = self.retry_after.or(error.retry_after);
                Error { retry_after, trouble: Some(trouble), ..error }
            }
            status => Error::new(
                ErrorReason::ProviderError,
                format!(
                    "the vendor answered with HTTP {status}, which says nothing about an order; \
                     the operator should check the account's base_url"
                ),
            ),
        };
        Err(error)
    }
}

/// The certificates of `ca_file`; none where it is not set, or wrong and noted.
fn certificates(section: &mut Section) -> Vec<Certificate> {
    const KEY: &str = "ca_file";
    let Some(pem) = section.file(KEY, CA_FILE_LIMIT) else { return Vec::new() };
    let certificates = Certificate::from_pem_bundle(pem.as_bytes()).unwrap_or_default();
    if certificates.is_empty() {
        section.problem(KEY, "holds no certificate in PEM");
    }
    certificates
}

/// The account's `proxy`; `None` where it is not set, or wrong and noted.
fn proxy(section: &mut Section) -> Option<Proxy> {
    const KEY: &str = "proxy";
    let text: String = section.take(KEY)?;
    let url = Url::parse(&text).ok().filter(|url| url.scheme() == "http" && url.has_host());
    let proxy = url.and_then(|url| Proxy::all(url).ok());
    if proxy.is_none() {
        section.problem(KEY, "must be a URL such as \"http://egress:3128\"");
    }
    proxy
}

/// The URL of a vendor, if it is fit to be one.
fn parse_base_url(text: &str) -> Result<Url, &'static str> {
    // With and without a slash at its end it is the same vendor, and so the same account.
    let url = Url::parse(text.trim_end_matches('/'))
        .map_err(|_| "must be a URL such as \"https://vendor.example\"")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user or a password");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must end with its path: no query and no fragment");
    }
    match url.scheme() {
        "https" if url.has_host() => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        _ => Err("must begin with https:// (http:// is accepted for a loopback address only)"),
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn build(
    base: &Url,
    timeout: Duration,
    certificates: Vec<Certificate>,
    proxy: Option<Proxy>,
) -> Result<reqwest::Client, String> {
    // Fails where it is installed already, which is as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder()
        .user_agent(concat!("order-query/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .no_proxy()
        .retry(reqwest::retry::never())
        .timeout(timeout)
        .connect_timeout(timeout.min(CONNECT_TIMEOUT))
        .pool_idle_timeout(IDLE_TIMEOUT);
    let builder = if base.scheme() == "https" {
        builder.https_only(true).tls_certs_merge(certificates)
    } else {
        // Plain HTTP needs no roots, and the machine may have none.
        builder.tls_certs_only(certificates)
    };
    let builder = match proxy {
        Some(proxy) => builder.proxy(proxy),
        None => builder,
    };
    builder.build().map_err(|error| format!("cannot be asked from here: {}", causes(error)))
}

/// An error and what caused it, without the URL.
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
