//! A secret of the configuration, and the three ways to give one. Whoever needs it exposes it at
//! the place where it goes on the wire, and nowhere else. One in a file is read again when the
//! file changes.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use super::context::Context;
use super::file::read_file;
use super::section::Section;
use super::value::{Value, check_filled_in, checked_text};

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

/// A secret of an account: what is in use now, where its file may change. Clones change together.
#[derive(Debug, Clone)]
pub struct RotatingSecret(Arc<RwLock<Secret>>);

impl RotatingSecret {
    fn new(secret: Secret) -> Self {
        Self(Arc::new(RwLock::new(secret)))
    }

    /// The secret as it is now. Whoever makes a call takes it once, so that the whole call is made
    /// with one.
    #[must_use]
    pub fn current(&self) -> Secret {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, secret: Secret) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = secret;
    }
}

impl Section {
    /// Hands the key's secret to `take`, and each one that takes its place when it is in a file.
    /// `take` says what is wrong with one, and is then left with the one before. `None` where the
    /// key is absent, or the secret wrong, which is noted.
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

    /// Notes what is in a secret that nobody sees in an editor, and that an editor or a shell may have
    /// put there.
    pub(super) fn warn_of_unseen(&self, key: &str, Secret(text): &Secret) {
        let unseen = |c: char| {
            matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}')
        };
        let what = if text.starts_with('\u{feff}') {
            "begins with a byte order mark"
        } else if text.contains(unseen) {
            "has a character in it that has no width"
        } else if text.trim() != text {
            "begins or ends with a space"
        } else {
            return;
        };
        self.warn(key, format!("{what}, which is taken for a part of the secret"));
    }

    /// The key's secret. `fits` says what is wrong with one, now and when its file changes.
    pub fn secret(
        &mut self,
        key: &str,
        fits: fn(&str) -> Result<(), String>,
    ) -> Option<RotatingSecret> {
        // Nobody sees the empty one: it gives way to the first that is read.
        let slot = RotatingSecret::new(Secret(String::new()));
        let taken = slot.clone();
        self.secret_into(key, move |secret| {
            fits(secret.expose())?;
            taken.set(secret);
            Ok(())
        })?;
        Some(slot)
    }

    /// The same; where the key is absent, that is noted as well.
    pub fn require_secret(
        &mut self,
        key: &str,
        fits: fn(&str) -> Result<(), String>,
    ) -> Option<RotatingSecret> {
        self.expect::<Secret>(key);
        self.secret(key, fits)
    }
}

/// A secret, and the file that it was in with what the file held.
struct Found {
    secret: Secret,
    file: Option<(PathBuf, String)>,
}

impl Value for Secret {
    const EXPECTED: &'static str =
        "a secret: { env = \"NAME\" }, { file = \"PATH\" } or a plain text";

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
    /// What `{ env = … }` or `{ file = … }` points to.
    fn elsewhere(table: toml::Table, context: &Context) -> Result<Self, String> {
        let mut entries = table.into_iter();
        match (entries.next(), entries.next()) {
            (Some((key, toml::Value::String(name))), None) if key == "env" => {
                let wrong = |what| format!("the environment variable {} {what}", shown(&name));
                let text = env::var(&name).map_err(|error| match error {
                    env::VarError::NotPresent => wrong("is not set"),
                    // The error's own text would hold the value.
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

/// The secret in a file.
///
/// # Errors
/// What is wrong with the file, and its path.
pub fn read_secret(path: &Path) -> Result<Secret, String> {
    let text = read_file(path, FILE_LIMIT)?;
    of_file(&text).map_err(|text| format!("{} {text}", path.display()))
}

/// The secret in a file that holds this.
fn of_file(content: &str) -> Result<Secret, String> {
    let text =
        content.strip_suffix('\n').map_or(content, |text| text.strip_suffix('\r').unwrap_or(text));
    filled_in(text.to_owned())
}

/// The secret that is this text, found outside of the configuration.
fn filled_in(text: String) -> Result<Secret, String> {
    check_filled_in(&text)?;
    checked_text(text).map(Secret)
}

/// The name of a variable, unless it may be a secret that was put in its place.
fn shown(name: &str) -> &str {
    let usual = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    if name.bytes().all(usual) { name } else { "that it names" }
}
