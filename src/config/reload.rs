//! Files that are reloaded when they change, such as secrets and certificates that are rotated while
//! the server runs. `app` polls for changes; the module that registers files with
//! [`Section::watch`](super::Section::watch) applies their new contents.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};

use super::file::read_file;

/// Applies the new contents of files, or returns what is wrong with them.
pub type Take = Box<dyn FnMut(&[String]) -> Result<(), String> + Send>;

/// A set of files that belong together, such as a certificate and its key.
pub struct Reload {
    /// The setting's path: `server.tls`.
    path: String,
    files: Vec<PathBuf>,
    limit: u64,
    hashes: RandomState,
    /// The last contents that were stable, valid or not.
    last: Found,
    /// Newer contents that one check has seen; their writer may not have finished.
    seen: Option<Found>,
    take: Take,
}

/// The hash of the files' contents, or why they cannot be read. The contents are not stored, because
/// they may be secrets.
type Found = Result<u64, String>;

/// The result of one check of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// The contents have not changed.
    Same,
    /// The contents differ from those of the last check: a writer may be halfway through a file.
    Changing,
    /// The contents have changed and were the same in two checks. The error says what is wrong with
    /// them; the old contents then stay in use.
    Changed(Result<(), String>),
}

impl Reload {
    /// Watches files of at most `limit` bytes each; `contents` are in use now.
    pub(super) fn new(
        path: String,
        files: Vec<PathBuf>,
        limit: u64,
        contents: &[String],
        take: Take,
    ) -> Self {
        let hashes = RandomState::new();
        let last = Ok(hashes.hash_one(contents));
        Self { path, files, limit, hashes, last, seen: None, take }
    }

    /// The setting's path: `server.tls`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Reads the files, and applies new contents that two checks in a row have found the same. Compares
    /// contents, not modification times: Kubernetes swaps a symbolic link to a directory.
    pub fn check(&mut self) -> Look {
        let texts: Result<Vec<String>, String> =
            self.files.iter().map(|file| read_again(file, self.limit)).collect();
        let now = texts.as_ref().map(|texts| self.hashes.hash_one(texts)).map_err(Clone::clone);
        let before = self.seen.take();
        if now == self.last {
            return Look::Same;
        }
        if before.as_ref() != Some(&now) {
            self.seen = Some(now);
            return Look::Changing;
        }
        self.last = now;
        Look::Changed(texts.and_then(|texts| (self.take)(&texts)))
    }
}

/// Reads the text of a file. Does not open a pipe that has replaced the file: that would wait for a
/// writer, and no other file would be checked any more.
fn read_again(path: &Path, limit: u64) -> Result<String, String> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => {
            Err(format!("{} is not a regular file", path.display()))
        }
        _ => read_file(path, limit),
    }
}
