//! Puts the parts together, and runs them until told to stop. Used by `cli` and by tests.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::clock::Clock;
use crate::config::{Config, Problem, Problems, Reload, Reloaded, Section};
use crate::grpc::callers::{Callers, Transport};
use crate::health::Health;
use crate::orders::{Accounts, Orders};
use crate::store;
use crate::{grpc, pb, server};

/// How often files that may change are read.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

/// A configuration that was found to be in order, with its accounts ready to be asked.
pub struct Setup {
    /// What is set outside the accounts.
    pub config: Config,
    /// The accounts.
    pub accounts: Accounts,
    /// Who may ask.
    pub callers: Callers,
    /// What is allowed and may still be a mistake.
    pub warnings: Vec<Problem>,
    reloads: Vec<Reload>,
    clock: Arc<dyn Clock>,
}

impl Setup {
    /// Reads a configuration. `more` holds accounts that are added to its own.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read(
        mut root: Section,
        more: Option<Section>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Problems> {
        let tls = root.has_at(&["server"], "tls");
        let certificates = root.has_at(&["server", "tls"], "client_ca_file");
        let clients = root.has("clients").then(|| root.section("clients"));
        let config = Config::read(&mut root);
        let mut documents: Vec<Section> = [root].into_iter().chain(more).collect();
        let tables = documents.iter_mut().flat_map(|root| root.section("accounts").sections());
        let tables: Vec<_> = tables.collect();
        let names: Vec<_> = tables.iter().map(|(name, _)| name.clone()).collect();
        let exposed = !tls && !config.server.listen.ip().is_loopback();
        let callers = Callers::read(clients, &names, Transport { certificates, exposed }, &clock);
        let accounts = Accounts::read(tables, &clock);
        let places: Vec<Section> = documents.iter().map(Section::place).collect();
        documents.into_iter().for_each(Section::finish);
        let mut problems: Vec<_> = places.iter().flat_map(Section::problems).collect();
        if let Err(text) = store::check(&config.store) {
            problems.push(Problem { path: "store.url".to_owned(), text });
        }
        if problems.is_empty() && accounts.is_empty() {
            let text = "none is configured, so nothing could be asked".to_owned();
            problems.push(Problem { path: "accounts".to_owned(), text });
        }
        if problems.is_empty() && callers.count() == Some(0) {
            let text = "none is configured, so nobody could ask; without this table anyone can";
            problems.push(Problem { path: "clients".to_owned(), text: text.to_owned() });
        }
        if problems.is_empty() {
            let warnings = places.iter().flat_map(Section::warnings).collect();
            let reloads = places.iter().flat_map(Section::reloads).collect();
            Ok(Self { config, accounts, callers, warnings, reloads, clock })
        } else {
            Err(Problems(problems))
        }
    }
}

/// A running server.
pub struct App {
    /// Where callers connect.
    pub address: SocketAddr,
    /// Where probes connect.
    pub admin_address: SocketAddr,
    ready: watch::Sender<bool>,
    stopping: CancellationToken,
    servers: [JoinHandle<()>; 2],
}

impl App {
    /// Opens both listeners and begins to answer.
    ///
    /// # Errors
    /// Where the store cannot be opened, or an address not listened on.
    pub async fn start(setup: Setup) -> io::Result<Self> {
        let Setup { config, accounts, callers, warnings, reloads, clock } = setup;
        for Problem { path, text } in warnings {
            tracing::warn!(path, "{path}: {text}");
        }
        let listener = bind("server.listen", config.server.listen).await?;
        let admin_listener = bind("admin.listen", config.admin.listen).await?;
        let (address, admin_address) = (listener.local_addr()?, admin_listener.local_addr()?);

        let store = store::open(&config.store, &clock).map_err(io::Error::other)?;
        let orders = Orders::new(accounts, Arc::clone(&store), Arc::clone(&clock));
        let (ready, is_ready) = watch::channel(false);
        let stopping = CancellationToken::new();
        tokio::spawn(stopping.clone().run_until_cancelled_owned(reload(reloads, clock)));
        let health = Health::new(&orders, &is_ready);
        let admin_routes = Routes::new(health.service());
        let mut routes = Routes::new(health.service()).add_service(grpc::service(
            orders,
            callers,
            config.server.request_timeout,
        ));
        if config.server.reflection {
            routes = add_reflection(routes)?;
        }
        let servers = [
            tokio::spawn(server::serve(admin_listener, admin_routes, stopping.clone())),
            tokio::spawn(server::serve(listener, routes, stopping.clone())),
        ];
        if store.opened().now_or_never().is_none() {
            tracing::warn!("not ready before the store can be reached");
            let (ready, stopping) = (ready.clone(), stopping.clone());
            tokio::spawn(async move {
                if stopping.run_until_cancelled(store.opened()).await.is_some() {
                    ready.send_replace(!stopping.is_cancelled());
                }
            });
        } else {
            ready.send_replace(true);
        }
        tracing::info!(%address, %admin_address, "listening");
        Ok(Self { address, admin_address, ready, stopping, servers })
    }

    /// Stops to accept calls, answers those under way, and ends.
    pub async fn stop(self) {
        tracing::info!("stopping; calls under way are answered first");
        self.ready.send_replace(false);
        self.stopping.cancel();
        for server in self.servers {
            // A server that panicked has ended as well.
            let _ = server.await;
        }
        tracing::info!("stopped");
    }
}

/// Looks again and again for files that changed.
async fn reload(mut reloads: Vec<Reload>, clock: Arc<dyn Clock>) {
    loop {
        clock.sleep_until(clock.now() + RELOAD_INTERVAL).await;
        let check = move || {
            let news: Vec<_> = reloads.iter_mut().filter_map(Reload::check).collect();
            (reloads, news)
        };
        let Ok((checked, news)) = tokio::task::spawn_blocking(check).await else {
            tracing::error!("files that change are not read again: looking for changes panicked");
            return;
        };
        reloads = checked;
        for Reloaded { path, outcome } in news {
            match outcome {
                Ok(()) => tracing::info!(path, "files have changed and are in use"),
                Err(problem) => {
                    tracing::warn!(
                        path,
                        problem,
                        "files have changed and are unfit; the old ones stay in use"
                    );
                }
            }
        }
    }
}

async fn bind(setting: &str, address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        io::Error::new(error.kind(), format!("cannot listen on {address} ({setting}): {error}"))
    })
}

/// Adds reflection in both versions: official clients still ask with v1alpha.
fn add_reflection(routes: Routes) -> io::Result<Routes> {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let v1 = builder().build_v1().map_err(io::Error::other)?;
    let v1alpha = builder().build_v1alpha().map_err(io::Error::other)?;
    Ok(routes.add_service(v1).add_service(v1alpha))
}
