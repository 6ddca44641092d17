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
    /// Its PIN is not taken, or not at hand. None is tried twice.
    #[error("the PIN of {custody} is not accepted: {reason}")]
    Pin {
        /// Where the key is.
        custody: String,
        /// Why, and what to do. Not the PIN.
        reason: String,
    },
    /// The place can be reached, and the key is not there.
    #[error("there is no key at {place}: {remedy}")]
    KeyMissing {
        /// Where it should be.
        place: String,
        /// What to do.
        remedy: &'static str,
    },
    /// There is a key, and no root can have it.
    #[error("the key at {place} cannot be a root's: {reason}")]
    KeyUnsuitable {
        /// Where it is.
        place: String,
        /// Why.
        reason: String,
    },
    /// The key was a root's already.
    #[error("the key at {place} was a root's already, and another root gets another key: {remedy}")]
    KeyUsed {
        /// Where it is.
        place: String,
        /// What to do.
        remedy: &'static str,
    },
    /// This program was built without the way there.
    #[error(
        "this build reaches no PKCS#11 token: use one that is linked dynamically, with the \
         feature pkcs11"
    )]
    NotBuilt,
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
    /// What the configuration says about reaching it cannot be used.
    #[error("the key ({custody}) cannot be asked for: {reason}")]
    Setup {
        /// Where the key is.
        custody: String,
        /// What is wrong.
        reason: String,
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
            Self::Pin { .. } => "ARX-SIGNER-PIN",
            Self::KeyMissing { .. } => "ARX-SIGNER-KEY-MISSING",
            Self::KeyUnsuitable { .. } => "ARX-SIGNER-KEY-UNSUITABLE",
            Self::KeyUsed { .. } => "ARX-SIGNER-KEY-USED",
            Self::NotBuilt => "ARX-SIGNER-NOT-BUILT",
            Self::WrongSignature { .. } => "ARX-SIGNER-WRONG-SIGNATURE",
            Self::NotConfigured { .. } => "ARX-SIGNER-NOT-CONFIGURED",
            Self::Setup { .. } => "ARX-SIGNER-SETUP",
            Self::Newer { .. } => "ARX-SIGNER-NEWER",
            Self::Erased => "ARX-SIGNER-ERASED",
            Self::OtherKey { .. } => "ARX-SIGNER-OTHER-KEY",
            Self::Key(_) => "ARX-AUTHORITY-KEY",
            Self::CutOff(_) => "ARX-AUTHORITY-CUT-OFF",
        }
    }

    /// Whether only another configuration helps.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        matches!(
            self,
            Self::NotConfigured { .. }
                | Self::Setup { .. }
                | Self::NotBuilt
                | Self::KeyUsed { .. }
                | Self::KeyUnsuitable { .. }
        )
    }

    /// Whether the same call may succeed later without anybody changing the configuration.
    #[must_use]
    pub fn passes(&self) -> bool {
        matches!(
            self,
            Self::Deadline { .. }
                | Self::Unreachable { .. }
                | Self::Pin { .. }
                | Self::KeyMissing { .. }
                | Self::WrongSignature { .. }
                | Self::CutOff(_)
        )
    }
}
