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
        f.debug_struct("SealedFile").field("path", &self.path).finish_non_exhaustive()
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
        Self { path: path.into(), key, associated: bound }
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
        match File::open(&self.path).and_then(|file| file.take(LIMIT + 1).read_to_end(&mut content)) {
            Ok(_) if content.len() as u64 > LIMIT => return Err(SealedError::Foreign { path: path() }),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(SealedError::Io { path: path(), error }),
        }
        match content.strip_prefix(MAGIC.as_slice()) {
            Some([VERSION, sealed @ ..]) => match self.key.open(&self.associated, sealed) {
                Ok(plain) => Ok(Some(plain)),
                Err(_) => Err(SealedError::Damaged { path: path() }),
            },
            Some([found, ..]) => Err(SealedError::Newer { path: path(), found: *found }),
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
