//! The settings of the listener for callers. Used by `app`.

use std::net::SocketAddr;
use std::time::Duration;

use crate::config::Section;

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// `[server]`
#[derive(Debug, Clone)]
pub struct Settings {
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

impl Settings {
    /// Reads `[server]`, whose `tls` has been read already: `encrypted` says whether there is one. What is wrong
    /// is recorded as a problem.
    pub fn read(mut section: Section, encrypted: bool) -> Self {
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
