//! The problems of a configuration. Every module that reads settings records them; `cli` prints them.

use std::fmt;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The path of the setting: `accounts.vending.app_id`.
    pub path: String,
    /// What is wrong, and what to do. Contains no value of the file, because any value may be a secret,
    /// but may contain names of files and of environment variables.
    pub text: String,
}

/// All problems of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    /// One problem per line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Problem { path, text }) in self.0.iter().enumerate() {
            let newline = if i == 0 { "" } else { "\n" };
            write!(f, "{newline}{path}: {text}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
