//! What is wrong with a configuration. Everyone who reads settings notes it; `cli` prints it.

use std::fmt;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where: `accounts.vending.app_id`.
    pub path: String,
    /// What, and what to do. Holds no value of the file, because any of them may be a secret;
    /// only the names of files and of environment variables are told.
    pub text: String,
}

/// All that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    /// One problem a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Problem { path, text }) in self.0.iter().enumerate() {
            let newline = if i == 0 { "" } else { "\n" };
            write!(f, "{newline}{path}: {text}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
