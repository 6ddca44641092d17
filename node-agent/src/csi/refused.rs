//! Why a kubelet is refused what it asks for. It shows the message to people, as an event of the
//! pod.

use std::io;
use tonic::{Code, Status};

/// A call that is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// It lacks what every call has.
    #[error("the call has no {0}")]
    Incomplete(&'static str),
    /// A part of it is of no use.
    #[error("{0}")]
    Unusable(&'static str),
    /// A volume that outlives pods could be in many.
    #[error(
        "the volume is not ephemeral: describe it in the pod (spec.volumes[].csi), and list Ephemeral in volumeLifecycleModes of the CSIDriver object"
    )]
    NotEphemeral,
    /// The kubelet did not say which pod it is for.
    #[error(
        "{0} is missing or no such thing in the volume's context: set podInfoOnMount in the CSIDriver object"
    )]
    Context(&'static str),
    /// There is no token to show for the pod.
    #[error("{0}")]
    Token(String),
    /// What the kubelet says and what the pod's token says differ.
    #[error("{0}")]
    Disagrees(String),
    /// It may not be there.
    #[error("target path {path:?}: {reason}")]
    Target {
        /// As the call has it.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something else is there.
    #[error("{0}")]
    Taken(String),
    /// The system refuses.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: String,
        /// Its answer.
        error: io::Error,
    },
}

impl Refused {
    /// Stable, with a page in docs/errors.md.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Incomplete(_) | Self::Unusable(_) => "ARX-CSI-REQUEST",
            Self::NotEphemeral => "ARX-CSI-NOT-EPHEMERAL",
            Self::Context(_) => "ARX-CSI-CONTEXT",
            Self::Token(_) => "ARX-CSI-TOKEN",
            Self::Disagrees(_) => "ARX-CSI-DISAGREES",
            Self::Target { .. } => "ARX-CSI-TARGET",
            Self::Taken(_) => "ARX-CSI-TAKEN",
            Self::System { .. } => "ARX-CSI-SYSTEM",
        }
    }

    fn grpc(&self) -> Code {
        match self {
            Self::Incomplete(_) | Self::Unusable(_) => Code::InvalidArgument,
            Self::NotEphemeral | Self::Context(_) | Self::Target { .. } => Code::InvalidArgument,
            Self::Token(_) | Self::Taken(_) => Code::FailedPrecondition,
            Self::Disagrees(_) => Code::PermissionDenied,
            Self::System { .. } => Code::Internal,
        }
    }

    /// What the system has refused.
    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::System {
            what: what.into(),
            error,
        }
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        Self::new(refused.grpc(), format!("{}: {refused}", refused.code()))
    }
}
