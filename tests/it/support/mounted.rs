//! A folder of secrets as Kubernetes mounts it: each file is a link into a folder that is itself a
//! link, and a change swaps that link. Used by the tests of reloading.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use order_query::clock::ManualClock;
use order_query::pb::{GetOrderRequest, Provider};
use tempfile::TempDir;
use tonic::Request;

use crate::support::child::PATIENCE;
use crate::support::{Scripted, Server, question};

/// How often a server polls its files.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);

/// The file that shows which swap the server has read.
const MARKER: &str = "marker";

/// The folder.
pub struct Mounted {
    directory: TempDir,
    generation: Cell<u32>,
}

impl Mounted {
    /// A folder with these files.
    pub fn new(files: &[(&str, &str)]) -> Self {
        let mounted = Self { directory: tempfile::tempdir().unwrap(), generation: Cell::new(0) };
        mounted.swap(files);
        for name in files.iter().map(|(name, _)| *name).chain([MARKER]) {
            symlink(format!("..data/{name}"), mounted.path(name)).unwrap();
        }
        mounted
    }

    /// Replaces all contents.
    pub fn swap(&self, files: &[(&str, &str)]) {
        let generation = self.generation.replace(self.generation.get() + 1);
        let name = format!("..{generation}");
        fs::create_dir(self.path(&name)).unwrap();
        let marker = generation.to_string();
        for (file, content) in files.iter().copied().chain([(MARKER, marker.as_str())]) {
            fs::write(self.path(&name).join(file), content).unwrap();
        }
        symlink(&name, self.path("..new")).unwrap();
        fs::rename(self.path("..new"), self.path("..data")).unwrap();
        if let Some(before) = generation.checked_sub(1) {
            fs::remove_dir_all(self.path(&format!("..{before}"))).unwrap();
        }
    }

    /// Where the files are.
    pub fn folder(&self) -> &Path {
        self.directory.path()
    }

    /// A file's path.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A secret in this file, as configuration.
    pub fn secret(&self, name: &str) -> String {
        format!("{{ file = {:?} }}", self.path(name).to_str().unwrap())
    }
}

/// An account whose vendor sees which swap the server has read. It is the last one in its
/// configuration, so that whatever else was swapped has been read by then.
pub struct Witness(Scripted);

impl Witness {
    /// The account's vendor.
    pub async fn start() -> Self {
        Self(Scripted::start().await)
    }

    /// The account as configuration.
    pub fn account(&self, mounted: &Mounted) -> String {
        format!(
            "[accounts.zz-witness]\nprovider = \"dingshang\"\napp_id = \"ds\"\n\
             machine_no = \"16327129\"\napp_key = \"k\"\napp_secret = {}\n\
             base_url = \"http://{}\"\n",
            mounted.secret(MARKER),
            self.0.address
        )
    }

    /// Advances time until the server has read the last swap.
    pub async fn until_reloaded(&self, server: &Server, clock: &ManualClock, mounted: &Mounted) {
        self.until_reloaded_for("", server, clock, mounted).await;
    }

    /// The same for a server that authenticates callers by token.
    pub async fn until_reloaded_for(
        &self,
        token: &str,
        server: &Server,
        clock: &ManualClock,
        mounted: &Mounted,
    ) {
        let last = (mounted.generation.get() - 1).to_string();
        until(clock, async || {
            let id = (self.0.asked().len() + 1).to_string();
            let account = "zz-witness".to_owned();
            let order = GetOrderRequest { account, ..question(Provider::Dingshang, &id) };
            let mut order = Request::new(order);
            let bearer = format!("Bearer {token}").parse().unwrap();
            order.metadata_mut().insert("authorization", bearer);
            server.ask(order).await.unwrap_err();
            self.0.asked().last().unwrap().headers["appsecret"] == last
        })
        .await;
    }
}

/// Advances the server's clock, so that it polls its files, until the condition holds.
pub async fn until(clock: &ManualClock, mut so: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !so().await {
            clock.advance(RELOAD_INTERVAL);
            // The files are read on a separate thread.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it never came to be so");
}
