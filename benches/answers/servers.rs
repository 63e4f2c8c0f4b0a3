//! The servers that are measured, each with all that it needs beside it.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, Stdio};
use std::sync::Arc;
use std::time::Duration;

use h2::RecvStream;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::client::Target;
use crate::process::{Process, on_first_core};
use crate::redis::{Redis, RedisCluster};
use crate::{Result, collector, load, vendor};

/// The application's name at the vendor, of the account with that number.
fn app_id(account: u64) -> String {
    format!("wx{account:016}")
}

/// How long a server may take to be ready.
const START_LIMIT: Duration = Duration::from_mins(2);

/// A server that a row starts.
#[derive(Clone, Copy)]
pub struct Setup {
    /// The bare server, which has none of the settings.
    pub is_bare: bool,
    /// Settings, each a line. `FOLDER`, `REDIS`, `NODES` and `COLLECTOR` stand for what is started for them.
    pub settings: &'static str,
    /// How long the vendor takes for an answer.
    pub vendor: Duration,
    /// How many accounts there are, each of them named by callers; 0 for one that no caller names.
    pub accounts: u64,
    /// How many clients there are, each with a token; 0 where everyone may ask.
    pub clients: u64,
    pub tls: bool,
    /// How many watches stay open beside the calls.
    pub watches: u64,
}

/// What a server needs beside it, and leaves to the server that starts after it.
pub struct Site {
    setup: Setup,
    vendor: SocketAddr,
    folder: TempDir,
    target: Target,
    redis: Option<Redis>,
    cluster: Option<RedisCluster>,
    tasks: JoinSet<()>,
}

/// A server under test.
pub struct Server {
    pub process: Process,
    pub target: Target,
    /// How long it took from its start until it was ready.
    pub started: Duration,
    admin: Option<SocketAddr>,
    watches: Vec<RecvStream>,
    site: Site,
}

impl Server {
    /// Starts a server, and waits until it is ready.
    pub async fn start(setup: &Setup) -> Result<Self> {
        let mut tasks = JoinSet::new();
        let vendor = vendor::serve(setup.vendor, &mut tasks).await?;
        let target = Target {
            // Known once the server listens.
            address: vendor,
            tls: None,
            tokens: (0..setup.clients)
                .map(|client| format!("Bearer {}", token(client)).try_into())
                .collect::<Result<_, _>>()?,
            accounts: setup.accounts,
        };
        let folder = tempfile::tempdir()?;
        let mut site =
            Site { setup: *setup, vendor, folder, target, redis: None, cluster: None, tasks };
        if !setup.is_bare {
            let config = site.config().await?;
            std::fs::write(site.config_file(), config)?;
        }
        site.launch().await
    }

    /// Lets it know the orders, and opens the watches that stay open beside the calls.
    pub async fn warm(&mut self, orders: u64) -> Result<()> {
        if !self.site.setup.is_bare {
            load::ask_once(&self.target, 0..orders).await?;
        }
        self.watches = load::watch_all(&self.target, self.site.setup.watches).await?;
        Ok(())
    }

    /// Ends the server with that signal, and starts another one in its place.
    pub async fn restart(self, signal: &str) -> Result<Self> {
        self.process.end(signal)?;
        self.site.launch().await
    }

    /// The size of a file in its folder.
    pub fn on_disk(&self, name: &str) -> Result<u64> {
        Ok(std::fs::metadata(self.site.folder.path().join(name))?.len())
    }

    pub fn rss(&self) -> Result<u64> {
        self.process.memory("VmRSS")
    }

    /// The length of an order's key in memory, without the length of the order's id.
    pub fn key_len(&self) -> usize {
        let account = format!("http://{} {}", self.site.vendor, app_id(0));
        serde_json::json!(["wechat", account, "", ""]).to_string().len()
    }

    /// What the server had to drop because nobody took it in time, by the names of its counters.
    pub fn lost(&self) -> Result<String> {
        let Some(admin) = self.admin else { return Ok(String::new()) };
        let (mut stream, mut text) = (TcpStream::connect(admin)?, String::new());
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
        stream.read_to_string(&mut text)?;
        let counters = text.lines().filter_map(|line| line.split_once("_lost_total "));
        let mut lost = String::new();
        for (name, value) in
            counters.filter(|(name, value)| !name.starts_with('#') && *value != "0")
        {
            let name = name.trim_start_matches("order_query_").replace('_', " ");
            write!(lost, "; {name} lost: {value}")?;
        }
        Ok(lost)
    }
}

/// The token of the client with that number.
fn token(client: u64) -> String {
    format!("token-of-client-{client:06}")
}

impl Site {
    fn config_file(&self) -> PathBuf {
        self.folder.path().join("order-query.toml")
    }

    /// Writes the configuration, and starts what it speaks of.
    async fn config(&mut self) -> Result<String> {
        let mut config =
            "server.listen = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\n".to_owned();
        config += self.setup.settings;
        if self.setup.tls {
            self.target.tls = Some(encrypt(self.folder.path(), &mut config)?);
        }
        for account in 0..self.setup.accounts.max(1) {
            let (vendor, app_id) = (self.vendor, app_id(account));
            write!(
                config,
                "[accounts.a{account}]\nprovider = \"wechat\"\nbase_url = \"http://{vendor}\"\n\
                 app_id = \"{app_id}\"\napp_secret = \"secret\"\nfreshness = \"1h\"\n"
            )?;
        }
        for client in 0..self.setup.clients {
            let token = token(client);
            write!(config, "[clients.c{client}]\ntoken = \"{token}\"\n")?;
        }
        if config.contains("REDIS") {
            let redis = Redis::start()?;
            config = config.replace("REDIS", &redis.address.to_string());
            self.redis = Some(redis);
        }
        if config.contains("NODES") {
            let cluster = RedisCluster::start()?;
            config = config.replace("NODES", &cluster.addresses());
            self.cluster = Some(cluster);
        }
        if config.contains("COLLECTOR") {
            let collector = collector::serve(&mut self.tasks).await?;
            config = config.replace("COLLECTOR", &collector.to_string());
        }
        Ok(config.replace("FOLDER", &self.folder.path().to_string_lossy()))
    }

    async fn launch(mut self) -> Result<Server> {
        let mut command = if self.setup.is_bare {
            let mut command = on_first_core(&std::env::current_exe()?);
            command.args(["bare", &self.vendor.to_string()]);
            command
        } else {
            let mut command = on_first_core(Path::new(env!("CARGO_BIN_EXE_order-query")));
            command.args(["serve", "--config"]).arg(self.config_file());
            command
        };
        let begin = Instant::now();
        let mut process = Process(command.stderr(Stdio::piped()).spawn()?);
        let log = process.0.stderr.take().ok_or("the server has no log")?;
        let (address, admin) = addresses(log)?;
        self.target.address = address;
        timeout(START_LIMIT, ready(&self.target)).await.map_err(|_| "the server is not ready")?;
        let (started, target) = (begin.elapsed(), self.target.clone());
        Ok(Server { process, target, started, admin, watches: Vec::new(), site: self })
    }
}

/// Waits until the server is ready.
async fn ready(target: &Target) {
    while !target.is_serving().await.unwrap_or(false) {
        sleep(Duration::from_millis(1)).await;
    }
}

/// Reads where a server listens: for callers, and for probes.
fn addresses(log: ChildStderr) -> Result<(SocketAddr, Option<SocketAddr>)> {
    let (mut log, mut said) = (BufReader::new(log).lines(), String::new());
    for line in log.by_ref() {
        let line = line?;
        let fields: Value = serde_json::from_str(&line).unwrap_or_default();
        if fields["message"] == "listening" {
            let address = |name: &str| fields[name].as_str().unwrap_or_default().parse();
            let found = (address("address")?, address("admin_address").ok());
            // A log that nobody reads would fill up.
            std::thread::spawn(move || log.for_each(drop));
            return Ok(found);
        }
        said = line;
    }
    Err(format!("the server ended instead of listening: {said}").into())
}

/// Makes a certificate for the server, and settings that name it. Returns how clients connect.
fn encrypt(folder: &Path, config: &mut String) -> Result<TlsConnector> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    std::fs::write(folder.join("tls.crt"), made.cert.pem())?;
    std::fs::write(folder.join("tls.key"), made.signing_key.serialize_pem())?;
    *config += "server.tls.cert_file = \"tls.crt\"\nserver.tls.key_file = \"tls.key\"\n";
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut client = versions.with_root_certificates(roots).with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(client).into())
}
