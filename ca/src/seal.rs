//! Sealing of values before they go to the store.
//!
//! A sealed value is bound to its key, and so to its trust domain, and to its generation: it
//! opens nowhere else, and a header that claims another generation does not help. So whoever
//! can write to the store but lacks the sealing key can neither read a root's key nor add a
//! root, and an older value in a newer one's place is noticed by whoever knows the generation.
//!
//! The sealing key comes from a file. Without one, values are only wrapped, and only where the
//! configuration says so.

mod source;

use std::fmt;

use arx_identity::crypto::{SealingKey, random, sha256};
use zeroize::Zeroizing;

pub use self::source::{Source, SourceError};
use crate::hex::Hex;
use crate::store::Key;

/// The form of a stored value: `arx`, the version of this form, and then
/// `mode (1) | generation (8, big-endian) | mark (8) | payload`.
const MAGIC: [u8; 4] = *b"arx\x01";
const PLAIN: u8 = 0;
/// AES-256-GCM: nonce (12), ciphertext, tag (16).
const SEALED: u8 = 1;
const HEADER: usize = MAGIC.len() + 1 + 8 + MARK;
const MARK: usize = 8;

/// How much longer than its content a stored value is, at most.
pub const OVERHEAD: usize = HEADER + 12 + 16;

/// Seals and opens values.
pub struct Seal(Mode);

enum Mode {
    Plain,
    Key { key: SealingKey, id: SealId },
}

/// Names a sealing key without giving it away: the first bytes of a hash of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SealId([u8; MARK]);

/// What was sealed.
pub struct Opened {
    /// The generation that it was sealed with.
    pub generation: u64,
    /// The content.
    pub value: Zeroizing<Vec<u8>>,
}

/// A stored value does not open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// It was written without a sealing key.
    #[error(
        "{key} is not sealed, but a sealing key is configured: a value that anybody could have \
         written is not taken; if this state was made with seal = \"none\", keep that"
    )]
    NotSealed {
        /// The key of the value.
        key: String,
    },
    /// It was written with a sealing key.
    #[error(
        "{key} is sealed with key {with}, but the configuration says seal = \"none\": name the file of that key"
    )]
    Sealed {
        /// The key of the value.
        key: String,
        /// The sealing key that it needs.
        with: SealId,
    },
    /// It was written with another sealing key.
    #[error(
        "{key} is sealed with key {with}, and the configured file holds key {ours}: name the file of key {with}"
    )]
    OtherKey {
        /// The key of the value.
        key: String,
        /// The sealing key that it needs.
        with: SealId,
        /// The sealing key at hand.
        ours: SealId,
    },
    /// It is not what was sealed, or belongs to another key or generation.
    #[error("{key} does not open: it was changed, or copied from elsewhere; restore a backup")]
    Changed {
        /// The key of the value.
        key: String,
    },
    /// It is of another generation than the one that is wanted.
    #[error(
        "{key} is of generation {found}, {expected} was expected: an older value was put back; \
         restore the newer one"
    )]
    Generation {
        /// The key of the value.
        key: String,
        /// What it says.
        found: u64,
        /// What it should say.
        expected: u64,
    },
    /// It is not a value that this version of Arx writes.
    #[error("{key} is not a value of Arx, or one of a newer version: it was left as it is")]
    Unreadable {
        /// The key of the value.
        key: String,
    },
}

impl Seal {
    /// No seal: values can be read and changed by whoever gets at the store.
    #[must_use]
    pub fn plain() -> Self {
        Self(Mode::Plain)
    }

    /// Seals with `key`.
    #[must_use]
    pub fn with(key: SealingKey) -> Self {
        let id = SealId::of(&key);
        Self(Mode::Key { key, id })
    }

    /// The name of the sealing key, if there is one.
    #[must_use]
    pub fn id(&self) -> Option<SealId> {
        match &self.0 {
            Mode::Plain => None,
            Mode::Key { id, .. } => Some(*id),
        }
    }

    /// What to store for `value` under `key`. No two results are the same, so whoever reads
    /// one back knows whether it is their own.
    #[must_use]
    pub fn seal(&self, key: &Key, generation: u64, value: &[u8]) -> Vec<u8> {
        let (mode, mark) = match &self.0 {
            Mode::Plain => (PLAIN, random::<MARK>()),
            Mode::Key { id, .. } => (SEALED, id.0),
        };
        let mut stored = Vec::with_capacity(OVERHEAD + value.len());
        stored.extend_from_slice(&MAGIC);
        stored.push(mode);
        stored.extend_from_slice(&generation.to_be_bytes());
        stored.extend_from_slice(&mark);
        match &self.0 {
            Mode::Plain => stored.extend_from_slice(value),
            Mode::Key { key: sealing, .. } => {
                let sealed = sealing.seal(&associated(&stored, key), value);
                stored.extend_from_slice(&sealed);
            }
        }
        stored
    }

    /// What was stored under `key`, whatever its generation.
    ///
    /// # Errors
    /// [`SealError`] if it is not what this seal made for this key.
    pub fn open(&self, key: &Key, stored: &[u8]) -> Result<Opened, SealError> {
        let name = || key.to_string();
        let unreadable = || SealError::Unreadable { key: name() };
        let (header, payload) = stored
            .split_first_chunk::<HEADER>()
            .ok_or_else(unreadable)?;
        let (magic, rest) = header.split_first_chunk::<4>().ok_or_else(unreadable)?;
        let (&[mode], rest) = rest.split_first_chunk::<1>().ok_or_else(unreadable)?;
        let (generation, rest) = rest.split_first_chunk::<8>().ok_or_else(unreadable)?;
        let mark: [u8; MARK] = rest.try_into().map_err(|_| unreadable())?;
        if *magic != MAGIC {
            return Err(unreadable());
        }
        let value = match (&self.0, mode) {
            (Mode::Plain, PLAIN) => Zeroizing::new(payload.to_vec()),
            (Mode::Plain, SEALED) => {
                return Err(SealError::Sealed {
                    key: name(),
                    with: SealId(mark),
                });
            }
            (Mode::Key { .. }, PLAIN) => return Err(SealError::NotSealed { key: name() }),
            (Mode::Key { id, .. }, SEALED) if id.0 != mark => {
                return Err(SealError::OtherKey {
                    key: name(),
                    with: SealId(mark),
                    ours: *id,
                });
            }
            (Mode::Key { key: sealing, .. }, SEALED) => sealing
                .open(&associated(header, key), payload)
                .map_err(|_| SealError::Changed { key: name() })?,
            _ => return Err(unreadable()),
        };
        Ok(Opened {
            generation: u64::from_be_bytes(*generation),
            value,
        })
    }

    /// What was stored under `key` with exactly this generation.
    ///
    /// # Errors
    /// [`SealError`] if it is not what this seal made for this key and generation.
    pub fn open_generation(
        &self,
        key: &Key,
        generation: u64,
        stored: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let opened = self.open(key, stored)?;
        if opened.generation != generation {
            return Err(SealError::Generation {
                key: key.to_string(),
                found: opened.generation,
                expected: generation,
            });
        }
        Ok(opened.value)
    }
}

/// The header has a fixed length and the key's text names trust domain, kind, issuer and name,
/// so no two combinations have the same associated data.
fn associated(header: &[u8], key: &Key) -> Vec<u8> {
    let mut associated = header.to_vec();
    associated.extend_from_slice(key.to_string().as_bytes());
    associated
}

impl SealError {
    /// The stable reason code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotSealed { .. } => "ARX-SEAL-MISSING",
            Self::Sealed { .. } | Self::OtherKey { .. } => "ARX-SEAL-KEY",
            Self::Changed { .. } => "ARX-SEAL-BROKEN",
            Self::Generation { .. } => "ARX-SEAL-GENERATION",
            Self::Unreadable { .. } => "ARX-SEAL-UNREADABLE",
        }
    }
}

impl SealId {
    fn of(key: &SealingKey) -> Self {
        let mut named = Zeroizing::new(b"arx sealing key id\0".to_vec());
        named.extend_from_slice(key.expose());
        let hash = sha256(&named);
        Self(*hash.first_chunk().expect("a hash has 32 bytes"))
    }
}

impl fmt::Display for SealId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

impl fmt::Debug for SealId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealId({self})")
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.id() {
            None => f.write_str("Seal(none)"),
            Some(id) => write!(f, "Seal(key {id})"),
        }
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("generation", &self.generation)
            .field("bytes", &self.value.len())
            .finish()
    }
}

#[cfg(test)]
mod tests;
