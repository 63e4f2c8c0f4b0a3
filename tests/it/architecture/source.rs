//! Reads the crate's own sources: its files, and the paths to other modules in them. It knows as
//! much of Rust's grammar as that takes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// One source file.
pub struct File {
    /// Its path from the root of the crate.
    pub name: String,
    /// Its module: `["providers", "wechat", "token"]`.
    pub module: Vec<String>,
    pub text: String,
}

/// Every Rust file below a folder of the crate.
pub fn sources(folder: &str) -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder_path) = folders.pop() {
        for entry in fs::read_dir(&folder_path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let inside = path.strip_prefix(root.join(folder)).unwrap().with_extension("");
                let module = inside.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
                let name = path.strip_prefix(root).unwrap().display().to_string();
                files.push(File { name, module, text: fs::read_to_string(&path).unwrap() });
            }
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    files
}

impl File {
    /// The module of the crate's root that the file belongs to.
    pub fn root(&self) -> &str {
        self.module.first().map_or("", String::as_str)
    }

    /// The text up to its unit tests, which may use anything.
    pub fn without_tests(&self) -> &str {
        let tests = self.text.find("#[cfg(test)]\nmod ");
        &self.text[..tests.unwrap_or(self.text.len())]
    }

    /// Whether the code uses that library.
    pub fn names(&self, library: &str) -> bool {
        let tokens = tokens(self.without_tests());
        let first_of_path = |at: usize| at == 0 || tokens[at - 1] != "::";
        let in_path = |at: usize| tokens.get(at + 1).is_some_and(|next| next == "::");
        let in_use = |at: usize| at > 0 && tokens[at - 1] == "use";
        (0..tokens.len())
            .any(|at| tokens[at] == library && first_of_path(at) && (in_path(at) || in_use(at)))
    }
}

/// Every path to a module of the crate that the file's code has, from the root of the crate.
pub fn paths(file: &File) -> Vec<Vec<String>> {
    let tokens = tokens(file.without_tests());
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let begins = at == 0 || tokens[at - 1] != "::";
        let followed = tokens.get(at + 1).is_some_and(|next| next == "::");
        match tokens[at].as_str() {
            // In the binary the library is another crate.
            "crate" | "order_query" if begins && followed => {
                at = tree(&tokens, at + 2, &[], &mut found);
            }
            "self" | "super" if begins && followed => {
                at = tree(&tokens, at, &file.module, &mut found);
            }
            _ => at += 1,
        }
    }
    found
}

/// The names that the file's module re-exports from its submodules, each with its origin.
pub fn exports(file: &File, files: &[File]) -> BTreeMap<String, String> {
    let depth = file.module.len();
    let inner: Vec<_> = files
        .iter()
        .filter(|other| other.module.len() == depth + 1 && other.module.starts_with(&file.module))
        .map(|other| &other.module[depth])
        .collect();
    let tokens = tokens(file.without_tests());
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        if tokens[at] != "use" {
            continue;
        }
        let first = at + if tokens[at + 1] == "self" { 3 } else { 1 };
        if inner.iter().any(|module| **module == tokens[first]) {
            tree(&tokens, first, &file.module, &mut found);
        }
    }
    found.into_iter().map(|path| (path[path.len() - 1].clone(), path[depth].clone())).collect()
}

/// Reads one path, or a group of them, that starts at a token. Returns where it ends.
fn tree(tokens: &[String], mut at: usize, from: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut path = from.to_vec();
    let mut first = true;
    loop {
        match tokens.get(at).map(String::as_str) {
            Some("{") => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token != "}") {
                    at = tree(tokens, at, &path, found);
                    // Skips a new name (`as name`) and the comma.
                    while tokens.get(at).is_some_and(|token| token != "," && token != "}") {
                        at += 1;
                    }
                    at += usize::from(tokens.get(at).is_some_and(|token| token == ","));
                }
                return at + 1;
            }
            Some("super") => drop(path.pop()),
            Some("self") if first => {}
            Some(name) => path.push(name.to_owned()),
            None => return at,
        }
        // `a::{self}` is `a`.
        if first && tokens[at] == "self" && tokens.get(at + 1).is_none_or(|next| next != "::") {
            path.push("self".to_owned());
        }
        first = false;
        at += 1;
        if tokens.get(at).is_none_or(|next| next != "::") {
            found.push(path);
            return at;
        }
        at += 1;
    }
}

/// The tokens of the code, without comments and literals.
fn tokens(code: &str) -> Vec<String> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut tokens = Vec::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(length) = quoted(rest) {
            length
        } else if is_word(first) {
            let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            tokens.push(rest[..length].to_owned());
            length
        } else if rest.starts_with("::") {
            tokens.push("::".to_owned());
            2
        } else {
            if !first.is_whitespace() {
                tokens.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    tokens
}

/// The length of the string or character literal at the start of the code, if any.
fn quoted(code: &str) -> Option<usize> {
    for (open, close) in [("r#\"", "\"#"), ("r\"", "\"")] {
        if let Some(inside) = code.strip_prefix(open) {
            return Some(open.len() + inside.find(close)? + close.len());
        }
    }
    // A quote after one character or an escape; else it is a lifetime.
    if let Some(inside) = code.strip_prefix('\'') {
        let mut chars = inside.char_indices();
        let (_, first) = chars.next()?;
        let end = if first == '\\' { inside[2..].find('\'')? + 2 } else { chars.next()?.0 };
        return inside[end..].starts_with('\'').then_some(end + 2);
    }
    let inside = code.strip_prefix('"')?;
    let mut escaped = false;
    let end = inside.find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    })?;
    Some(end + 2)
}
