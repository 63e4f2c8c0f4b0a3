//! Files that are read again when they change, such as secrets and certificates that are rotated
//! while the server runs. `app` looks for changes; whoever reads a file with
//! [`Section::watch`](super::Section::watch) says what becomes of the new contents.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};

use super::section::read_file;

/// What takes over the new contents of files, or says what is wrong with them.
pub type Take = Box<dyn FnMut(&[String]) -> Result<(), String> + Send>;

/// A set of files that belong together, such as a certificate and its key.
pub struct Reload {
    /// The setting's place: `server.tls`.
    path: String,
    files: Vec<PathBuf>,
    limit: u64,
    hashes: RandomState,
    /// The hash of what was read last, fit or not: the contents may be secrets, and are not kept.
    last: Result<u64, String>,
    take: Take,
}

/// What became of files that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reloaded {
    /// The setting's place: `server.tls`.
    pub path: String,
    /// What is wrong with the new contents; the old ones are used on.
    pub outcome: Result<(), String>,
}

impl Reload {
    /// Files of at most `limit` bytes each, whose contents are in use.
    pub(super) fn new(
        path: String,
        files: Vec<PathBuf>,
        limit: u64,
        contents: &[String],
        take: Take,
    ) -> Self {
        let hashes = RandomState::new();
        let last = Ok(hashes.hash_one(contents));
        Self { path, files, limit, hashes, last, take }
    }

    /// The setting's place: `server.tls`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Reads the files, and hands them over where they differ from what was read last. Contents
    /// are compared, not times: Kubernetes swaps a link to a folder.
    pub fn check(&mut self) -> Option<Reloaded> {
        let texts: Result<Vec<String>, String> =
            self.files.iter().map(|file| read_again(file, self.limit)).collect();
        let now = texts.as_ref().map(|texts| self.hashes.hash_one(texts)).map_err(Clone::clone);
        if now == self.last {
            return None;
        }
        self.last = now;
        let outcome = texts.and_then(|texts| (self.take)(&texts));
        Some(Reloaded { path: self.path.clone(), outcome })
    }
}

/// The text of a file. A pipe that has come in its place is not opened: that would wait for who
/// writes to it, and all other files would not be looked at any more.
fn read_again(path: &Path, limit: u64) -> Result<String, String> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => {
            Err(format!("{} is not a regular file", path.display()))
        }
        _ => read_file(path, limit),
    }
}
