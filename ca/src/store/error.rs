//! What can go wrong between Arx and its store, one variant for each thing that a caller
//! can do about it.

use std::path::Path;

use super::Key;

/// A store did not do what it was asked, and nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No space left. What is stored stays, reads go on, and writes succeed again as soon as
    /// there is space.
    #[error("{place} has no space left: free some, writing goes on by itself")]
    Full {
        /// The file or service.
        place: String,
    },
    /// Only reads are permitted. What is stored stays, and writes succeed again as soon as
    /// they are permitted.
    #[error("{place} is read-only ({detail}): make it writable, writing goes on by itself")]
    ReadOnly {
        /// The file or service.
        place: String,
        /// What the system or service said.
        detail: String,
    },
    /// The store did not answer or could not; trying again later may help.
    #[error("{place} does not answer: {detail}")]
    Unavailable {
        /// The file or service.
        place: String,
        /// What the system or service said.
        detail: String,
    },
    /// So many of its members are away that the others may not decide. What is stored stays.
    #[error(
        "{place} has no quorum, so nothing can be read or written ({detail}): bring its members \
         back, it goes on by itself"
    )]
    NoQuorum {
        /// The service.
        place: String,
        /// What its members said.
        detail: String,
    },
    /// It does not let us. What is stored stays, and calls succeed again as soon as they are
    /// permitted.
    #[error("{place} refuses what is asked ({detail}): permit it, it goes on by itself")]
    Refused {
        /// The service.
        place: String,
        /// What it said.
        detail: String,
    },
    /// Its file is not where it was, so nothing is written: it would be lost at the next start.
    /// Reads go on, and writes succeed again as soon as it is back.
    #[error(
        "{place} {detail} while this process has it, so nothing is written, which the next start \
         would not find: put it back where it was, or restart with the one that is there"
    )]
    Moved {
        /// The file.
        place: String,
        /// What became of it.
        detail: String,
    },
    /// What is stored is not what was written. Nothing was overwritten.
    #[error("{place} is damaged ({detail}): keep it, and restore a backup in its place")]
    Damaged {
        /// The file or service.
        place: String,
        /// What does not hold.
        detail: String,
    },
    /// The value is larger than [`MAX_VALUE`](super::MAX_VALUE).
    #[error(
        "the value of {key} has {size} bytes: the store takes {} at most",
        super::MAX_VALUE
    )]
    TooLarge {
        /// The key.
        key: String,
        /// Bytes of the value.
        size: usize,
    },
}

/// A compare-and-swap did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CasError {
    /// The stored version is not the expected one; nothing was changed. Load again, and decide
    /// again.
    #[error("{key} was changed meanwhile: load it again")]
    Conflict {
        /// The key.
        key: String,
    },
    /// The value may have been written, or may yet be. Read it back before going on.
    #[error("whether {key} was written is not known ({detail}): read it back")]
    Unknown {
        /// The key.
        key: String,
        /// What happened.
        detail: String,
    },
    /// Nothing was changed, for a reason that is not another writer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl StoreError {
    /// The stable reason code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Full { .. } => "ARX-STORE-FULL",
            Self::ReadOnly { .. } => "ARX-STORE-READ-ONLY",
            Self::Unavailable { .. } => "ARX-STORE-UNAVAILABLE",
            Self::NoQuorum { .. } => "ARX-STORE-NO-QUORUM",
            Self::Refused { .. } => "ARX-STORE-REFUSED",
            Self::Moved { .. } => "ARX-STORE-MOVED",
            Self::Damaged { .. } => "ARX-STORE-DAMAGED",
            Self::TooLarge { .. } => "ARX-STORE-TOO-LARGE",
        }
    }

    /// Whether the same call may succeed later without anybody changing the call.
    #[must_use]
    pub fn passes(&self) -> bool {
        match self {
            Self::Full { .. }
            | Self::ReadOnly { .. }
            | Self::Unavailable { .. }
            | Self::NoQuorum { .. }
            | Self::Refused { .. }
            | Self::Moved { .. } => true,
            Self::Damaged { .. } | Self::TooLarge { .. } => false,
        }
    }

    pub(super) fn too_large(key: &Key, size: usize) -> Self {
        Self::TooLarge {
            key: key.to_string(),
            size,
        }
    }

    /// What a state file is called in messages.
    pub(super) fn state_file(path: &Path) -> String {
        format!("state file {}", path.display())
    }

    /// What a file system's refusal means for the state file at `path`.
    pub(super) fn io(path: &Path, error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        let place = Self::state_file(path);
        let detail = error.to_string();
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                Self::Full { place }
            }
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
                Self::ReadOnly { place, detail }
            }
            _ => Self::Unavailable { place, detail },
        }
    }
}

impl CasError {
    /// The stable reason code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Conflict { .. } => "ARX-STORE-CONFLICT",
            Self::Unknown { .. } => "ARX-STORE-OUTCOME-UNKNOWN",
            Self::Store(error) => error.code(),
        }
    }

    pub(super) fn conflict(key: &Key) -> Self {
        Self::Conflict {
            key: key.to_string(),
        }
    }

    pub(super) fn unknown(key: &Key, detail: impl Into<String>) -> Self {
        Self::Unknown {
            key: key.to_string(),
            detail: detail.into(),
        }
    }
}
