//! Configuration: one TOML file, read strictly. Whatever is wrong becomes one line that says where, why, and what to
//! do; nothing is ignored or guessed. The content of a secret file never enters a message.

mod byte_size;
mod de;
mod document;
mod near;
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

use std::path::Path;

use serde::de::DeserializeOwned;

/// Reads the TOML file at `path` as a `T`. `T` and the types in it should be `#[serde(deny_unknown_fields)]`.
///
/// The error is one [`Problem`], for example
/// `arx.toml:3: unknown key "sokcet" in [agent]; did you mean "socket"?`.
/// To check values against each other afterwards with their lines at hand, use [`File`].
pub fn load<T: DeserializeOwned>(path: impl AsRef<Path>) -> Result<T, ConfigError> {
    File::read(path)?.parse()
}
