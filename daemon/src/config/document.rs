//! A configuration file as it was read: its values, and on which line each of them stands.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::de::{Node, Refusal, Step, What};
use super::{ConfigError, Problems, near};

/// Larger files are refused: no configuration is that long, a device or a log given by mistake is.
const LIMIT: u64 = 1 << 20;

/// A configuration file: syntactically sound TOML, not yet understood.
pub struct File {
    path: PathBuf,
    /// Checked to be TOML.
    text: String,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl File {
    /// Reads `path` and checks its syntax.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let refused = |line, reason: String, remedy: &str| {
            ConfigError::in_file(path, line, reason, remedy.to_owned())
        };
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(LIMIT + 1).read_to_end(&mut bytes))
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => refused(
                    None,
                    "no such file".to_owned(),
                    "create it, or name another with --config FILE",
                ),
                _ => refused(
                    None,
                    format!("cannot be read: {error}"),
                    "give this process the right to read it",
                ),
            })?;
        if bytes.len() as u64 > LIMIT {
            return Err(refused(
                None,
                "longer than 1 MiB".to_owned(),
                "name a configuration file",
            ));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let sound = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..sound]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count()
                + 1;
            refused(Some(line), "not UTF-8".to_owned(), "save it as UTF-8 text")
        })?;
        Self::from_text(path, text)
    }

    /// The same for a text that is already at hand; `path` is used in messages only.
    pub fn from_text(
        path: impl Into<PathBuf>,
        text: impl Into<String>,
    ) -> Result<Self, ConfigError> {
        let (path, text) = (path.into(), text.into());
        if let Err(error) = DeTable::parse(&text) {
            let line = error.span().map(|span| line_at(&text, span.start));
            let reason = format!("not TOML: {}", error.message());
            return Err(ConfigError::in_file(
                &path,
                line,
                reason,
                "correct the syntax of this line".to_owned(),
            ));
        }
        Ok(Self { path, text })
    }

    /// Understands the file as a `T`; the error names the first thing that doesn't fit.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        T::deserialize(Node(&self.root())).map_err(|refusal| self.explain(refusal))
    }

    /// Where the file was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The line, from 1, on which `key` stands (`agent.socket`, `clusters[1].issuer`); where the file does not have the
    /// key, the line of the nearest table around it.
    pub fn line(&self, key: &str) -> Option<usize> {
        self.line_of(&Step::parse(key))
    }

    /// An empty list of problems of this file.
    pub fn problems(&self) -> Problems<'_> {
        Problems::new(self)
    }

    /// The values borrow from the text, so they are parsed when needed instead of being kept beside it.
    fn root(&self) -> Spanned<DeValue<'_>> {
        let (table, _) = DeTable::parse_recoverable(&self.text);
        Spanned::new(table.span(), DeValue::Table(table.into_inner()))
    }

    fn line_of(&self, path: &[Step]) -> Option<usize> {
        let mut found = None;
        let root = self.root();
        let mut node = &root;
        for step in path {
            let next = match (step, node.get_ref()) {
                (Step::Key(key), DeValue::Table(table)) => table
                    .get_key_value(key.as_str())
                    .map(|(key, value)| (key.span(), value)),
                (Step::Index(n), DeValue::Array(array)) => {
                    array.get(*n).map(|value| (value.span(), value))
                }
                _ => None,
            };
            let Some((span, value)) = next else { break };
            found = Some(line_at(&self.text, span.start));
            node = value;
        }
        found
    }

    fn explain(&self, Refusal { mut path, what }: Refusal) -> ConfigError {
        // Errors gather their path from the inside out.
        path.reverse();
        let table = Step::table(&path);
        let problem = |line, reason, remedy| ConfigError::in_file(&self.path, line, reason, remedy);
        let value = |reason, remedy| {
            super::Problem {
                file: self.path.clone(),
                line: self.line_of(&path),
                key: (!path.is_empty()).then(|| Step::dotted(&path)),
                reason,
                remedy,
            }
            .into()
        };
        match what {
            What::UnknownKey { key, known } => {
                let remedy = near::remedy(&key, known, "keys");
                let reason = format!("unknown key \"{key}\" {table}");
                path.push(Step::Key(key));
                problem(self.line_of(&path), reason, remedy)
            }
            What::MissingKey(key) => problem(
                self.line_of(&path),
                format!("the key \"{key}\" is missing {table}"),
                "add it".to_owned(),
            ),
            What::UnknownWord { word, known } => value(
                format!("unknown value \"{word}\""),
                near::remedy(&word, known, "values"),
            ),
            What::WrongType { expected, found } => {
                value(format!("found {found}"), format!("give {expected}"))
            }
            What::Unfit(reason) => value(reason, "correct this value".to_owned()),
        }
    }
}

fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes()
        .iter()
        .take(offset)
        .filter(|byte| **byte == b'\n')
        .count()
        + 1
}
