//! The settings outside the accounts and the clients: each module reads its own. Used by `app`.

use std::net::{IpAddr, SocketAddr};

use crate::config::Section;
use crate::{server, store, telemetry};

/// Overrides `telemetry.log_level`, to see more detail without changing the file.
const LOG_VARIABLE: &str = "ORDER_QUERY_LOG";

/// The settings of `[server]`, `[admin]`, `[store]` and `[telemetry]`.
#[derive(Debug, Clone)]
pub struct Config {
    /// The listener that callers use.
    pub server: server::Settings,
    /// The listener for probes.
    pub admin: Admin,
    /// Where state is stored.
    pub store: store::Settings,
    /// Logs and traces.
    pub telemetry: telemetry::Settings,
}

/// `[admin]`
#[derive(Debug, Clone)]
pub struct Admin {
    /// Where probes connect; port 0 means any free port.
    pub listen: SocketAddr,
}

impl Config {
    /// Reads these sections; the vendors' modules read the accounts. `server` is the section of that
    /// name in `root`, and other modules may already have read keys of it; `encrypted` says whether
    /// `server.tls` was among them.
    pub fn read(root: &mut Section, server: Section, encrypted: bool) -> Self {
        let log_level = root.environment(LOG_VARIABLE);
        let server = server::Settings::read(server, encrypted);
        Self {
            admin: Admin::read(root.section("admin"), server.listen),
            server,
            store: store::Settings::read(root.section("store")),
            telemetry: telemetry::read(root.section("telemetry"), log_level),
        }
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
