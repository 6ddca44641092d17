//! Why trust is not published.

use arx_identity::{BundleError, Sequence};

use crate::state::StateError;

/// Roots are not published, or history does not hold.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The state store has nothing of what was published.
    #[error(
        "the state is gone: trust up to {known} was published from here, and the state store is \
         new; mount its volume, restore the state file, or put a backup back with `arx-ca restore \
         FILE`. If there is none, start once with --accept-loss: that makes another root, which \
         has to be given to everybody"
    )]
    Lost {
        /// The highest sequence that is known.
        known: Sequence,
    },
    /// The state store ends before what was published.
    #[error(
        "the state is an old copy: it ends at trust {stored}, and {known} was published from \
         here; restore the newer one, or move this one away and put a newer backup back with \
         `arx-ca restore FILE`. If there is none, start once with --accept-loss: the roots \
         of {stored} are then published in a new epoch"
    )]
    Behind {
        /// Where the state store ends.
        stored: Sequence,
        /// The highest sequence that is known.
        known: Sequence,
    },
    /// Something else was published meanwhile.
    #[error(
        "trust {head} was published meanwhile, so nothing follows {after} any more: look at it, and decide again"
    )]
    Moved {
        /// What was to be followed.
        after: Sequence,
        /// What is published.
        head: Sequence,
    },
    /// The root that signs is not among what is published.
    #[error(
        "the published trust {sequence} does not hold the root that signs ({root}), so nobody \
         would accept what it issues: restore a backup of the whole state"
    )]
    RootMissing {
        /// What is published.
        sequence: Sequence,
        /// The root's subject.
        root: String,
    },
    /// A root was distrusted for good.
    #[error("the root {root} was distrusted for good, and is in no bundle any more: leave it out")]
    Distrusted {
        /// The root's subject.
        root: String,
    },
    /// No sequence comes after one.
    #[error(
        "nothing can be published after {known}, the last that there can be: no history leads \
         there, so find out who has brought it here, and restore a backup from before"
    )]
    Last {
        /// The highest sequence that is known.
        known: Sequence,
    },
    /// Nothing is published.
    #[error("nothing is published in this state: restore a backup")]
    Nothing,
    /// The roots are no bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The state cannot be used or changed.
    #[error(transparent)]
    State(#[from] StateError),
}

impl TrustError {
    /// The stable reason code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Lost { .. } => "ARX-TRUST-LOST",
            Self::Behind { .. } => "ARX-TRUST-BEHIND",
            Self::Moved { .. } => "ARX-TRUST-MOVED",
            Self::RootMissing { .. } => "ARX-TRUST-ROOT-MISSING",
            Self::Distrusted { .. } => "ARX-TRUST-DISTRUSTED",
            Self::Last { .. } => "ARX-TRUST-LAST",
            Self::Nothing => "ARX-TRUST-NOTHING",
            Self::Bundle(_) => "ARX-TRUST-BUNDLE",
            Self::State(error) => error.code(),
        }
    }

    /// Whether the same call may succeed later without anybody doing anything.
    #[must_use]
    pub fn passes(&self) -> bool {
        matches!(self, Self::State(error) if error.passes())
    }
}
