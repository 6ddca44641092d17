//! What is wrong with a configuration, in words for the person who has to put it right.

use std::fmt;
use std::path::{Path, PathBuf};

use super::File;

/// One thing that is wrong. `Display` is `FILE:LINE: KEY: REASON; REMEDY`, without the parts that are not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file that is at fault: the configuration, or a file that it names.
    pub file: PathBuf,
    /// Line in `file`, from 1.
    pub line: Option<usize>,
    /// Dotted key, as `agent.socket` or `clusters[1].issuer`, where the reason does not name it already.
    pub key: Option<String>,
    /// Why it is refused.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(key) = &self.key {
            write!(f, ": {key}")?;
        }
        write!(f, ": {}; {}", self.reason, self.remedy)
    }
}

/// A configuration that was refused: at least one [`Problem`], one per line in `Display`. End the process with
/// [`crate::exit::CONFIG`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

impl ConfigError {
    pub(super) fn in_file(
        file: &Path,
        line: Option<usize>,
        reason: String,
        remedy: String,
    ) -> Self {
        Problem {
            file: file.to_owned(),
            line,
            key: None,
            reason,
            remedy,
        }
        .into()
    }

    /// All that is wrong, in the order of discovery.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self {
            problems: vec![problem],
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.problems.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Gathers everything that is wrong with a configuration that could be read, so that `check` lists all of it at once.
#[derive(Debug)]
pub struct Problems<'f> {
    file: &'f File,
    found: Vec<Problem>,
}

impl<'f> Problems<'f> {
    pub(super) fn new(file: &'f File) -> Self {
        Self {
            file,
            found: Vec::new(),
        }
    }

    /// Notes that the value of `key` (`agent.socket`, `clusters[1].issuer`) is refused. The line is that of the key, or
    /// of the nearest table around it if the file doesn't have the key.
    pub fn add(&mut self, key: &str, reason: impl Into<String>, remedy: impl Into<String>) {
        self.found.push(Problem {
            file: self.file.path().to_owned(),
            line: self.file.line(key),
            key: Some(key.to_owned()),
            reason: reason.into(),
            remedy: remedy.into(),
        });
    }

    /// Takes the value, or notes what is wrong with the file that `key` names. For results of [`super::secret_file`]
    /// and of [`super::load`] on a second file.
    pub fn take<T>(&mut self, key: &str, result: Result<T, ConfigError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                for Problem {
                    file,
                    line,
                    key: inner,
                    reason,
                    remedy,
                } in error.problems
                {
                    let line = line.map(|line| format!(":{line}")).unwrap_or_default();
                    let inner = inner.map(|key| format!(": {key}")).unwrap_or_default();
                    self.add(
                        key,
                        format!("{}{line}{inner}: {reason}", file.display()),
                        remedy,
                    );
                }
                None
            }
        }
    }

    /// True as long as nothing was noted.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Ends the check: an error if anything was noted.
    pub fn finish(self) -> Result<(), ConfigError> {
        if self.found.is_empty() {
            Ok(())
        } else {
            Err(ConfigError {
                problems: self.found,
            })
        }
    }
}
