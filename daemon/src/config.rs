//! Configuration: one TOML file, read strictly. Whatever is wrong becomes one line that says where, why, and what to
//! do; nothing is ignored or guessed. The content of a secret file never enters a message.

mod byte_size;
mod de;
mod document;
mod near;
mod place;
mod problem;
mod secret;
mod span;
#[cfg(test)]
mod tests;

pub use byte_size::{ByteSize, NotAByteSize};
pub use document::File;
pub use problem::{ConfigError, Problem, Problems};
pub use secret::secret_file;
pub use span::{NotASpan, Span};

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error as _};

/// Reads the TOML file at `path` as a `T`. `T` and the types in it should be `#[serde(deny_unknown_fields)]`.
///
/// The error is one [`Problem`], for example
/// `arx.toml:3: unknown key "sokcet" in [agent]; did you mean "socket"?`.
/// To check values against each other afterwards with their lines at hand, use [`File`].
pub fn load<T: DeserializeOwned>(path: impl AsRef<Path>) -> Result<T, ConfigError> {
    File::read(path)?.parse()
}

/// For `#[serde(deserialize_with)]`: a value that is written as a text, with its own parser's word on what is wrong.
///
/// # Errors
/// What the parser says, or that there is no text.
pub fn from_text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(D::Error::custom)
}
