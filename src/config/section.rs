//! A table of the configuration file, read key by key. It collects what is wrong, so that all mistakes
//! are reported together. Used by every module that has settings.

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

/// How similar a key and a setting must be (1 is equal) for the key to count as a misspelling of it.
const ALIKE: f64 = 0.65;

/// The longest name of an account or a client, in bytes.
const NAME_LIMIT: usize = 64;

/// A table of the file. Each key is read once; keys that are left at [`finish`](Self::finish) are
/// unknown.
pub struct Section {
    path: String,
    table: toml::Table,
    /// The settings that the program has asked for.
    known: RefCell<BTreeSet<String>>,
    context: Rc<Context>,
}

impl Section {
    /// Parses the whole file. Relative paths in it start at `directory`.
    ///
    /// # Errors
    /// If the text is not TOML.
    pub fn parse(text: &str, directory: &Path) -> Result<Self, Problems> {
        let table = text.parse::<toml::Table>().map_err(|error| {
            // The error's `Display` quotes the line, which may contain a secret.
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or(text);
            let line = before.matches('\n').count() + 1;
            let text = format!("is not valid TOML: {}", error.message().replace('\n', ", "));
            Problems(vec![Problem { path: format!("line {line}"), text }])
        })?;
        let context = Context::new(directory);
        Ok(Self::new(String::new(), table, Rc::new(context)))
    }

    fn new(path: String, table: toml::Table, context: Rc<Context>) -> Self {
        Self { path, table, known: RefCell::default(), context }
    }

    /// From now on, `folder` stands for the root of the file system: that of another machine, which the
    /// configuration is for.
    pub fn set_root(&self, folder: PathBuf) {
        // The first call wins.
        let _ = self.context.root.set(folder);
    }

    /// Whether the configuration is for this machine.
    #[must_use]
    pub fn is_of_this_machine(&self) -> bool {
        self.context.root.get().is_none()
    }

    /// The problems of the whole file, as far as it has been read.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        self.context.problems.borrow().clone()
    }

    /// The warnings of the whole file: settings that are allowed and may still be mistakes.
    #[must_use]
    pub fn warnings(&self) -> Vec<Problem> {
        self.context.warnings.borrow().clone()
    }

    /// The section's path in the file: `accounts.vending`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The section's own name: `vending`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or_default()
    }

    /// Records a problem with a key of this section, or with the section itself (an empty key).
    pub fn problem(&self, key: &str, text: impl Into<String>) {
        let problem = Problem { path: self.path_of(key), text: text.into() };
        self.context.problems.borrow_mut().push(problem);
    }

    /// Records a warning for a key of this section: its value is allowed and may still be a mistake.
    pub fn warn(&self, key: &str, text: impl Into<String>) {
        let warning = Problem { path: self.path_of(key), text: text.into() };
        self.context.warnings.borrow_mut().push(warning);
    }

    /// An empty section at the same path, to record problems after this one is read.
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

    /// Records a problem if the name of this table is not valid. Callers or operators give these names.
    pub fn check_name(&self, name: &str) {
        if !is_name(name) {
            let text = "must have a name of 1 to 64 letters, digits, \"_\", \".\" and \"-\"";
            self.problem("", text);
        }
    }

    /// Whether `key` is set, and not yet read, in the table that the steps of `way` lead to.
    #[must_use]
    pub fn has_at(&self, way: &[&str], key: &str) -> bool {
        let table = way.iter().try_fold(&self.table, |table, step| table.get(*step)?.as_table());
        table.is_some_and(|table| table.contains_key(key))
    }

    /// Records that the program has this setting, so that it can be suggested for a misspelled key.
    fn know(&self, key: &str) {
        if !self.known.borrow().contains(key) {
            self.known.borrow_mut().insert(key.to_owned());
        }
    }

    /// Whether the key is set and not yet read.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.know(key);
        self.table.contains_key(key)
    }

    /// The key's value; `None` if it is absent, or if it is wrong, which is recorded.
    pub fn take<V: Value>(&mut self, key: &str) -> Option<V> {
        self.know(key);
        let value = self.table.remove(key)?;
        read_value(value, &self.context).map_err(|text| self.problem(key, text)).ok()
    }

    /// The key's value; an absent key is recorded as well.
    pub fn require<V: Value>(&mut self, key: &str) -> Option<V> {
        self.expect::<V>(key);
        self.take(key)
    }

    /// Records a problem if a required key is absent.
    pub(super) fn expect<V: Value>(&self, key: &str) {
        if !self.has(key) {
            self.problem(key, format!("is missing; it must be {}", V::EXPECTED));
        }
    }

    /// The value of an environment variable; `None` if it is absent or empty, or if it is wrong, which
    /// is recorded.
    #[must_use]
    pub fn environment<V: Value>(&self, name: &str) -> Option<V> {
        let text = env::var_os(name).filter(|text| !text.is_empty())?;
        let value = match text.into_string() {
            Ok(text) => read_value(toml::Value::String(text), &self.context),
            Err(_) => Err("is not UTF-8".to_owned()),
        };
        value.map_err(|text| self.problem(name, text)).ok()
    }

    /// The value of the key's word, which must be one of `words`.
    pub fn choice<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> Option<T> {
        let given: String = self.take(key)?;
        let found = words.iter().find(|(word, _)| *word == given).map(|(_, value)| *value);
        if found.is_none() {
            let words: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            self.problem(key, format!("must be one of {}", words.join(", ")));
        }
        found
    }

    /// A duration within the range.
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

    /// The content of the PEM file that the key names.
    pub fn pem(&mut self, key: &str, pem: Pem) -> Option<String> {
        let path: String = self.take(key)?;
        read_pem(&self.context.path(&path), pem).map_err(|text| self.problem(key, text)).ok()
    }

    /// Registers files that are in use to be reloaded when they change: `contents` is what they contain
    /// now, `limit` is the largest size of one file in bytes, and `take` applies new contents.
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

    /// Returns the reloads of the whole file; a second call returns none.
    #[must_use]
    pub fn reloads(&self) -> Vec<Reload> {
        self.context.reloads.take()
    }

    /// Resolves a path of the file: a relative one starts at the file's own directory.
    #[must_use]
    pub fn resolve(&self, path: &str) -> PathBuf {
        self.context.path(path)
    }

    /// The table of that name; an empty one if there is none.
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

    /// Records a problem for every key that was not read, and suggests the setting that it may mean.
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

/// The known setting that is most similar to a key; `None` if none is similar enough.
fn nearest<'a>(key: &str, known: &'a BTreeSet<String>) -> Option<&'a str> {
    let key = key.to_ascii_lowercase();
    let likeness = |known: &str| {
        // A part of a name is more likely still to mean it: "key" for "key_file".
        let is_part = key.len() > 2 && (known.contains(&key) || key.contains(known));
        strsim::normalized_damerau_levenshtein(&key, known) + f64::from(is_part)
    };
    let near = known.iter().map(|known| (likeness(known), known.as_str()));
    let near = near.filter(|(likeness, _)| *likeness >= ALIKE);
    near.max_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, known)| known)
}
