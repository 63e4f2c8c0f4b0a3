//! The settings of logs and traces. Used by `telemetry`, and by `app`, which has them read.

use http::Uri;
use http::uri::Scheme;
use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::certificate::Pem;
use crate::config::{Ratio, Section};

/// `[telemetry]`
#[derive(Debug, Clone)]
pub struct Settings {
    /// The format of log lines.
    pub log_format: LogFormat,
    /// Which calls are logged.
    pub log_calls: LogCalls,
    /// Which events are logged: a level, or `target=level` pairs, separated by commas.
    pub log_level: Targets,
    /// Where traces are sent; `None` to send none.
    pub traces: Option<Traces>,
}

/// Where traces are sent, and how many of them.
#[derive(Debug, Clone)]
pub struct Traces {
    /// The collector, which accepts OTLP over gRPC: `http://` or `https://`, a host with an optional
    /// port, and nothing else.
    pub endpoint: Uri,
    /// The authorities to trust for the collector, in PEM; `None` for the system's.
    pub authorities: Option<String>,
    /// The share of new traces that is sent. In a caller's trace, a call follows the caller's sampling
    /// decision.
    pub ratio: Ratio,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Text for people.
    Text,
}

/// Which calls are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogCalls {
    /// All.
    All,
    /// All but plain answers from the cache.
    Notable,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            log_format: LogFormat::Json,
            log_calls: LogCalls::Notable,
            log_level: Targets::new().with_default(LevelFilter::INFO),
            traces: None,
        }
    }
}

impl Settings {
    /// `log_level` is the value from the environment; it overrides the file's.
    pub(super) fn read(mut section: Section, log_level: Option<Targets>) -> Self {
        let default = Self::default();
        let of_file = section.take("log_level");
        let telemetry = Self {
            log_format: section
                .choice("log_format", &[("json", LogFormat::Json), ("text", LogFormat::Text)])
                .unwrap_or(default.log_format),
            log_calls: section
                .choice("log_calls", &[("all", LogCalls::All), ("notable", LogCalls::Notable)])
                .unwrap_or(default.log_calls),
            log_level: log_level.or(of_file).unwrap_or(default.log_level),
            traces: Traces::read(&mut section),
        };
        section.finish();
        telemetry
    }
}

impl Traces {
    fn read(section: &mut Section) -> Option<Self> {
        const ENDPOINT: &str = "otlp_endpoint";
        const AUTHORITIES: &str = "otlp_ca_file";
        const RATIO: &str = "trace_ratio";
        if !section.has(ENDPOINT) {
            for key in [AUTHORITIES, RATIO].into_iter().filter(|key| section.has(key)) {
                section.problem(key, "has no effect without telemetry.otlp_endpoint");
            }
        }
        let ratio = section.take(RATIO).unwrap_or(Ratio(1.0));
        let authorities = section.pem(AUTHORITIES, Pem::Authorities);
        let text: String = section.take(ENDPOINT)?;
        let Some(endpoint) = collector(&text) else {
            let form = "must be like \"http://127.0.0.1:4317\" or \"https://collector.example:4317\": \
                        no user, no password, no path and no query";
            section.problem(ENDPOINT, form);
            return None;
        };
        if authorities.is_some() && endpoint.scheme() == Some(&Scheme::HTTP) {
            section.problem(AUTHORITIES, "needs an otlp_endpoint that begins with https://");
        }
        Some(Self { endpoint, authorities, ratio })
    }
}

/// The URL of a collector; `None` if the text is not one, or has more than scheme, host and port.
fn collector(text: &str) -> Option<Uri> {
    let is_bare = |uri: &Uri| {
        let of_web = [Some(&Scheme::HTTP), Some(&Scheme::HTTPS)].contains(&uri.scheme());
        let place = uri.authority().map_or("", |authority| authority.as_str());
        let host = uri.host().filter(|host| !host.is_empty() && !place.contains('@'));
        let port = host.and_then(|host| place.strip_prefix(host));
        let reachable = port.is_some_and(|port| port.is_empty() || uri.port_u16().is_some());
        of_web && reachable && uri.path() == "/" && uri.query().is_none()
    };
    // The parser drops a fragment silently.
    text.parse().ok().filter(|uri| is_bare(uri) && !text.contains('#'))
}
