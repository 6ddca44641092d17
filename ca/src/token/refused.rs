//! Why a token is not accepted, or could not be judged. No message quotes the token.

use std::fmt;
use std::sync::Arc;

use super::Purpose;
use super::jws::MAX_TOKEN;

/// Why a token does not prove who brings it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Longer than any service-account token; nothing of it was read.
    #[error("the token is longer than {} KiB: send the service-account token and nothing else", MAX_TOKEN >> 10)]
    TooLarge,
    /// Not a JWT in compact form with the claims of a service account (RFC 7519; the
    /// reason is a fixed text).
    #[error(
        "this is not a Kubernetes service-account token ({0}): send the content of the projected token file"
    )]
    Malformed(&'static str),
    /// `none`, an HMAC, anything else that is not accepted, or not what the key is for.
    #[error(
        "the token's algorithm is not RS256, ES256, ES384 or EdDSA, or not the one that its issuer's key is for: have the cluster sign with one of these"
    )]
    Algorithm,
    /// No configured cluster issues such tokens, or the caller's cluster does not.
    #[error(
        "the token is not of the issuer of {0}: compare `issuer` in [[cluster]] with the token's iss"
    )]
    Issuer(Where),
    /// The caller's cluster is not configured.
    #[error(
        "the agent's cluster is not configured here any more: add its [[cluster]], or let the agent join anew"
    )]
    Cluster,
    /// The issuer's keys are at hand and none has the token's `kid`.
    #[error(
        "the token is signed by a key that is not among the keys of cluster {0}: ask for a new token; if new ones are refused too, compare the key source of the cluster with its API server"
    )]
    UnknownKey(Arc<str>),
    /// The keys of the issuer could not be had, or are too old to be trusted.
    #[error(
        "the token cannot be judged, as the keys of cluster {cluster} are not to be had ({why}): try again later"
    )]
    KeysUnavailable {
        /// Whose keys.
        cluster: Arc<str>,
        /// What went wrong with their source.
        why: Arc<str>,
    },
    /// The signature is not that key's.
    #[error(
        "the signature of the token does not verify with the key of cluster {0} that it names: send the token unchanged"
    )]
    Signature(Arc<str>),
    /// `exp` has passed, skew included.
    #[error(
        "the token has expired: read the projected token file again, or compare the clocks of authority and API server"
    )]
    Expired,
    /// `nbf` or `iat` lies ahead, skew included.
    #[error("the token is not valid yet: compare the clocks of authority and API server")]
    NotYetValid,
    /// Meant for somebody else.
    #[error(
        "the token is for another audience: project it with one of the audiences of cluster {0}"
    )]
    Audience(Arc<str>),
    /// Meant for us, for the other of the two uses.
    #[error(
        "the token's audience is for {}, not for {wanted}: project it with the audience {}",
        .wanted.other(), .wanted.audience_form()
    )]
    Purpose {
        /// What the token was needed for.
        wanted: Purpose,
    },
    /// `sub` and the kubernetes.io claims name different service accounts.
    #[error(
        "subject and kubernetes.io claims of the token name different service accounts: send a token that the API server issued"
    )]
    Subject,
    /// Not bound to a pod.
    #[error(
        "the token is not bound to a pod: use a projected token of a pod, or allow_unbound for cluster {0}"
    )]
    Unbound(Arc<str>),
    /// Lives longer than was asked for (`warnafter`).
    #[error(
        "the token has an extended lifetime (warnafter): project it with an audience of its own, or allow_extended for cluster {0}"
    )]
    Extended(Arc<str>),
    /// The API server does not vouch for the token, or not for our audience.
    #[error(
        "the API server of cluster {cluster} does not accept the token ({why}): ask for a new token"
    )]
    ReviewRefused {
        /// Whose API server.
        cluster: Arc<str>,
        /// Which part of the answer.
        why: &'static str,
    },
    /// Its pod is not there, or is not what the token says of it.
    #[error(
        "the pod of the token is not one of cluster {cluster} ({why}): ask with a token of a pod that runs"
    )]
    PodGone {
        /// Whose pods.
        cluster: Arc<str>,
        /// What is known of it.
        why: &'static str,
    },
    /// Its pod is not known here, and the API server cannot be asked.
    #[error(
        "whether the pod of the token is there cannot be told, as the API server of cluster {cluster} gives no answer ({why}): try again later"
    )]
    PodUnknown {
        /// Whose API server.
        cluster: Arc<str>,
        /// What went wrong.
        why: Arc<str>,
    },
    /// The API server gave no answer that counts.
    #[error(
        "the token cannot be judged, as cluster {cluster} gives no review ({why}): try again later"
    )]
    ReviewUnavailable {
        /// Whose API server.
        cluster: Arc<str>,
        /// What went wrong.
        why: Arc<str>,
    },
}

/// Whose issuer a token was compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Where {
    /// Every configured cluster's.
    Anywhere,
    /// That of the calling agent's cluster.
    Cluster(Arc<str>),
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anywhere => f.write_str("any configured cluster"),
            Self::Cluster(name) => write!(f, "cluster {name}"),
        }
    }
}

impl Refused {
    /// Its stable reason code; `docs/errors.md` has an entry for each.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge => "ARX-TOKEN-TOO-LARGE",
            Self::Malformed(_) => "ARX-TOKEN-MALFORMED",
            Self::Algorithm => "ARX-TOKEN-ALGORITHM",
            Self::Issuer(_) => "ARX-TOKEN-ISSUER",
            Self::Cluster => "ARX-TOKEN-CLUSTER",
            Self::UnknownKey(_) => "ARX-TOKEN-UNKNOWN-KEY",
            Self::KeysUnavailable { .. } => "ARX-TOKEN-KEYS-UNAVAILABLE",
            Self::Signature(_) => "ARX-TOKEN-SIGNATURE",
            Self::Expired => "ARX-TOKEN-EXPIRED",
            Self::NotYetValid => "ARX-TOKEN-NOT-YET-VALID",
            Self::Audience(_) => "ARX-TOKEN-AUDIENCE",
            Self::Purpose { .. } => "ARX-TOKEN-PURPOSE",
            Self::Subject => "ARX-TOKEN-SUBJECT",
            Self::Unbound(_) => "ARX-TOKEN-UNBOUND",
            Self::Extended(_) => "ARX-TOKEN-EXTENDED",
            Self::ReviewRefused { .. } => "ARX-TOKEN-REVIEW-REFUSED",
            Self::ReviewUnavailable { .. } => "ARX-TOKEN-REVIEW-UNAVAILABLE",
            Self::PodGone { .. } => "ARX-TOKEN-POD-GONE",
            Self::PodUnknown { .. } => "ARX-TOKEN-POD-UNKNOWN",
        }
    }

    /// True if the token is genuine, and refused for what it says or for what is known of its pod.
    pub(crate) fn is_of_genuine(&self) -> bool {
        matches!(
            self,
            Self::Expired
                | Self::NotYetValid
                | Self::Audience(_)
                | Self::Purpose { .. }
                | Self::Extended(_)
                | Self::PodGone { .. }
                | Self::PodUnknown { .. }
        )
    }

    /// True if nothing is known against the token: something that the authority needs is
    /// away, and the same token may be accepted later.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        matches!(
            self,
            Self::KeysUnavailable { .. } | Self::ReviewUnavailable { .. } | Self::PodUnknown { .. }
        )
    }
}

/// A cluster's key source or API server cannot even be set up from its configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cluster {cluster}: {reason}")]
pub struct SourceError {
    /// Which cluster.
    pub cluster: String,
    /// What is wrong and what to do.
    pub reason: String,
}

impl SourceError {
    /// Its stable reason code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        "ARX-TOKEN-SOURCE"
    }
}
