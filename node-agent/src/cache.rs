//! What survives the agent: its SVIDs with their keys, the roots with their place in
//! history, and who holds what, sealed in two files of one age.
//!
//! The age is the cache id, which stands in the files' names. As long as the id is the
//! same, nothing that was told to the authority has been forgotten; when either file is
//! lost or does not open, another id begins. The roots and leaves are written before
//! anything is pushed that they vouch for.

mod key;
mod saved;

pub use key::KeyFileError;
pub(crate) use key::sealing_key;
pub(crate) use saved::{SavedKey, SavedWorkload, State};

use crate::subscribers::Subscribers;
use arx_daemon::files::{Held, Lock, SealedError, SealedFile, lock_exclusive};
use arx_identity::SpiffeId;
use arx_identity::crypto::{self, SealingKey};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use zeroize::Zeroizing;

const STATE: &str = "cache-";
const SUBSCRIBERS: &str = "subscribers-";

/// Why there is no cache to work with.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The directory.
    #[error("{}: {error}; state.directory must be writable for this process", .path.display())]
    Directory {
        /// What could not be used.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// Another agent uses it.
    #[error(transparent)]
    Held(#[from] Held),
    /// The disk's fault.
    #[error(transparent)]
    Unreadable(SealedError),
}

/// The two files, and the lock on their directory.
#[derive(Debug)]
pub(crate) struct Cache {
    id: [u8; 16],
    state: SealedFile,
    subscribers: SealedFile,
    _lock: Arc<Lock>,
}

/// What was in them.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) state: State,
    pub(crate) subscribers: Subscribers,
}

impl Cache {
    /// Opens the newest cache in `directory` that `key` opens, or begins another.
    ///
    /// # Errors
    /// If the directory can't be used, or a file in it can't be read now but may be later.
    pub(crate) fn open(
        directory: &Path,
        key: &Arc<SealingKey>,
        node: &SpiffeId,
        now: SystemTime,
    ) -> Result<(Self, Loaded), CacheError> {
        let refused = |path: &Path, error| CacheError::Directory {
            path: path.to_owned(),
            error,
        };
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(directory);
        made.map_err(|error| refused(directory, error))?;
        let lock = Arc::new(lock_exclusive(directory.join("lock"), now)?);

        let mut loaded = Loaded::default();
        let mut current: Option<Self> = None;
        for id in ids(directory).map_err(|error| refused(directory, error))? {
            let cache = Self::named(directory, id, key, node, &lock);
            if current.is_none() && cache.load(&mut loaded)? {
                current = Some(cache);
            } else {
                cache.remove();
            }
        }
        if let Some(cache) = current {
            return Ok((cache, loaded));
        }
        let cache = Self::named(directory, crypto::random(), key, node, &lock);
        // What could be saved of an older one goes on under the new id. The file whose
        // absence would be taken for "nobody holds anything" comes first.
        let write = |file: &SealedFile, content: &[u8]| {
            file.write(content)
                .map_err(|error| refused(file.path(), error))
        };
        write(&cache.subscribers, &loaded.subscribers.save())?;
        write(&cache.state, &loaded.state.encode())?;
        Ok((cache, loaded))
    }

    /// Whether both files opened; what did is in `loaded`.
    fn load(&self, loaded: &mut Loaded) -> Result<bool, CacheError> {
        let Some(state) = self.opened(&self.state)? else {
            return Ok(false);
        };
        let Some(state) = State::decode(&state) else {
            self.discarded(&self.state, "it was written by another version");
            return Ok(false);
        };
        loaded.state = state;
        let Some(subscribers) = self.opened(&self.subscribers)? else {
            self.discarded(&self.subscribers, "it does not open");
            return Ok(false);
        };
        match Subscribers::load(&subscribers) {
            Ok(subscribers) => {
                loaded.subscribers = subscribers;
                Ok(true)
            }
            Err(error) => {
                self.discarded(&self.subscribers, &error.to_string());
                Ok(false)
            }
        }
    }

    fn opened(&self, file: &SealedFile) -> Result<Option<Zeroizing<Vec<u8>>>, CacheError> {
        match file.read() {
            Ok(content) => Ok(content),
            Err(error @ SealedError::Io { .. }) => Err(CacheError::Unreadable(error)),
            // The usual case: the machine was booted, and the key was kept in memory.
            Err(error) => {
                self.discarded(file, &error.to_string());
                Ok(None)
            }
        }
    }

    fn discarded(&self, file: &SealedFile, reason: &str) {
        tracing::warn!(
            code = "ARX-AGENT-CACHE-DISCARDED",
            file = %file.path().display(),
            reason,
            "beginning another cache; certificates are fetched again, as after a reboot"
        );
    }

    fn remove(&self) {
        for file in [&self.state, &self.subscribers] {
            if let Err(error) = fs::remove_file(file.path())
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(
                    code = "ARX-AGENT-CACHE-DISCARDED",
                    file = %file.path().display(),
                    %error,
                    "an old cache could not be removed"
                );
            }
        }
    }

    fn named(
        directory: &Path,
        id: [u8; 16],
        key: &Arc<SealingKey>,
        node: &SpiffeId,
        lock: &Arc<Lock>,
    ) -> Self {
        let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let file = |kind: &str| {
            let name = format!("{kind}{hex}");
            // A file of another node or another age does not open under this name.
            let associated = format!("arx node cache\n{node}\n{name}");
            SealedFile::new(
                directory.join(&name),
                Arc::clone(key),
                associated.as_bytes(),
            )
        };
        Self {
            id,
            state: file(STATE),
            subscribers: file(SUBSCRIBERS),
            _lock: Arc::clone(lock),
        }
    }

    /// 16 random bytes, as old as what is remembered.
    pub(crate) fn id(&self) -> [u8; 16] {
        self.id
    }

    /// The file of SVIDs and roots; its content is [`State::encode`].
    pub(crate) fn state_file(&self) -> SealedFile {
        self.state.clone()
    }

    /// The file of subscribers; its content is [`Subscribers::save`].
    pub(crate) fn subscribers_file(&self) -> SealedFile {
        self.subscribers.clone()
    }
}

/// The ids of all caches in a directory, the one that was written last first.
fn ids(directory: &Path) -> io::Result<Vec<[u8; 16]>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let hex = name.to_str().and_then(|n| n.strip_prefix(STATE));
        if let Some(id) = hex.and_then(parse) {
            found.push((entry.metadata()?.modified()?, id));
        }
    }
    found.sort_by(|a, b| b.cmp(a));
    Ok(found.into_iter().map(|(_, id)| id).collect())
}

fn parse(hex: &str) -> Option<[u8; 16]> {
    if hex.len() != 32 || !hex.is_ascii() {
        return None;
    }
    let mut id = [0; 16];
    for (byte, digits) in id.iter_mut().zip(hex.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).ok()?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(id)
}

#[cfg(test)]
mod tests;
