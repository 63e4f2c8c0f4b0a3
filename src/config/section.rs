//! A table of the configuration file that is read key by key and remembers what is wrong with
//! it, so that all mistakes are reported together. Used by whoever has settings to read.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::env;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::context::Context;
use super::file::read_pem;
use super::problem::{Problem, Problems};
use super::reload::{Reload, Take};
use super::value::{Value, read_value};
use crate::certificate::Pem;

/// How alike a key and a setting must be, at most 1, to be taken for a slip of the pen.
const ALIKE: f64 = 0.65;

/// The longest name of an account or a client, in bytes.
const NAME_LIMIT: usize = 64;

/// A table of the file. Every key is taken once; what is left at [`finish`](Self::finish) is
/// unknown.
pub struct Section {
    path: String,
    table: toml::Table,
    /// The settings that were asked for.
    known: RefCell<BTreeSet<String>>,
    context: Rc<Context>,
}

impl Section {
    /// The whole file. Relative paths in it count from `directory`.
    ///
    /// # Errors
    /// Where the text is no TOML.
    pub fn parse(text: &str, directory: &Path) -> Result<Self, Problems> {
        let table = text.parse::<toml::Table>().map_err(|error| {
            // The error's Display quotes the line, and with it perhaps a secret.
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or(text);
            let line = before.matches('\n').count() + 1;
            let text = format!("is not TOML: {}", error.message().replace('\n', ", "));
            Problems(vec![Problem { path: format!("line {line}"), text }])
        })?;
        let context = Context::new(directory);
        Ok(Self::new(String::new(), table, Rc::new(context)))
    }

    fn new(path: String, table: toml::Table, context: Rc<Context>) -> Self {
        Self { path, table, known: RefCell::default(), context }
    }

    /// From here on a folder stands for the root of the file system: that of another machine, whose
    /// configuration this is.
    pub fn set_root(&self, folder: PathBuf) {
        // The first one holds.
        let _ = self.context.root.set(folder);
    }

    /// Whether the file is about this machine.
    #[must_use]
    pub fn is_of_this_machine(&self) -> bool {
        self.context.root.get().is_none()
    }

    /// What is wrong with the whole file, as far as it has been read.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        self.context.problems.borrow().clone()
    }

    /// What is allowed and may still be a mistake, in the whole file.
    #[must_use]
    pub fn warnings(&self) -> Vec<Problem> {
        self.context.warnings.borrow().clone()
    }

    /// The section's own place in the file: `accounts.vending`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The section's own name: `vending`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or_default()
    }

    /// Notes what is wrong with a key of this section, or with the section (an empty key).
    pub fn problem(&self, key: &str, text: impl Into<String>) {
        let problem = Problem { path: self.path_of(key), text: text.into() };
        self.context.problems.borrow_mut().push(problem);
    }

    /// Notes what is allowed for a key of this section and may still be a mistake.
    pub fn warn(&self, key: &str, text: impl Into<String>) {
        let warning = Problem { path: self.path_of(key), text: text.into() };
        self.context.warnings.borrow_mut().push(warning);
    }

    /// The same place without its keys, to note problems at after the section is read.
    #[must_use]
    pub fn place(&self) -> Self {
        Self::new(self.path.clone(), toml::Table::new(), Rc::clone(&self.context))
    }

    fn path_of(&self, key: &str) -> String {
        if key.is_empty() {
            return self.path.clone();
        }
        let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let key = if key.chars().all(bare) { key.to_owned() } else { format!("{key:?}") };
        if self.path.is_empty() { key } else { format!("{}.{key}", self.path) }
    }

    /// Notes where the name of this table, which callers or operators give, is none that fits.
    pub fn check_name(&self, name: &str) {
        if !is_name(name) {
            let text = "must have a name of 1 to 64 letters, digits, \"_\", \".\" and \"-\"";
            self.problem("", text);
        }
    }

    /// Whether the key at the end of this way through tables is set and not yet taken.
    #[must_use]
    pub fn has_at(&self, way: &[&str], key: &str) -> bool {
        let table = way.iter().try_fold(&self.table, |table, step| table.get(*step)?.as_table());
        table.is_some_and(|table| table.contains_key(key))
    }

    /// Remembers that there is such a setting.
    fn know(&self, key: &str) {
        if !self.known.borrow().contains(key) {
            self.known.borrow_mut().insert(key.to_owned());
        }
    }

    /// Whether the key is set and not yet taken.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.know(key);
        self.table.contains_key(key)
    }

    /// The key's value; `None` where it is absent, or wrong and noted.
    pub fn take<V: Value>(&mut self, key: &str) -> Option<V> {
        self.know(key);
        let value = self.table.remove(key)?;
        read_value(value, &self.context).map_err(|text| self.problem(key, text)).ok()
    }

    /// The key's value; where it is absent, that is noted as well.
    pub fn require<V: Value>(&mut self, key: &str) -> Option<V> {
        self.expect::<V>(key);
        self.take(key)
    }

    /// Notes where a key is absent that must be set.
    pub(super) fn expect<V: Value>(&self, key: &str) {
        if !self.has(key) {
            self.problem(key, format!("is missing; it must be {}", V::EXPECTED));
        }
    }

    /// The value of an environment variable; `None` where it is absent or empty, or wrong and
    /// noted.
    #[must_use]
    pub fn environment<V: Value>(&self, name: &str) -> Option<V> {
        let text = env::var_os(name).filter(|text| !text.is_empty())?;
        let value = match text.into_string() {
            Ok(text) => read_value(toml::Value::String(text), &self.context),
            Err(_) => Err("is not UTF-8".to_owned()),
        };
        value.map_err(|text| self.problem(name, text)).ok()
    }

    /// One of the words of a table.
    pub fn choice<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> Option<T> {
        let given: String = self.take(key)?;
        let found = words.iter().find(|(word, _)| *word == given).map(|(_, value)| *value);
        if found.is_none() {
            let words: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            self.problem(key, format!("must be one of {}", words.join(", ")));
        }
        found
    }

    /// A span of time within the range.
    pub fn duration(&mut self, key: &str, range: RangeInclusive<Duration>) -> Option<Duration> {
        let given: Duration = self.take(key)?;
        if !range.contains(&given) {
            let (least, most) = (range.start(), range.end());
            self.problem(key, format!("must be between {least:?} and {most:?}"));
        }
        Some(given)
    }

    /// A number within the range.
    pub fn count(&mut self, key: &str, range: RangeInclusive<u32>) -> Option<u32> {
        let given: u32 = self.take(key)?;
        if !range.contains(&given) {
            let (least, most) = (range.start(), range.end());
            self.problem(key, format!("must be between {least} and {most}"));
        }
        Some(given)
    }

    /// What the PEM file holds that the key names.
    pub fn pem(&mut self, key: &str, pem: Pem) -> Option<String> {
        let path: String = self.take(key)?;
        read_pem(&self.context.path(&path), pem).map_err(|text| self.problem(key, text)).ok()
    }

    /// Has files that are in use read again when they change: `contents` is what they hold now,
    /// `limit` the bytes that one may have, and `take` takes over what they will hold.
    pub fn watch(
        &self,
        key: &str,
        files: Vec<PathBuf>,
        limit: u64,
        contents: &[String],
        take: Take,
    ) {
        let reload = Reload::new(self.path_of(key), files, limit, contents, take);
        self.context.reloads.borrow_mut().push(reload);
    }

    /// Hands out what is to be read again of the whole file, once.
    #[must_use]
    pub fn reloads(&self) -> Vec<Reload> {
        self.context.reloads.take()
    }

    /// The path as the file means it: relative ones count from the file's own folder.
    #[must_use]
    pub fn resolve(&self, path: &str) -> PathBuf {
        self.context.path(path)
    }

    /// The table of that name; an empty one where there is none.
    #[must_use]
    pub fn section(&mut self, key: &str) -> Self {
        self.know(key);
        let table = match self.table.remove(key) {
            None => toml::Table::new(),
            Some(toml::Value::Table(table)) => table,
            Some(_) => {
                self.problem(key, "must be a table");
                toml::Table::new()
            }
        };
        Self::new(self.path_of(key), table, Rc::clone(&self.context))
    }

    /// The tables in this one, with their names.
    #[must_use]
    pub fn sections(mut self) -> Vec<(String, Self)> {
        let names: Vec<String> = self.table.keys().cloned().collect();
        names.into_iter().map(|name| (name.clone(), self.section(&name))).collect()
    }

    /// Notes every key that nobody took, and the setting that it may be meant for.
    pub fn finish(self) {
        for key in self.table.keys() {
            let meant = nearest(key, &self.known.borrow())
                .map_or_else(String::new, |known| format!("; did you mean {known}?"));
            self.problem(key, format!("is not a setting of this version{meant}"));
        }
    }
}

/// Whether the text can be the name of an account or a client.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    (1..=NAME_LIMIT).contains(&text.len()) && text.bytes().all(fits)
}

/// The setting that is most like a key, unless none is.
fn nearest<'a>(key: &str, known: &'a BTreeSet<String>) -> Option<&'a str> {
    let key = key.to_ascii_lowercase();
    let likeness = |known: &str| {
        // A part of a name is meant for it more likely still: "key" for "key_file".
        let is_part = key.len() > 2 && (known.contains(&key) || key.contains(known));
        strsim::normalized_damerau_levenshtein(&key, known) + f64::from(is_part)
    };
    let near = known.iter().map(|known| (likeness(known), known.as_str()));
    let near = near.filter(|(likeness, _)| *likeness >= ALIKE);
    near.max_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, known)| known)
}
