//! Why policy gives somebody nothing, though who they are is proved.

use std::sync::Arc;

use arx_identity::KeyAlgorithm;

use crate::token::Purpose;

/// Why no identity is granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Denied {
    /// An exception says so.
    #[error(
        "{rule} denies certificates to service account {account}: ask the operator of the authority"
    )]
    Account {
        /// The exception.
        rule: super::Rule,
        /// `<namespace>/<name>`.
        account: String,
    },
    /// This kind of key is not in `policy.keys`.
    #[error(
        "{0} keys are not allowed by policy.keys: make a key of another kind, or allow this one"
    )]
    Key(KeyAlgorithm),
    /// A name that cannot be in a SPIFFE id.
    #[error("the name of the {0} cannot stand in a SPIFFE id: use letters, digits, . - _ only")]
    Name(&'static str),
    /// The path would be one of Arx's own.
    #[error(
        "the identity would lie under /arx, which is reserved for the parts of Arx itself: change policy.template or the name"
    )]
    Reserved,
    /// The path is none by the standard, or too long.
    #[error(
        "the names make no SPIFFE id by policy.template ({0}): shorten them, or change the template"
    )]
    Id(String),
    /// No `[[policy.local]]` fits the process.
    #[error(
        "no [[policy.local]] fits this process on node {0}: compare its uid, gid and executable with the rules"
    )]
    NoRule(String),
    /// The service account may not join nodes.
    #[error(
        "service account {account} may not join nodes of cluster {cluster}: add it to `agents` of the cluster if it is the node agent's"
    )]
    Agent {
        /// Which cluster.
        cluster: Arc<str>,
        /// `<namespace>/<name>`.
        account: String,
    },
    /// The evidence is of another node than the agent's.
    #[error(
        "the evidence is of a pod on another node than {0}: an agent gets certificates for its own node only"
    )]
    Node(String),
    /// The token does not say on which node its pod runs.
    #[error(
        "the token does not name the node of its pod: use Kubernetes 1.30 or newer, and a projected token"
    )]
    NoNode,
    /// The evidence is of another cluster than the agent's, or of one that is not configured.
    #[error(
        "the evidence is not of cluster {0} as it is configured: an agent gets certificates for its own cluster only"
    )]
    Cluster(String),
    /// A token that was verified for one use is brought for the other.
    #[error("the token was verified for {0}, not for this use: bring one with the audience for it")]
    Purpose(Purpose),
}

impl Denied {
    /// Its stable reason code; `docs/errors.md` has an entry for each.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Account { .. } => "ARX-POLICY-DENIED",
            Self::Key(_) => "ARX-POLICY-KEY",
            Self::Name(_) => "ARX-POLICY-NAME",
            Self::Reserved => "ARX-POLICY-RESERVED",
            Self::Id(_) => "ARX-POLICY-ID",
            Self::NoRule(_) => "ARX-POLICY-NO-RULE",
            Self::Agent { .. } => "ARX-POLICY-AGENT",
            Self::Node(_) => "ARX-EVIDENCE-NODE",
            Self::NoNode => "ARX-EVIDENCE-NO-NODE",
            Self::Cluster(_) => "ARX-EVIDENCE-CLUSTER",
            Self::Purpose(_) => "ARX-EVIDENCE-PURPOSE",
        }
    }

    /// True if the request itself is wrong, whoever makes it; false if it is forbidden to
    /// whoever made it.
    #[must_use]
    pub fn is_request(&self) -> bool {
        matches!(self, Self::Key(_))
    }
}
