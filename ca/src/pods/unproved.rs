//! Why the UID of a pod proves nothing to the agent that names it.

use std::sync::Arc;
use std::time::Duration;

use crate::refusal::{Fault, Refusal};

/// What happens in a cluster is heard within this; then it is worth asking again.
const HEARD: Duration = Duration::from_secs(1);

/// Why nobody gets an identity for a pod's UID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unproved {
    /// Nobody watches the pods of this cluster.
    #[error(
        "the pods of cluster {0} are not watched, so that the UID of one proves nothing: set watch_pods for the cluster, or let the agent attest by `token` or `local`"
    )]
    Unwatched(Arc<str>),
    /// There is no such pod, as far as was heard.
    #[error(
        "no pod of this UID is known in cluster {0}: it is gone, or was made a moment ago; ask again if it runs"
    )]
    Unheard(Arc<str>),
    /// It is none any more.
    #[error("the pod is none of cluster {cluster} any more ({why}): ask for one that runs")]
    Gone {
        /// Whose pods.
        cluster: Arc<str>,
        /// What is known of it.
        why: &'static str,
    },
    /// It is on another node than that of the agent.
    #[error(
        "the pod is on another node than {0}: an agent gets certificates for its own node only"
    )]
    Elsewhere(String),
    /// Whether there is such a pod can't be told.
    #[error(
        "whether there is a pod of this UID cannot be told, as the pods of cluster {cluster} are not to be had ({why}): try again later"
    )]
    Unknown {
        /// Whose API server.
        cluster: Arc<str>,
        /// What went wrong.
        why: Arc<str>,
    },
}

impl Unproved {
    /// Its stable reason code; `docs/errors.md` has an entry for each.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unwatched(_) => "ARX-EVIDENCE-UNSUPPORTED",
            Self::Unheard(_) | Self::Gone { .. } => "ARX-POD-GONE",
            Self::Elsewhere(_) => "ARX-EVIDENCE-NODE",
            Self::Unknown { .. } => "ARX-POD-UNKNOWN",
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Unwatched(_) => Fault::Request,
            Self::Unheard(_) | Self::Gone { .. } => Fault::Unauthenticated,
            Self::Elsewhere(_) => Fault::Forbidden,
            Self::Unknown { .. } => Fault::Dependency,
        }
    }
}

impl From<Unproved> for Refusal {
    fn from(unproved: Unproved) -> Self {
        let refusal = Self::new(unproved.code(), unproved.fault(), unproved.to_string());
        match unproved {
            Unproved::Unheard(_) => refusal.after(HEARD),
            _ => refusal,
        }
    }
}
