//! A secret of the configuration, and the three ways to set one. A module exposes a secret only where
//! it goes on the wire. A secret in a file is reloaded when the file changes.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use super::context::Context;
use super::file::read_file;
use super::section::Section;
use super::value::{Value, check_filled_in, checked_text};

/// The largest accepted secret file, in bytes.
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

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// An account's secret: the value in use now, which changes with its file. Clones share it.
#[derive(Debug, Clone)]
pub struct RotatingSecret(Arc<RwLock<Secret>>);

impl RotatingSecret {
    fn new(secret: Secret) -> Self {
        Self(Arc::new(RwLock::new(secret)))
    }

    /// The secret in use now. A call reads it once, so that the whole call uses the same value.
    #[must_use]
    pub fn current(&self) -> Secret {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, secret: Secret) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = secret;
    }
}

impl Section {
    /// Passes the key's secret to `take`, and, if it is in a file, each new one after it. When `take`
    /// returns what is wrong with a new secret, the previous one stays in use. `None` if the key is
    /// absent, or if the secret is wrong, which is recorded.
    pub fn secret_into(
        &mut self,
        key: &str,
        mut take: impl FnMut(Secret) -> Result<(), String> + Send + 'static,
    ) -> Option<()> {
        let Found { secret, file } = self.take(key)?;
        self.warn_of_unseen(key, &secret);
        take(secret).map_err(|text| self.problem(key, text)).ok()?;
        if let Some((path, text)) = file {
            let take =
                move |texts: &[String]| texts.iter().try_for_each(|text| take(of_file(text)?));
            self.watch(key, vec![path], FILE_LIMIT, &[text], Box::new(take));
        }
        Some(())
    }

    /// Warns of characters in a secret that are invisible in an editor, and that an editor or a shell
    /// may have added.
    pub fn warn_of_unseen(&self, key: &str, Secret(text): &Secret) {
        let unseen = |c: char| {
            matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}')
        };
        let what = if text.starts_with('\u{feff}') {
            "begins with a byte order mark"
        } else if text.contains(unseen) {
            "contains a zero-width character"
        } else if text.trim() != text {
            "begins or ends with a space"
        } else {
            return;
        };
        self.warn(key, format!("{what}, which counts as part of the secret"));
    }

    /// The key's secret. `fits` says what is wrong with a secret, now and whenever the file changes.
    pub fn secret(
        &mut self,
        key: &str,
        fits: fn(&str) -> Result<(), String>,
    ) -> Option<RotatingSecret> {
        // Nobody sees the empty secret: the first one replaces it before this returns.
        let slot = RotatingSecret::new(Secret(String::new()));
        let shared = slot.clone();
        self.secret_into(key, move |secret| {
            fits(secret.expose())?;
            shared.set(secret);
            Ok(())
        })?;
        Some(slot)
    }

    /// Like `secret`, and records a problem if the key is absent.
    pub fn require_secret(
        &mut self,
        key: &str,
        fits: fn(&str) -> Result<(), String>,
    ) -> Option<RotatingSecret> {
        self.expect::<Secret>(key);
        self.secret(key, fits)
    }
}

/// A secret and, if it came from a file, the file's path and content.
struct Found {
    secret: Secret,
    file: Option<(PathBuf, String)>,
}

impl Value for Secret {
    const EXPECTED: &'static str =
        "a secret: { env = \"NAME\" }, { file = \"PATH\" } or a plain string";

    fn read(value: toml::Value, context: &Context) -> Result<Self, String> {
        Found::read(value, context).map(|found| found.secret)
    }
}

impl Value for Found {
    const EXPECTED: &'static str = Secret::EXPECTED;

    fn read(value: toml::Value, context: &Context) -> Result<Self, String> {
        match value {
            toml::Value::String(text) => {
                Ok(Self { secret: checked_text(text).map(Secret)?, file: None })
            }
            toml::Value::Table(table) => Self::elsewhere(table, context),
            _ => Err(format!("must be {}", Self::EXPECTED)),
        }
    }
}

impl Found {
    /// The secret that `{ env = … }` or `{ file = … }` points to.
    fn elsewhere(table: toml::Table, context: &Context) -> Result<Self, String> {
        let mut entries = table.into_iter();
        match (entries.next(), entries.next()) {
            (Some((key, toml::Value::String(name))), None) if key == "env" => {
                let wrong = |what| format!("the environment variable {} {what}", shown(&name));
                let text = env::var(&name).map_err(|error| match error {
                    env::VarError::NotPresent => wrong("is not set"),
                    // The error's own text contains the value.
                    env::VarError::NotUnicode(_) => wrong("is not UTF-8"),
                })?;
                if text.is_empty() {
                    return Err(wrong("is empty"));
                }
                Ok(Self { secret: filled_in(text)?, file: None })
            }
            (Some((key, toml::Value::String(path))), None) if key == "file" => {
                let path = context.path(&path);
                let text = read_file(&path, FILE_LIMIT)?;
                Ok(Self { secret: of_file(&text)?, file: Some((path, text)) })
            }
            _ => Err(format!("must be {}", Self::EXPECTED)),
        }
    }
}

/// Reads the secret in a file.
///
/// # Errors
/// What is wrong with the file, and its path.
pub fn read_secret(path: &Path) -> Result<Secret, String> {
    let text = read_file(path, FILE_LIMIT)?;
    of_file(&text).map_err(|text| format!("{} {text}", path.display()))
}

/// The secret in a file with this content; a line break at the end does not belong to it.
fn of_file(content: &str) -> Result<Secret, String> {
    let text =
        content.strip_suffix('\n').map_or(content, |text| text.strip_suffix('\r').unwrap_or(text));
    filled_in(text.to_owned())
}

/// Makes a text from outside the configuration a secret, if it is filled in and valid.
fn filled_in(text: String) -> Result<Secret, String> {
    check_filled_in(&text)?;
    checked_text(text).map(Secret)
}

/// The name of a variable, unless it does not look like one: it may be a misplaced secret.
fn shown(name: &str) -> &str {
    let usual = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    if name.bytes().all(usual) { name } else { "that it names" }
}
