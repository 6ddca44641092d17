//! Files that hold keys: sealed (AEAD) so that a copy of the disk is worth nothing without the sealing key.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arx_identity::crypto::SealingKey;
use zeroize::Zeroizing;

use super::write_atomically;

/// Starts every sealed file; the byte after it is the version of the format.
const MAGIC: &[u8; 10] = b"arx-sealed";
const VERSION: u8 = 1;
const HEADER: usize = MAGIC.len() + 1;

/// The largest file that is read: 256 MiB, far beyond any cache of a node.
const LIMIT: u64 = 256 << 20;

/// One file whose content only the holder of the key can read or change.
///
/// Layout: `arx-sealed`, the version (1), then what [`SealingKey::seal`] made. The header and the associated data are
/// authenticated with the content. A whole older file put back in place opens again: who needs to notice that must put
/// a generation into the associated data.
#[derive(Clone)]
pub struct SealedFile {
    path: PathBuf,
    key: Arc<SealingKey>,
    associated: Vec<u8>,
}

impl std::fmt::Debug for SealedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Why a sealed file could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SealedError {
    /// The disk's fault: may pass.
    #[error("{} cannot be read: {error}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// Not ours: it does not start as sealed files do.
    #[error("{} is not a sealed file of arx; move it away", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Written by a newer Arx.
    #[error("{} has format {found}, this version knows {VERSION}; start the version that wrote it, or move it away", .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version in its header.
        found: u8,
    },
    /// Truncated, changed, sealed under another key, or with other associated data; which of these cannot be known.
    #[error("{} is damaged or was sealed for another owner or with another key; restore it and its key, or move it away", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

impl SealedFile {
    /// Names the file; nothing is read yet. `associated` says whose file it is and what for (node, cache id, ...): a
    /// file sealed with other associated data does not open.
    pub fn new(path: impl Into<PathBuf>, key: Arc<SealingKey>, associated: &[u8]) -> Self {
        let mut bound = header().to_vec();
        bound.extend_from_slice(associated);
        Self {
            path: path.into(),
            key,
            associated: bound,
        }
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Seals `plain` and replaces the file by it, with mode 0600. On disk when this returns `Ok`.
    pub fn write(&self, plain: &[u8]) -> io::Result<()> {
        let mut content = header().to_vec();
        content.extend_from_slice(&self.key.seal(&self.associated, plain));
        write_atomically(&self.path, &content, 0o600)
    }

    /// Opens the file: what was last written, or `None` if there is no file.
    pub fn read(&self) -> Result<Option<Zeroizing<Vec<u8>>>, SealedError> {
        let path = || self.path.clone();
        let mut content = Vec::new();
        match File::open(&self.path).and_then(|file| file.take(LIMIT + 1).read_to_end(&mut content))
        {
            Ok(_) if content.len() as u64 > LIMIT => {
                return Err(SealedError::Foreign { path: path() });
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(SealedError::Io {
                    path: path(),
                    error,
                });
            }
        }
        match content.strip_prefix(MAGIC.as_slice()) {
            Some([VERSION, sealed @ ..]) => match self.key.open(&self.associated, sealed) {
                Ok(plain) => Ok(Some(plain)),
                Err(_) => Err(SealedError::Damaged { path: path() }),
            },
            Some([found, ..]) => Err(SealedError::Newer {
                path: path(),
                found: *found,
            }),
            // A header cut short is what is left of ours.
            Some([]) => Err(SealedError::Damaged { path: path() }),
            None if MAGIC.starts_with(&content) => Err(SealedError::Damaged { path: path() }),
            None => Err(SealedError::Foreign { path: path() }),
        }
    }
}

fn header() -> [u8; HEADER] {
    let mut header = [VERSION; HEADER];
    header[..MAGIC.len()].copy_from_slice(MAGIC);
    header
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    type Outcome = Result<(), Box<dyn Error>>;

    fn sealed(dir: &tempfile::TempDir, key: u8, associated: &str) -> SealedFile {
        let key = Arc::new(SealingKey::from_bytes(&[key; 32]));
        SealedFile::new(dir.path().join("cache"), key, associated.as_bytes())
    }

    #[test]
    fn what_was_written_last_is_read_and_cannot_be_seen_in_the_file() -> Outcome {
        let dir = tempfile::tempdir()?;
        let file = sealed(&dir, 1, "node-1");
        assert!(file.read()?.is_none(), "no file yet");
        for plain in [&b"a private key"[..], b"", b"another private key"] {
            file.write(plain)?;
            assert_eq!(file.read()?.expect("just written").as_slice(), plain);
            let raw = std::fs::read(file.path())?;
            assert!(plain.is_empty() || !raw.windows(plain.len()).any(|window| window == plain));
        }
        assert_eq!(
            std::fs::metadata(file.path())?.permissions().mode() & 0o7777,
            0o600
        );
        Ok(())
    }

    #[test]
    fn another_key_or_another_owner_does_not_open_it() -> Outcome {
        let dir = tempfile::tempdir()?;
        sealed(&dir, 1, "node-1").write(b"secret")?;
        for other in [
            sealed(&dir, 2, "node-1"),
            sealed(&dir, 1, "node-2"),
            sealed(&dir, 1, ""),
        ] {
            assert!(matches!(other.read(), Err(SealedError::Damaged { .. })));
        }
        Ok(())
    }

    #[test]
    fn a_foreign_file_and_one_of_a_newer_version_are_told_apart() -> Outcome {
        let dir = tempfile::tempdir()?;
        let file = sealed(&dir, 1, "node-1");
        std::fs::write(file.path(), "#!/bin/sh\n")?;
        assert!(matches!(file.read(), Err(SealedError::Foreign { .. })));
        std::fs::write(file.path(), b"arx-sealed\x02whatever")?;
        let error = file.read().expect_err("format 2");
        assert!(matches!(error, SealedError::Newer { found: 2, .. }));
        assert!(
            error
                .to_string()
                .contains("has format 2, this version knows 1"),
            "{error}"
        );
        std::fs::remove_file(file.path())?;
        std::fs::create_dir(file.path())?;
        assert!(matches!(file.read(), Err(SealedError::Io { .. })));
        Ok(())
    }

    #[test]
    fn a_file_cut_anywhere_is_damaged() -> Outcome {
        let dir = tempfile::tempdir()?;
        let file = sealed(&dir, 1, "node-1");
        file.write(b"secret")?;
        let whole = std::fs::read(file.path())?;
        for length in 0..whole.len() {
            std::fs::write(file.path(), &whole[..length])?;
            assert!(
                matches!(file.read(), Err(SealedError::Damaged { .. })),
                "cut to {length}"
            );
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn one_changed_bit_anywhere_is_noticed(plain: Vec<u8>, at: prop::sample::Index, bit in 0u8..8) {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let file = sealed(&dir, 1, "node-1");
            file.write(&plain).expect("disk takes it");
            let mut raw = std::fs::read(file.path()).expect("just written");
            let at = at.index(raw.len());
            raw[at] ^= 1 << bit;
            std::fs::write(file.path(), raw).expect("disk takes it");
            prop_assert!(file.read().is_err());
        }

        #[test]
        fn no_content_makes_reading_panic(raw in prop::collection::vec(any::<u8>(), 0..80)) {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let file = sealed(&dir, 1, "node-1");
            std::fs::write(file.path(), raw).expect("disk takes it");
            prop_assert!(file.read().is_err());
        }
    }
}
