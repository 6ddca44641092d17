//! Why the authority does not start or does not sign.

use arx_identity::KeyError;
use arx_identity::profile::ProfileError;

use super::upstream::{ArxError, CommandError};
use super::{Problem, SignError};
use crate::signer::SignerError;
use crate::state::StateError;

/// The authority cannot be had, or cannot make what it needs.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The operator must change something.
    #[error("{}", list(.0))]
    Problems(Vec<Problem>),
    /// The state cannot be used or changed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The key above the replica's own did not sign.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// A key was not made, or did not sign.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A certificate was not made.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The root is not, or no longer, the one that signs.
    #[error(
        "the root {root} is {state}, so nothing new is issued under it: the active one is taken \
         by itself; restart if that does not help"
    )]
    NotActive {
        /// Subject of the root.
        root: String,
        /// Its state.
        state: String,
    },
    /// A root is not where that can be done to it.
    #[error(
        "the root {root} is {state}, so it can't be {wanted}: look how far its rotation is, and \
         go on from there"
    )]
    RootState {
        /// Subject of the root, or its key identifier if there is none such.
        root: String,
        /// Its state.
        state: String,
        /// What should have become of it.
        wanted: &'static str,
    },
    /// A root is in a state that this version does not know, so it changes none.
    #[error(
        "the root {root} is {state}, which only a newer version knows, so no root is changed \
         here: update this replica"
    )]
    RootNewer {
        /// Subject of the root.
        root: String,
        /// Its state.
        state: String,
    },
    /// The serving certificate was not made.
    #[error("the serving certificate was not made: {0}")]
    Serving(String),
    /// A CA outside has to certify what signs here, and has not.
    #[error(
        "the authority waits for its certificate from outside ({0}): have the request signed \
         that `arx authority csr` prints, and give the chain to `arx authority install`"
    )]
    Awaiting(String),
    /// The CA above gave no chain.
    #[error(transparent)]
    Upstream(#[from] CommandError),
    /// The only root is distrusted, and no other has taken its place.
    #[error(
        "the root {root} is distrusted, and no other has taken its place, so nothing is issued and \
         nothing connects: give the authority another one (its own files, token or CA above), \
         start it again, and replace the bundle files of the nodes"
    )]
    NothingTrusted {
        /// The root.
        root: String,
    },
    /// The Arx above gave no chain.
    #[error(transparent)]
    Arx(#[from] ArxError),
    /// There is no intermediate yet.
    #[error("there is no issuing certificate yet: wait until the authority has made one")]
    NotReady,
    /// Whatever keeps records did not take it, so it is not used.
    #[error("a new certificate of the authority could not be recorded, and is not used: {0}")]
    NotRecorded(String),
    /// A step was decided before another that has been taken already.
    #[error(
        "a later step of the rotation has changed the roots already, so this one changes nothing: \
         another replica has gone on meanwhile"
    )]
    Fenced,
    /// A task was cut off.
    #[error("signing was cut off: {0}")]
    CutOff(String),
}

impl From<SignError> for AuthorityError {
    fn from(error: SignError) -> Self {
        match error {
            SignError::Profile(error) => error.into(),
            SignError::Key(error) => error.into(),
        }
    }
}

fn list(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

impl AuthorityError {
    /// The stable reason code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Problems(problems) => problems
                .first()
                .map_or("ARX-AUTHORITY-CONFIGURATION", |problem| problem.code),
            Self::State(error) => error.code(),
            Self::Signer(error) => error.code(),
            Self::Key(_) => "ARX-AUTHORITY-KEY",
            Self::Profile(_) => "ARX-AUTHORITY-PROFILE",
            Self::NotActive { .. } => "ARX-AUTHORITY-ROOT-NOT-ACTIVE",
            Self::RootState { .. } => "ARX-AUTHORITY-ROOT-STATE",
            Self::RootNewer { .. } => "ARX-AUTHORITY-ROOT-NEWER",
            Self::Serving(_) => "ARX-AUTHORITY-SERVING",
            Self::Awaiting(_) => "ARX-AUTHORITY-AWAITING",
            Self::Upstream(error) => error.code(),
            Self::NothingTrusted { .. } => "ARX-AUTHORITY-NOTHING-TRUSTED",
            Self::Arx(error) => error.code(),
            Self::NotReady => "ARX-AUTHORITY-NOT-READY",
            Self::NotRecorded(_) => "ARX-AUTHORITY-NOT-RECORDED",
            Self::Fenced => "ARX-AUTHORITY-FENCED",
            Self::CutOff(_) => "ARX-AUTHORITY-CUT-OFF",
        }
    }

    /// Whether only another configuration helps.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Problems(_) => true,
            Self::Signer(error) => error.is_configuration(),
            _ => false,
        }
    }

    /// Whether the same call may succeed later without anybody changing the configuration.
    #[must_use]
    pub fn passes(&self) -> bool {
        match self {
            Self::State(error) => error.passes(),
            Self::Signer(error) => error.passes(),
            Self::Awaiting(_)
            | Self::Upstream(_)
            | Self::Arx(_)
            | Self::NotReady
            | Self::NotRecorded(_)
            | Self::Fenced
            | Self::CutOff(_) => true,
            _ => false,
        }
    }
}
