//! Where somebody who remembers a bundle stands to what is published.

use arx_identity::{Sequence, TrustBundle};

/// What an agent's position means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has what is published.
    Same,
    /// It will take what is published.
    Behind,
    /// It has what was published later, and will refuse ours: this state is an old copy, or the
    /// agent has been elsewhere.
    Ahead,
    /// It has other content under the same sequence, and will refuse ours: history was written
    /// twice.
    Different,
}

/// Where whoever holds `sequence` with content of this hash stands to `published`.
#[must_use]
pub fn standing(published: &TrustBundle, sequence: Sequence, sha256: &[u8]) -> Standing {
    use std::cmp::Ordering;
    match sequence.cmp(&published.sequence()) {
        Ordering::Less => Standing::Behind,
        Ordering::Greater => Standing::Ahead,
        Ordering::Equal if published.sha256() == sha256 => Standing::Same,
        Ordering::Equal => Standing::Different,
    }
}
