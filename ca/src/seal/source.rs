//! Where the sealing key comes from: a file, never the environment.

use std::io;
use std::path::{Path, PathBuf};

use arx_daemon::config::{ConfigError, secret_file};
use arx_daemon::files::write_atomically;
use arx_identity::crypto::SealingKey;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use super::Seal;
use crate::hex::{self, Hex};

/// How values are sealed, as the configuration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Not at all (`seal = "none"`).
    None,
    /// With the key in this file.
    File {
        /// 32 bytes, or their text in hexadecimal or Base64. Mode 0600.
        path: PathBuf,
        /// Whether the first start makes the file if there is none.
        create: bool,
    },
}

/// The sealing key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file is missing or exposed, or belongs to somebody else.
    #[error("sealing key: {0}")]
    File(#[from] ConfigError),
    /// The file does not hold a key.
    #[error(
        "sealing key file {} does not hold a key ({detail}): it takes 32 random bytes, or their \
         text in hexadecimal or Base64 (openssl rand -base64 32)",
        path.display()
    )]
    NotAKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: &'static str,
    },
    /// There is no file, and there is state that was sealed with what it held.
    #[error(
        "sealing key file {} is missing, and there is state that only its key opens: restore it",
        path.display()
    )]
    Lost {
        /// The file.
        path: PathBuf,
    },
    /// The file could not be made.
    #[error("sealing key file {} cannot be made: {error}", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
}

impl SourceError {
    /// The stable reason code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::File(_) | Self::NotAKey { .. } => "ARX-SEAL-KEY-FILE",
            Self::Lost { .. } => "ARX-SEAL-KEY-LOST",
            Self::Create { .. } => "ARX-SEAL-KEY-CREATE",
        }
    }
}

impl Source {
    /// The seal. `first_start` says that there is no state yet; only then may a missing key be
    /// made, because another key would open nothing. Blocks on the file system.
    ///
    /// # Errors
    /// [`SourceError`] if there is no usable key.
    pub fn seal(&self, first_start: bool) -> Result<Seal, SourceError> {
        let Self::File { path, create } = self else {
            return Ok(Seal::plain());
        };
        if !exists(path) {
            if !first_start {
                return Err(SourceError::Lost { path: path.clone() });
            }
            if *create {
                write_new(path)?;
            }
        }
        // Also what was just made: what counts is what the next start will find.
        read(path).map(Seal::with)
    }

    /// The seal as it is now: nothing is made. `None` if the first start will make the key.
    /// Blocks on the file system.
    ///
    /// # Errors
    /// [`SourceError`] if [`Source::seal`] would have none.
    pub fn look(&self, first_start: bool) -> Result<Option<Seal>, SourceError> {
        match self {
            Self::File { path, create: true } if first_start && !exists(path) => Ok(None),
            _ => self.seal(first_start).map(Some),
        }
    }
}

fn exists(path: &Path) -> bool {
    // A link that leads nowhere is a mistake, not a place for a new key.
    path.symlink_metadata().is_ok()
}

fn write_new(path: &Path) -> Result<(), SourceError> {
    let key = SealingKey::generate();
    let text = Zeroizing::new(format!("{}\n", Hex(key.expose())));
    write_atomically(path, text.as_bytes(), 0o600).map_err(|error| SourceError::Create {
        path: path.to_owned(),
        error,
    })
}

fn read(path: &Path) -> Result<SealingKey, SourceError> {
    let content = secret_file(path)?;
    let not_a_key = |detail| SourceError::NotAKey {
        path: path.to_owned(),
        detail,
    };
    let bytes = parse(&content).ok_or_else(|| not_a_key("it has another length or form"))?;
    if bytes.iter().all(|byte| *byte == bytes[0]) {
        return Err(not_a_key("its bytes are all the same"));
    }
    Ok(SealingKey::from_bytes(&bytes))
}

/// 32 bytes as they are, or as text; white space around the text does not count. No text form
/// of 32 bytes is 32 bytes long, so there is no doubt.
fn parse(content: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let mut key = Zeroizing::new([0; 32]);
    if content.len() == key.len() {
        key.copy_from_slice(content);
        return Some(key);
    }
    let text = content.trim_ascii();
    if hex::decode(text, &mut *key) {
        return Some(key);
    }
    // Room for what the decoder needs before it knows the exact length.
    let mut buffer = Zeroizing::new([0; 64]);
    if text.len() > 44 {
        return None;
    }
    [STANDARD, URL_SAFE, STANDARD_NO_PAD, URL_SAFE_NO_PAD]
        .iter()
        .find_map(|engine| {
            let length = engine.decode_slice(text, &mut *buffer).ok()?;
            (length == key.len()).then(|| {
                let mut key = Zeroizing::new([0; 32]);
                key.copy_from_slice(&buffer[..length]);
                key
            })
        })
}

#[cfg(test)]
mod tests;
