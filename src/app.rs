//! Wires the modules together and runs them until shutdown. Used by `cli` and by tests.

mod admin;
mod descriptors;
mod public;
mod reflection;
mod reload;
mod settings;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

pub use self::settings::{Admin, Config};
use crate::accounts::Accounts;
use crate::clock::Clock;
use crate::config::{Problem, Problems, Reload, Section};
use crate::grpc::auth::{Clients, Transport};
use crate::health::Health;
use crate::orders::Orders;
use crate::server::{Handler, Limits, Listener, ListenerOptions, Tls};
use crate::store::Store;
use crate::telemetry::metrics::Metrics;
use crate::{grpc, server, store};

/// The connection limit of the admin listener: a few for each probe and each scraper.
const ADMIN_CONNECTIONS: u32 = 100;

/// An admin connection without a request for this long is closed.
const ADMIN_IDLE: Duration = Duration::from_secs(30);

const SERVER: Listener = Listener { name: "server", limit: "max_connections", http1: false };
const ADMIN: Listener = Listener { name: "admin", limit: "admin_connections", http1: true };

/// A valid configuration, with accounts that are ready for calls.
pub struct Setup {
    /// The settings of `[server]`, `[admin]`, `[store]` and `[telemetry]`.
    pub config: Config,
    /// The accounts.
    pub accounts: Accounts,
    /// The clients that may call.
    pub callers: Clients,
    /// Settings that are allowed and may still be mistakes.
    pub warnings: Vec<Problem>,
    /// The server's metrics.
    pub metrics: Metrics,
    tls: Option<Tls>,
    reloads: Vec<Reload>,
    /// The clock of everything that is set up.
    pub(crate) clock: Arc<dyn Clock>,
}

impl Setup {
    /// Reads a configuration. The accounts in `more` are added to those in `root`.
    ///
    /// # Errors
    /// Every problem in the configuration.
    pub fn read(
        mut root: Section,
        more: Option<Section>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Problems> {
        let metrics = Metrics::default();
        let is_of_this_machine = root.is_of_this_machine();
        let clients = root.has("clients").then(|| root.section("clients"));
        let mut server = root.section("server");
        let tls = server.has("tls").then(|| server.section("tls"));
        let config = Config::read(&mut root, server, tls.is_some());
        let transport = Transport {
            certificates: tls.as_ref().is_some_and(|tls| tls.has("client_ca_file")),
            exposed: tls.is_none() && !config.server.listen.ip().is_loopback(),
        };
        let tls = tls.and_then(|tls| Tls::read(tls, &clock, &metrics));
        let mut documents: Vec<Section> = [root].into_iter().chain(more).collect();
        let tables = documents.iter_mut().flat_map(|root| root.section("accounts").sections());
        let tables: Vec<_> = tables.collect();
        let names: Vec<_> = tables.iter().map(|(name, _)| name.clone()).collect();
        let callers = Clients::read(clients, &names, transport, &clock, &metrics);
        let accounts = Accounts::read(tables, config.server.max_in_flight, &clock, &metrics);
        let places: Vec<Section> = documents.iter().map(Section::place).collect();
        documents.into_iter().for_each(Section::finish);
        let mut problems: Vec<_> = places.iter().flat_map(Section::problems).collect();
        if problems.is_empty() && accounts.is_empty() {
            let text = "none is configured, so no order can be queried".to_owned();
            problems.push(Problem { path: "accounts".to_owned(), text });
        }
        if problems.is_empty() && callers.count() == Some(0) {
            let text = "none is configured, so every call would be rejected; without this table \
                        every caller is accepted";
            problems.push(Problem { path: "clients".to_owned(), text: text.to_owned() });
        }
        if problems.is_empty() {
            let mut warnings: Vec<_> = places.iter().flat_map(Section::warnings).collect();
            let of_descriptors = descriptors::shortage(&config, &accounts);
            warnings.extend(
                of_descriptors
                    .filter(|_| is_of_this_machine)
                    .map(|text| Problem { path: "server.max_connections".to_owned(), text }),
            );
            let reloads = places.iter().flat_map(Section::reloads).collect();
            Ok(Self { config, accounts, callers, warnings, metrics, tls, reloads, clock })
        } else {
            Err(Problems(problems))
        }
    }

    /// Whether callers connect over TLS.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }
}

/// A running server.
pub struct App {
    /// Where callers connect.
    pub address: SocketAddr,
    /// Where probes connect.
    pub admin_address: SocketAddr,
    orders: Orders,
    ready: watch::Sender<bool>,
    draining: CancellationToken,
    stopping: CancellationToken,
    servers: [JoinHandle<()>; 2],
    drain_delay: Duration,
    drain_timeout: Duration,
}

impl App {
    /// Opens both listeners and starts to serve.
    ///
    /// # Errors
    /// If the store cannot be opened, or if the server cannot listen on an address.
    pub async fn start(setup: Setup) -> io::Result<Self> {
        let Setup { config, accounts, callers, warnings, metrics, tls, reloads, clock } = setup;
        let server::Settings { drain_delay, drain_timeout, .. } = config.server;
        log_warnings(&warnings);
        descriptors::raise();
        let listener = bind("server.listen", config.server.listen).await?;
        let admin_listener = bind("admin.listen", config.admin.listen).await?;
        let (address, admin_address) = (listener.local_addr()?, admin_listener.local_addr()?);

        let store = store::open(&config.store, &clock, &metrics).map_err(io::Error::other)?;
        let orders = Orders::new(accounts, Arc::clone(&store), Arc::clone(&clock));
        let (ready, is_ready) = watch::channel(false);
        let (draining, stopping) = (CancellationToken::new(), CancellationToken::new());
        let reloading = reload::watch(reloads, clock, metrics.clone());
        tokio::spawn(stopping.clone().run_until_cancelled_owned(reloading));
        let health = Health::new(&orders, &is_ready);
        // Anyone who can connect may call the health service, so it has the same request limit as the
        // order service.
        let health =
            || Routes::new(health.service().max_decoding_message_size(grpc::REQUEST_LIMIT));
        let admission = grpc::Admission::new(&grpc_limits(&config.server), &metrics);
        let admin_routes = admin::routes(
            health(),
            orders.clone(),
            callers.clone(),
            admission.clone(),
            is_ready,
            metrics.clone(),
        );
        let limits = admin_limits(&config.server);
        let admin = plain(ADMIN, Arc::new(admin_routes), limits, &metrics, &stopping);
        let handler =
            public::handler(&config, orders.clone(), callers, admission, &metrics, health())?;
        let limits = server_limits(&config.server);
        let public = ListenerOptions { tls, ..plain(SERVER, handler, limits, &metrics, &stopping) };
        let servers = [
            tokio::spawn(server::serve(listener, public)),
            tokio::spawn(server::serve(admin_listener, admin)),
        ];
        await_store(store, ready.clone(), draining.clone());
        tracing::info!(%address, %admin_address, "listening");
        Ok(Self {
            address,
            admin_address,
            orders,
            ready,
            draining,
            stopping,
            servers,
            drain_delay,
            drain_timeout,
        })
    }

    /// Shuts down. First reports not ready and keeps serving for `drain_delay`. Then finishes the calls
    /// in flight and stores the vendors' answers. Ends at most `drain_timeout` after the start, even if
    /// something hangs.
    pub async fn stop(mut self) {
        let end = Instant::now() + self.drain_timeout;
        tracing::info!("stopping; calls in progress are answered first");
        self.draining.cancel();
        self.ready.send_replace(false);
        tokio::time::sleep(self.drain_delay).await;
        self.stopping.cancel();
        let idle = async {
            for server in &mut self.servers {
                // A server that panicked has ended as well.
                let _ = server.await;
            }
            self.orders.idle().await;
        };
        if timeout_at(end, idle).await.is_err() {
            tracing::warn!("work still in progress at the end of server.drain_timeout was aborted");
            self.servers.iter().for_each(JoinHandle::abort);
        }
        tracing::info!("stopped");
    }
}

fn log_warnings(warnings: &[Problem]) {
    for Problem { path, text } in warnings {
        tracing::warn!(path, "{path}: {text}");
    }
}

/// The options of a listener in plaintext.
fn plain(
    listener: Listener,
    handler: Arc<dyn Handler>,
    limits: Limits,
    metrics: &Metrics,
    stopping: &CancellationToken,
) -> ListenerOptions {
    let (metrics, stopping) = (metrics.clone(), stopping.clone());
    ListenerOptions { listener, metrics, handler, tls: None, limits, stopping }
}

/// The limits of calls to `OrderService`.
fn grpc_limits(server: &server::Settings) -> grpc::Limits {
    let server::Settings { max_in_flight, max_watches, .. } = *server;
    grpc::Limits { max_in_flight, max_watches }
}

/// The limits of the listener for callers.
fn server_limits(server: &server::Settings) -> Limits {
    Limits {
        max_connections: server.max_connections,
        max_connection_age: server.max_connection_age,
        longest_call: server.request_timeout,
        calls: server.max_in_flight as usize + server.max_watches as usize,
        idle: None,
    }
}

/// The limits of the admin listener.
fn admin_limits(server: &server::Settings) -> Limits {
    Limits {
        max_connections: ADMIN_CONNECTIONS,
        calls: 0,
        idle: Some(ADMIN_IDLE),
        ..server_limits(server)
    }
}

/// Reports ready when the store has been reached, unless the server is shutting down by then.
fn await_store(store: Arc<dyn Store>, ready: watch::Sender<bool>, draining: CancellationToken) {
    if store.opened().now_or_never().is_some() {
        ready.send_replace(true);
        return;
    }
    tracing::warn!("not ready until the store can be reached");
    tokio::spawn(async move {
        if draining.run_until_cancelled(store.opened()).await.is_some() {
            ready.send_if_modified(|ready| {
                *ready = !draining.is_cancelled();
                *ready
            });
        }
    });
}

async fn bind(setting: &str, address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        io::Error::new(error.kind(), format!("cannot listen on {address} ({setting}): {error}"))
    })
}
