//! Why a key did not sign.

use std::time::Duration;

use arx_identity::KeyError;

/// A key did not sign, or cannot be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignerError {
    /// It did not answer in time. Whether it still signs, nobody will use the signature.
    #[error(
        "the key ({custody}) has not answered within {after:?}: see whether what holds it is up, \
         and reachable from here"
    )]
    Deadline {
        /// Where the key is.
        custody: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// It cannot be reached.
    #[error("the key ({custody}) cannot be reached: {reason}")]
    Unreachable {
        /// Where the key is.
        custody: String,
        /// Why, and what to do.
        reason: String,
    },
    /// What came back is no signature by that key, so it was used for nothing.
    #[error(
        "what the key ({custody}) answered is no signature by the key that was expected, and was \
         thrown away: see whether that place holds the right key"
    )]
    WrongSignature {
        /// Where the key is.
        custody: String,
    },
    /// The configuration does not say how to reach it.
    #[error("the key is in {place}, and the configuration does not say how to reach it: {remedy}")]
    NotConfigured {
        /// Where the key is.
        place: String,
        /// What to write.
        remedy: &'static str,
    },
    /// Only a newer version knows where it is.
    #[error("the key is in {place}, which only a newer version knows: update this replica")]
    Newer {
        /// Where the key is.
        place: String,
    },
    /// It is nowhere any more.
    #[error("the key is erased: restore a backup")]
    Erased,
    /// It is there, and is not the certificate's.
    #[error(
        "the key ({custody}) is not that of {certificate}: put the right one there, or restore a \
         backup"
    )]
    OtherKey {
        /// Where the key is.
        custody: String,
        /// Subject of the certificate.
        certificate: String,
    },
    /// A key in memory cannot be read, or did not sign.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The task that signed was cut off.
    #[error("signing was cut off: {0}")]
    CutOff(String),
}

impl SignerError {
    /// The stable reason code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Deadline { .. } => "ARX-SIGNER-DEADLINE",
            Self::Unreachable { .. } => "ARX-SIGNER-UNREACHABLE",
            Self::WrongSignature { .. } => "ARX-SIGNER-WRONG-SIGNATURE",
            Self::NotConfigured { .. } => "ARX-SIGNER-NOT-CONFIGURED",
            Self::Newer { .. } => "ARX-SIGNER-NEWER",
            Self::Erased => "ARX-SIGNER-ERASED",
            Self::OtherKey { .. } => "ARX-SIGNER-OTHER-KEY",
            Self::Key(_) => "ARX-AUTHORITY-KEY",
            Self::CutOff(_) => "ARX-AUTHORITY-CUT-OFF",
        }
    }

    /// Whether the same call may succeed later without anybody changing the configuration.
    #[must_use]
    pub fn passes(&self) -> bool {
        matches!(
            self,
            Self::Deadline { .. }
                | Self::Unreachable { .. }
                | Self::WrongSignature { .. }
                | Self::CutOff(_)
        )
    }
}
