//! The settings of an account's HTTP client, and the client built from them. Used by `outbound` only.
#![allow(clippy::disallowed_types, reason = "a part of the one module of reqwest")]

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{HOST, HeaderMap, HeaderValue};
use reqwest::{Certificate, Proxy, Url};

use super::url::Urls;
use super::{Client, Meters, causes};
use crate::certificate::Pem;
use crate::clock::Clock;
use crate::config::Section;
use crate::telemetry::metrics::Metrics;

/// How long connecting may take, within the whole attempt's time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an idle connection is kept open: less than servers usually keep theirs, so that no
/// request is sent into a connection that is being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The range of an account's `timeout`.
const TIMEOUT_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_mins(5);

impl Client {
    /// Reads an account's `base_url`, `timeout`, `ca_file` and `proxy`. `base_url` is required where
    /// the vendor has no default. `None` where something is wrong, which is recorded as a problem.
    pub fn configure(
        section: &mut Section,
        base_url: Option<&str>,
        timeout: Duration,
        clock: &Arc<dyn Clock>,
        metrics: &Metrics,
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
        let known_as = known_as(base.clone());
        let meters = Meters {
            seconds: metrics.vendor_request_seconds.by_last([&account]),
            clock_difference: metrics.clock_difference_seconds.lazily([&account]),
        };
        let clock = Arc::clone(clock);
        let urls = Urls::new(base);
        Some(Self { account, http, urls, known_as, timeout, clock, meters })
    }
}

/// The certificates of `ca_file`; none where it is not set, or where it is wrong and recorded.
fn certificates(section: &mut Section) -> Vec<Certificate> {
    const KEY: &str = "ca_file";
    let Some(pem) = section.pem(KEY, Pem::Authorities) else { return Vec::new() };
    let certificates = Certificate::from_pem_bundle(pem.as_bytes());
    certificates.map_err(|error| section.problem(KEY, causes(error))).unwrap_or_default()
}

/// The account's `proxy`; `None` where it is not set, or where it is wrong and recorded.
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

/// Parses a vendor's URL, or says why it cannot be used.
fn parse_base_url(text: &str) -> Result<Url, &'static str> {
    // A slash at the end makes no difference: it is the same vendor, and so the same account.
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

/// The canonical form that distinguishes the vendor from others. A final dot of the host means
/// something to the resolver, but names the same vendor; a final dot of the path (`/.`) leaves a
/// slash. The letters of the host and the port already have one form.
fn known_as(mut url: Url) -> String {
    let host = url.host_str().and_then(|host| host.strip_suffix('.')).map(str::to_owned);
    if let Some(host) = host {
        // This cannot fail: a host that is valid with a final dot is valid without it.
        let _ = url.set_host(Some(&host));
    }
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    url.into()
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// The `Host` header of all requests: without it, the client would write the host anew into each.
fn host(base: &Url) -> HeaderMap {
    let host = base.host_str().unwrap_or_default();
    let host = base.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    // A host in a URL is always ASCII.
    HeaderValue::try_from(host).map(|host| (HOST, host)).into_iter().collect()
}

fn build(
    base: &Url,
    timeout: Duration,
    certificates: Vec<Certificate>,
    proxy: Option<Proxy>,
) -> Result<reqwest::Client, String> {
    // This fails where a provider is already installed, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder()
        .default_headers(host(base))
        .user_agent(concat!("order-query/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .no_proxy()
        .tls_info(true)
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
    builder
        .build()
        .map_err(|error| format!("cannot be used to build an HTTP client: {}", causes(error)))
}
