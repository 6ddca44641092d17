//! Why state cannot be used or changed.

use crate::seal::SealError;
use crate::store::{CasError, SchemaError, StoreError};

/// State cannot be used or changed. Unless it is [`CasError::Unknown`], nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A write conflicted again and again, or its outcome is not known.
    #[error(transparent)]
    Cas(CasError),
    /// A value does not open, or is older than one seen before.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The state is in a form to keep away from.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// A value opens, but is no document that this version understands. Its content is in no
    /// message: it may be a key.
    #[error(
        "{key} is not a document that this version of Arx understands ({detail}): run the \
         version that wrote it, or restore a backup"
    )]
    Unreadable {
        /// The key of the value.
        key: String,
        /// Where in it.
        detail: String,
    },
    /// A document that was there is there no more.
    #[error("{key} was there and is gone: somebody has removed it, restore a backup")]
    Gone {
        /// The key of the value.
        key: String,
    },
    /// Documents contradict each other.
    #[error("{key} cannot be right: {detail}; restore a backup")]
    Contradiction {
        /// The key of the value.
        key: String,
        /// What does not fit.
        detail: String,
    },
    /// A name that the configuration gives.
    #[error(
        "a replica cannot be called {0:?}: use 1 to 64 lower-case letters, digits, dots and hyphens, a letter or digit first and last"
    )]
    ReplicaName(String),
}

impl StateError {
    /// The stable reason code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Store(error) => error.code(),
            Self::Cas(error) => error.code(),
            Self::Seal(error) => error.code(),
            Self::Schema(error) => error.code(),
            Self::Unreadable { .. } => "ARX-STATE-UNREADABLE",
            Self::Gone { .. } => "ARX-STATE-GONE",
            Self::Contradiction { .. } => "ARX-STATE-CONTRADICTION",
            Self::ReplicaName(_) => "ARX-STATE-REPLICA-NAME",
        }
    }

    /// Whether the same call may succeed later without anybody doing anything to the state.
    #[must_use]
    pub fn passes(&self) -> bool {
        match self {
            Self::Store(error) => error.passes(),
            Self::Cas(error) | Self::Schema(SchemaError::Store(error)) => match error {
                CasError::Store(error) => error.passes(),
                CasError::Conflict { .. } | CasError::Unknown { .. } => true,
            },
            _ => false,
        }
    }
}

impl From<CasError> for StateError {
    fn from(error: CasError) -> Self {
        match error {
            CasError::Store(error) => Self::Store(error),
            other => Self::Cas(other),
        }
    }
}
