//! The key of the cache: 32 bytes in a file of its own, on a tmpfs unless told otherwise.

use arx_daemon::config::{ConfigError, secret_file};
use arx_daemon::files::write_atomically;
use arx_identity::crypto::SealingKey;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It is there and must not be used.
    #[error(transparent)]
    Refused(#[from] ConfigError),
    /// It is there and is something else.
    #[error("{path} has {found} bytes and a cache key has 32; remove it, and a new one is made")]
    NotAKey {
        /// The file.
        path: String,
        /// Its length.
        found: usize,
    },
    /// A new one can't be kept.
    #[error(
        "{path} cannot be written: {error}; state.cache_key_file must be in a writable directory"
    )]
    Unwritable {
        /// The file.
        path: String,
        /// The system's answer.
        error: io::Error,
    },
}

/// The key in `path`; a new one is made if there is no file.
///
/// # Errors
/// If the file is not fit to hold a secret, or none can be written.
pub(crate) fn sealing_key(path: &Path) -> Result<SealingKey, KeyFileError> {
    if path.try_exists().unwrap_or(true) {
        let bytes = secret_file(path)?;
        let key: &[u8; 32] = bytes
            .as_slice()
            .try_into()
            .map_err(|_| KeyFileError::NotAKey {
                path: path.display().to_string(),
                found: bytes.len(),
            })?;
        return Ok(SealingKey::from_bytes(key));
    }
    let key = SealingKey::generate();
    let keep = || {
        if let Some(directory) = path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)?;
        }
        write_atomically(path, key.expose(), 0o600)
    };
    match keep() {
        Ok(()) => Ok(key),
        Err(error) => Err(KeyFileError::Unwritable {
            path: path.display().to_string(),
            error,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_and_found_again() -> Result<(), Box<dyn std::error::Error>> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("run/cache.key");
        let made = sealing_key(&path)?;
        assert_eq!(sealing_key(&path)?.expose(), made.expose());
        let mode = std::fs::metadata(&path)?.permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        Ok(())
    }

    #[test]
    fn a_key_that_others_can_read_or_that_is_none_is_refused() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("cache.key");
        write_atomically(&path, &[7; 32], 0o644)?;
        assert!(matches!(sealing_key(&path), Err(KeyFileError::Refused(_))));
        write_atomically(&path, &[7; 31], 0o600)?;
        assert!(matches!(
            sealing_key(&path),
            Err(KeyFileError::NotAKey { found: 31, .. })
        ));
        Ok(())
    }
}
