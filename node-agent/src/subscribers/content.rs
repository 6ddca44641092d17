//! What is sent under a resource's name, as far as it matters for who holds what.

use arx_identity::{KeyId, Sequence, Serial, SpiffeId};
use std::time::SystemTime;

/// One immutable content of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The roots of the trust domain at a sequence.
    Trust {
        /// Its place in the history; the same roots may stand at several places.
        sequence: Sequence,
        /// SHA-256 of the DER roots in bundle order.
        sha256: [u8; 32],
    },
    /// A certificate with its key.
    Leaf(Leaf),
}

/// What an inventory says about a leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Its serial number.
    pub serial: Serial,
    /// SHA-256 of the DER chain.
    pub sha256: [u8; 32],
    /// Whose it is.
    pub spiffe_id: SpiffeId,
    /// Subject key id of the root that it chains to.
    pub root: KeyId,
    /// When it ends.
    pub not_after: SystemTime,
}

impl Content {
    /// What a refusal sticks to.
    #[must_use]
    pub fn sha256(&self) -> &[u8; 32] {
        match self {
            Self::Trust { sha256, .. } => sha256,
            Self::Leaf(leaf) => &leaf.sha256,
        }
    }

    /// The leaf, unless it is trust.
    #[must_use]
    pub fn leaf(&self) -> Option<&Leaf> {
        match self {
            Self::Leaf(leaf) => Some(leaf),
            Self::Trust { .. } => None,
        }
    }

    /// Whether both are trust and this one is of an earlier sequence.
    #[must_use]
    pub(super) fn is_lower_than(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Trust { sequence: a, .. }, Self::Trust { sequence: b, .. }) => a < b,
            _ => false,
        }
    }
}
