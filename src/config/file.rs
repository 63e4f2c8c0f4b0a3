//! Reads the files that settings name, up to a size limit. Used by the sections, by reloads, and by
//! modules that read files of their own.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::certificate::Pem;

/// The largest accepted file of certificates or keys, in bytes.
pub const PEM_LIMIT: u64 = 1024 * 1024;

/// Reads a PEM file, and returns it in a form that every library reads alike.
///
/// # Errors
/// What is wrong with the file, and its path.
pub fn read_pem(path: &Path, pem: Pem) -> Result<String, String> {
    let text = read_file(path, PEM_LIMIT)?;
    pem.read(&text).map_err(|wrong| format!("{} {wrong}", path.display()))
}

/// Reads the text of a file of at most `limit` bytes.
///
/// # Errors
/// What is wrong with the file, and its path.
pub fn read_file(path: &Path, limit: u64) -> Result<String, String> {
    let shown = path.display();
    let mut text = String::new();
    let file = File::open(path).map_err(|error| format!("cannot open {shown}: {error}"))?;
    let read = file
        .take(limit + 1)
        .read_to_string(&mut text)
        .map_err(|error| format!("cannot read {shown}: {error}"))?;
    if read as u64 > limit {
        return Err(format!("{shown} is larger than {limit} bytes"));
    }
    Ok(text)
}
