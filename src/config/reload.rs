//! Files that are read again when they change, such as secrets and certificates that are rotated
//! while the server runs. `app` looks for changes; whoever reads a file with
//! [`Section::watch`](super::Section::watch) says what becomes of the new contents.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};

use super::file::read_file;

/// What takes over the new contents of files, or says what is wrong with them.
pub type Take = Box<dyn FnMut(&[String]) -> Result<(), String> + Send>;

/// A set of files that belong together, such as a certificate and its key.
pub struct Reload {
    /// The setting's place: `server.tls`.
    path: String,
    files: Vec<PathBuf>,
    limit: u64,
    hashes: RandomState,
    /// What was found last that stood for a while, fit or not.
    last: Found,
    /// What was found in its place, and may not be whole yet.
    seen: Option<Found>,
    take: Take,
}

/// The hash of what is in the files, or why they cannot be read: the contents may be secrets, and are
/// not kept.
type Found = Result<u64, String>;

/// What a look at the files tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Nothing is new.
    Same,
    /// The files are not what they were a moment ago: whoever writes them may be in the middle of it.
    Changing,
    /// They have changed, and are what they were at the last look. Of new contents that are unfit it
    /// is told what is wrong; the old ones are used on.
    Changed(Result<(), String>),
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
        Self { path, files, limit, hashes, last, seen: None, take }
    }

    /// The setting's place: `server.tls`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Reads the files, and hands them over where they differ from what is known and two looks, one
    /// after the other, find the same. Contents are compared, not times: Kubernetes swaps a link to a
    /// folder.
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
