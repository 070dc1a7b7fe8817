//! What is wrong with a configuration: one line each, with file, key, expectation and remedy.

use std::{fmt, path::PathBuf};

/// One fault in the configuration, as one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {key}: {problem}; {remedy}", file.display())]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// The key, dotted, or `line N` where only that is known.
    pub key: String,
    /// What was expected and what was found.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

/// Everything wrong with one configuration file, in the file's order; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
