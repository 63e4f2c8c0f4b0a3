//! The file as redb reads and writes it: who may use it, how a new one is created, and how it is opened
//! without changing it. Used by the file store only.
//!
//! A [`Disk`] starts *staged*: all that redb writes while it opens and repairs a database is held in
//! memory. Only [`Disk::go_live`] applies it to the file, once everything in the file was read and
//! found valid. So a damaged or foreign file stays unchanged, and a file on a full disk can still be
//! read.

use std::fs::{self, OpenOptions, TryLockError};
use std::io;
use std::ops::Deref;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use redb::StorageBackend;
use rustix::fs::{Access, access};

/// A locked store file. The lock lasts until the last clone of the `Arc` is dropped, whatever redb
/// opens and closes in the meantime, so no other process can get the lock.
pub(super) type Locked = Arc<Lock>;

/// A file and the lock on it.
#[derive(Debug)]
pub(super) struct Lock(fs::File);

impl Deref for Lock {
    type Target = fs::File;

    fn deref(&self) -> &fs::File {
        &self.0
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing the file is not enough: a process that is just being started may have inherited it.
        let _ = self.0.unlock();
    }
}

/// Opens and locks an existing file; `None` if there is none.
///
/// # Errors
/// The problem, and what to do about it.
pub(super) fn open(path: &Path) -> Result<Option<Locked>, String> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => lock(file).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot be opened: {error}")),
    }
}

/// Checks that a file can be opened, or created if there is none. It changes nothing.
///
/// # Errors
/// The problem, and what to do about it.
pub(super) fn check(path: &Path) -> Result<(), String> {
    match fs::metadata(path) {
        // Opening a pipe would block until another process reads from it.
        Ok(metadata) if !metadata.is_file() => Err("is not a regular file".to_owned()),
        Ok(_) => {
            let opened = OpenOptions::new().read(true).write(true).open(path);
            opened.map(drop).map_err(|error| format!("cannot be opened: {error}"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let allowed = access(folder(path), Access::WRITE_OK | Access::EXEC_OK);
            allowed.map_err(|error| not_made(&error.into()))
        }
        Err(error) => Err(format!("cannot be opened: {error}")),
    }
}

/// Why a file could not be created.
fn not_made(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "is in a folder that does not exist; create it".to_owned(),
        _ => format!("cannot be created: {error}"),
    }
}

/// The folder that contains a file.
fn folder(path: &Path) -> &Path {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

/// Whether another process uses the file. It only tries the lock, and releases it at once.
pub(super) fn is_held(path: &Path) -> bool {
    // Opening a pipe would block until another process writes to it.
    if !path.is_file() {
        return false;
    }
    let file = fs::File::open(path);
    file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

/// Whether the file is empty.
pub(super) fn is_empty(file: &Locked) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.len() == 0)
}

/// Writes a file beside it and deletes that one; also opens the file itself for writing, if it exists.
///
/// # Errors
/// The problem, and what to do about it.
pub(super) fn check_writable(path: &Path) -> Result<(), String> {
    let draft = Draft::beside(path)?;
    let written = draft.file.write_all_at(&[1; 4096], 0).and_then(|()| draft.file.sync_all());
    written.map_err(|error| unwritten(&error.to_string()))?;
    // Opening a pipe would make its reader believe that a writer is there.
    let file = path.is_file().then(|| OpenOptions::new().read(true).write(true).open(path));
    file.transpose().map(drop).map_err(|error| format!("cannot be opened: {error}"))
}

/// The error text for a file that cannot be written.
pub(super) fn unwritten(problem: &str) -> String {
    format!("cannot be written: {problem}; free disk space or correct the permissions")
}

/// A file that is built under a temporary name, so that the file under the final name is always
/// complete. It is deleted if it is never published.
pub(super) struct Draft {
    /// The file itself.
    pub(super) file: Locked,
    path: PathBuf,
}

impl Draft {
    /// Creates an empty file beside the final path.
    ///
    /// # Errors
    /// The problem, and what to do about it.
    pub(super) fn beside(path: &Path) -> Result<Self, String> {
        // Two processes that start at the same time each use their own file.
        let random: u64 = rand::random();
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{random:016x}.new"));
        let path = path.with_file_name(name);
        // The file will hold access tokens and personal data, so only its owner may read it.
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|error| not_made(&error))?;
        Ok(Self { file: lock(file)?, path })
    }

    /// Gives the finished file its final name. Returns false if another file has that name meanwhile.
    ///
    /// # Errors
    /// The problem.
    pub(super) fn publish(self, path: &Path) -> Result<bool, String> {
        let failed = |error: io::Error| format!("cannot be created: {error}");
        match fs::hard_link(&self.path, path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(error) => return Err(failed(error)),
        }
        let folder = fs::File::open(folder(path)).map_err(failed)?;
        folder.sync_all().map_err(failed)?;
        Ok(true)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // The temporary file is useless now, and harms nothing if it stays.
        let _ = fs::remove_file(&self.path);
    }
}

fn lock(file: fs::File) -> Result<Locked, String> {
    match file.try_lock() {
        Ok(()) => Ok(Arc::new(Lock(file))),
        Err(TryLockError::WouldBlock) => {
            Err("is in use by another process; stop that process, or give this one its own file \
                 (several servers can share a redis:// store)"
                .to_owned())
        }
        Err(TryLockError::Error(error)) => Err(format!("cannot be locked: {error}")),
    }
}

/// The storage that redb reads and writes. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    file: Locked,
    mode: Arc<RwLock<Mode>>,
}

#[derive(Debug)]
enum Mode {
    /// Every change is held here, in order.
    Staged(Vec<Step>),
    Live,
    /// Nothing is written any more, even if a closing database tries to.
    Retired,
}

#[derive(Debug)]
enum Step {
    Length(u64),
    Write(u64, Vec<u8>),
    Sync,
}

impl Disk {
    /// Returns a disk that does not change the file until it goes live.
    pub(super) fn staged(file: &Locked) -> Self {
        Self { file: Arc::clone(file), mode: Arc::new(RwLock::new(Mode::Staged(Vec::new()))) }
    }

    /// Applies the staged changes; every later change goes to the file directly. If this fails the disk
    /// stays staged, and the call can be repeated: applying a step twice is harmless.
    ///
    /// # Errors
    /// The error of the failed write.
    pub(super) fn go_live(&self) -> io::Result<()> {
        let mut mode = self.mode.write().unwrap_or_else(PoisonError::into_inner);
        if let Mode::Staged(steps) = &*mode {
            for step in steps {
                match step {
                    Step::Length(length) => self.file.set_len(*length)?,
                    Step::Write(offset, data) => self.file.write_all_at(data, *offset)?,
                    Step::Sync => self.file.sync_data()?,
                }
            }
            self.file.sync_all()?;
            *mode = Mode::Live;
        }
        Ok(())
    }

    /// Leaves the file as it is now.
    pub(super) fn retire(&self) {
        *self.mode.write().unwrap_or_else(PoisonError::into_inner) = Mode::Retired;
    }

    /// Applies one change, or stages it.
    fn change(
        &self,
        carry_out: impl FnOnce(&fs::File) -> io::Result<()>,
        step: impl FnOnce() -> Step,
    ) -> io::Result<()> {
        let mode = self.mode.read().unwrap_or_else(PoisonError::into_inner);
        match &*mode {
            Mode::Live => return carry_out(&self.file),
            Mode::Retired => return Err(retired()),
            Mode::Staged(_) => drop(mode),
        }
        // Only the thread that opens a database stages changes.
        let mut mode = self.mode.write().unwrap_or_else(PoisonError::into_inner);
        if let Mode::Staged(steps) = &mut *mode {
            steps.push(step());
        }
        Ok(())
    }
}

fn retired() -> io::Error {
    io::Error::other("the database was reopened")
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        let length = self.file.metadata()?.len();
        match &*self.mode.read().unwrap_or_else(PoisonError::into_inner) {
            Mode::Staged(steps) => Ok(steps.iter().fold(length, |length, step| match step {
                Step::Length(length) => *length,
                Step::Write(offset, data) => length.max(offset + data.len() as u64),
                Step::Sync => length,
            })),
            Mode::Live | Mode::Retired => Ok(length),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match &*self.mode.read().unwrap_or_else(PoisonError::into_inner) {
            Mode::Live => return self.file.read_exact_at(out, offset),
            Mode::Retired => return Err(retired()),
            Mode::Staged(_) => {}
        }
        if offset + out.len() as u64 > self.len()? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        read_up_to_the_end(&self.file, offset, out)?;
        if let Mode::Staged(steps) = &*self.mode.read().unwrap_or_else(PoisonError::into_inner) {
            for step in steps {
                step.show(offset, out);
            }
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.change(|file| file.set_len(length), || Step::Length(length))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(fs::File::sync_data, || Step::Sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(|file| file.write_all_at(data, offset), || Step::Write(offset, data.to_vec()))
    }
}

impl Step {
    /// Applies this step to the bytes that were read at `offset`.
    fn show(&self, offset: u64, out: &mut [u8]) {
        let end = offset + out.len() as u64;
        // Both ends lie within `out`, so they fit in `usize`.
        let place = |at: u64| usize::try_from(at.clamp(offset, end) - offset).unwrap_or(out.len());
        match self {
            Self::Length(length) => {
                let from = place(*length);
                out[from..].fill(0);
            }
            Self::Write(start, data) => {
                let (from, to) = (place(*start), place(start + data.len() as u64));
                let skipped = usize::try_from(offset.saturating_sub(*start)).unwrap_or(data.len());
                if from < to {
                    out[from..to].copy_from_slice(&data[skipped..skipped + (to - from)]);
                }
            }
            Self::Sync => {}
        }
    }
}

/// Reads the existing bytes, and fills the rest with zeros.
fn read_up_to_the_end(file: &fs::File, offset: u64, out: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < out.len() {
        match file.read_at(&mut out[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    out[done..].fill(0);
    Ok(())
}
