//! What all sections of one file share: where its relative paths start, and the problems, warnings and
//! reloads found so far. Used by the sections and by the values that name files.

use std::cell::{OnceCell, RefCell};
use std::path::{Path, PathBuf};

use super::problem::Problem;
use super::reload::Reload;

/// What all sections of a file share.
pub struct Context {
    pub(super) directory: PathBuf,
    /// The directory that stands for the root of the file system (`check --root`).
    pub(super) root: OnceCell<PathBuf>,
    pub(super) problems: RefCell<Vec<Problem>>,
    pub(super) warnings: RefCell<Vec<Problem>>,
    pub(super) reloads: RefCell<Vec<Reload>>,
}

impl Context {
    /// For a file whose relative paths start at `directory`.
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            root: OnceCell::new(),
            problems: RefCell::default(),
            warnings: RefCell::default(),
            reloads: RefCell::default(),
        }
    }

    /// Resolves a path of the file: a relative one starts at the file's own directory, an absolute one
    /// at `root`, if that is set.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        match (self.root.get(), Path::new(path).strip_prefix("/")) {
            (Some(root), Ok(below)) => root.join(below),
            _ => self.directory.join(path),
        }
    }
}
