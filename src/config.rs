//! Reads the configuration, one TOML file, and reports every mistake at once, each with its path.
//! Depends on no other module but `certificate`; every module may use it to read its own settings (see
//! [`Section`]).

mod context;
mod file;
mod problem;
mod reload;
mod secret;
mod section;
mod value;

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use http::uri::Scheme;
use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::certificate::Pem;

pub use context::Context;
pub use file::{PEM_LIMIT, read_file, read_pem};
pub use problem::{Problem, Problems};
pub use reload::{Look, Reload, Take};
pub use secret::{RotatingSecret, Secret, read_secret};
pub use section::{Section, is_name};
pub use value::{Ratio, Value};

/// Overrides `telemetry.log_level`, to see more detail without changing the file.
const LOG_VARIABLE: &str = "ORDER_QUERY_LOG";

/// How many bytes of orders a store caches in memory: the allowed range, and the default.
const CACHE_BYTES: RangeInclusive<u32> = 1 << 20..=u32::MAX;
const DEFAULT_CACHE_BYTES: u32 = 64 << 20;

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// The settings of `[server]`, `[admin]`, `[store]` and `[telemetry]`.
#[derive(Debug, Clone)]
pub struct Config {
    /// The listener that callers use.
    pub server: Server,
    /// The listener for probes.
    pub admin: Admin,
    /// Where state is stored.
    pub store: Store,
    /// Logs and traces.
    pub telemetry: Telemetry,
}

/// `[store]`
#[derive(Debug, Clone)]
pub struct Store {
    /// `url`
    pub place: StorePlace,
    /// How many bytes of orders are cached in memory.
    pub cache_bytes: usize,
}

/// Where state is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorePlace {
    /// `memory:`: for the life of the process.
    Memory,
    /// `file:PATH`: on one machine, for one process at a time.
    File(PathBuf),
    /// `redis://…` or `rediss://…`: for several replicas. The URL may hold a password.
    Redis(Secret),
}

/// `[server]`
#[derive(Debug, Clone)]
pub struct Server {
    /// Where callers connect; port 0 means any free port.
    pub listen: SocketAddr,
    /// How long a call may take: the default if its caller sets no deadline, and the maximum if it does.
    pub request_timeout: Duration,
    /// How many calls may be in flight, not counting watches.
    pub max_in_flight: u32,
    /// How many watches may be open.
    pub max_watches: u32,
    /// How many connections may be open.
    pub max_connections: u32,
    /// How long a connection may live before its peer is asked to reconnect.
    pub max_connection_age: Duration,
    /// How long the server keeps serving after it is told to stop.
    pub drain_delay: Duration,
    /// How long shutdown may take, including `drain_delay`.
    pub drain_timeout: Duration,
    /// Whether gRPC reflection is served.
    pub reflection: bool,
}

/// `[admin]`
#[derive(Debug, Clone)]
pub struct Admin {
    /// Where probes connect; port 0 means any free port.
    pub listen: SocketAddr,
}

/// `[telemetry]`
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// The format of log lines.
    pub log_format: LogFormat,
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

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            log_format: LogFormat::Json,
            log_level: Targets::new().with_default(LevelFilter::INFO),
            traces: None,
        }
    }
}

impl Config {
    /// Reads these sections; the vendors' modules read the accounts. `server` is the section of that
    /// name in `root`, and other modules may already have read keys of it; `encrypted` says whether
    /// `server.tls` was among them.
    pub fn read(root: &mut Section, server: Section, encrypted: bool) -> Self {
        let log_level = root.environment(LOG_VARIABLE);
        let server = Server::read(server, encrypted);
        Self {
            admin: Admin::read(root.section("admin"), server.listen),
            server,
            store: Store::read(root.section("store")),
            telemetry: Telemetry::read(root.section("telemetry"), log_level),
        }
    }
}

impl Server {
    fn read(mut section: Section, encrypted: bool) -> Self {
        let listen = section.take("listen").unwrap_or(SocketAddr::from(([127, 0, 0, 1], 50051)));
        let insecure = section.take("insecure").unwrap_or(false);
        if !listen.ip().is_loopback() && !encrypted && !insecure {
            section.problem(
                "listen",
                "is not a loopback address, and the traffic is plaintext: listen on 127.0.0.1, \
                 set server.tls, or set server.insecure = true where the network is trusted",
            );
        }
        let ms = Duration::from_millis;
        let mut duration =
            |key, least, most, default| section.duration(key, least..=most).unwrap_or(default);
        let request_timeout = duration("request_timeout", ms(1), HOUR, Duration::from_secs(15));
        let max_connection_age =
            duration("max_connection_age", ms(100), DAY, Duration::from_mins(10));
        let drain_delay = duration("drain_delay", Duration::ZERO, HOUR, Duration::from_secs(5));
        let drain_timeout = duration("drain_timeout", ms(1), HOUR, Duration::from_secs(20));
        if drain_delay >= drain_timeout {
            let text = "must be longer than server.drain_delay, which is a part of it";
            section.problem("drain_timeout", text);
        }
        let server = Self {
            listen,
            request_timeout,
            max_in_flight: section.count("max_in_flight", 1..=100_000).unwrap_or(512),
            max_watches: section.count("max_watches", 1..=100_000).unwrap_or(1024),
            max_connections: section.count("max_connections", 1..=100_000).unwrap_or(1024),
            max_connection_age,
            drain_delay,
            drain_timeout,
            reflection: section.take("reflection").unwrap_or(false),
        };
        section.finish();
        server
    }
}

impl Admin {
    fn read(mut section: Section, server_listen: SocketAddr) -> Self {
        let listen = section.take("listen").unwrap_or(SocketAddr::from(([127, 0, 0, 1], 9090)));
        if clash(listen, server_listen) {
            section.problem("listen", "is the same address as server.listen");
        }
        section.finish();
        Self { listen }
    }
}

/// Whether one process cannot listen on both: an unspecified address overlaps every address of the
/// machine.
fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    let (ip, other_ip) = (one.ip().to_canonical(), other.ip().to_canonical());
    // A listener on all IPv6 addresses accepts IPv4 as well.
    let holds =
        |ip: IpAddr, other: IpAddr| ip.is_unspecified() && (ip.is_ipv6() || other.is_ipv4());
    let overlap = ip == other_ip || holds(ip, other_ip) || holds(other_ip, ip);
    one.port() == other.port() && one.port() != 0 && overlap
}

impl Store {
    fn read(mut section: Section) -> Self {
        const FORMS: &str = "must be \"memory:\", \"file:PATH\", \"redis://HOST:PORT/0\" or the \
                             same with rediss://";
        let url: Option<Secret> = section.take("url");
        if let Some(url) = &url {
            section.warn_of_unseen("url", url);
        }
        let path = url.as_ref().and_then(|url| url.expose().strip_prefix("file:"));
        let place = match url.as_ref().map(Secret::expose) {
            None | Some("memory:") => StorePlace::Memory,
            Some(url) if url.starts_with("redis://") || url.starts_with("rediss://") => {
                StorePlace::Redis(Secret::from(url))
            }
            Some(_) => {
                let path = path.filter(|path| !path.is_empty());
                if path.is_none() {
                    section.problem("url", FORMS);
                }
                StorePlace::File(section.resolve(path.unwrap_or_default()))
            }
        };
        let bytes = section.count("cache_bytes", CACHE_BYTES).unwrap_or(DEFAULT_CACHE_BYTES);
        section.finish();
        Self { place, cache_bytes: usize::try_from(bytes).unwrap_or(usize::MAX) }
    }
}

impl Telemetry {
    /// `log_level` is the value from the environment; it overrides the file's.
    fn read(mut section: Section, log_level: Option<Targets>) -> Self {
        let default = Self::default();
        let of_file = section.take("log_level");
        let telemetry = Self {
            log_format: section
                .choice("log_format", &[("json", LogFormat::Json), ("text", LogFormat::Text)])
                .unwrap_or(default.log_format),
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
                section.problem(key, "does nothing without telemetry.otlp_endpoint");
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
