//! What all sections of one file share: where its paths count from, and what was found while it was read.
//! Used by the sections and by the values that name files.

use std::cell::{OnceCell, RefCell};
use std::path::{Path, PathBuf};

use super::problem::Problem;
use super::reload::Reload;

/// What all sections of a file share.
pub struct Context {
    pub(super) directory: PathBuf,
    /// The folder that stands for the root of the file system.
    pub(super) root: OnceCell<PathBuf>,
    pub(super) problems: RefCell<Vec<Problem>>,
    pub(super) warnings: RefCell<Vec<Problem>>,
    pub(super) reloads: RefCell<Vec<Reload>>,
}

impl Context {
    /// Of a file whose relative paths count from `directory`.
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            root: OnceCell::new(),
            problems: RefCell::default(),
            warnings: RefCell::default(),
            reloads: RefCell::default(),
        }
    }

    /// The path as the file means it: relative ones count from the file's own folder.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        match (self.root.get(), Path::new(path).strip_prefix("/")) {
            (Some(root), Ok(below)) => root.join(below),
            _ => self.directory.join(path),
        }
    }
}
