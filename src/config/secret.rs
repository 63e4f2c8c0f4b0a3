//! A secret of the configuration, and the three ways to give one. Whoever needs it exposes it at
//! the place where it goes on the wire, and nowhere else.

use std::env;
use std::fmt;

use super::section::{Context, Value, checked_text, read_file};

/// The largest secret file that is read, in bytes.
const FILE_LIMIT: u64 = 64 * 1024;

/// A secret: never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself, for the wire.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl Value for Secret {
    const EXPECTED: &'static str =
        "a secret: { env = \"NAME\" }, { file = \"PATH\" } or a plain text";

    fn read(value: toml::Value, context: &Context) -> Result<Self, String> {
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Table(table) => from_elsewhere(table, context)?,
            _ => return Err(format!("must be {}", Self::EXPECTED)),
        };
        checked_text(text).map(Self)
    }
}

/// The text that `{ env = … }` or `{ file = … }` points to.
fn from_elsewhere(table: toml::Table, context: &Context) -> Result<String, String> {
    let mut entries = table.into_iter();
    match (entries.next(), entries.next()) {
        (Some((key, toml::Value::String(name))), None) if key == "env" => {
            env::var(&name).map_err(|error| {
                let what = match error {
                    env::VarError::NotPresent => "is not set",
                    // The error's own text would hold the value.
                    env::VarError::NotUnicode(_) => "is not UTF-8",
                };
                format!("the environment variable {} {what}", shown(&name))
            })
        }
        (Some((key, toml::Value::String(path))), None) if key == "file" => {
            let mut text = read_file(&context.path(&path), FILE_LIMIT)?;
            if text.ends_with('\n') {
                text.pop();
                if text.ends_with('\r') {
                    text.pop();
                }
            }
            Ok(text)
        }
        _ => Err(format!("must be {}", Secret::EXPECTED)),
    }
}

/// The name of a variable, unless it may be a secret that was put in its place.
fn shown(name: &str) -> &str {
    let usual = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    if name.bytes().all(usual) { name } else { "that it names" }
}
