//! Why an object does not hold the roots, in words for whoever has to see to it.

use arx_identity::Sequence;

use crate::kubernetes::in_short;

/// What is in the way of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

impl Trouble {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, message }
    }

    pub(super) fn absent() -> Self {
        Self::new(
            "ARX-PUBLISH-ABSENT",
            "there is none of this name: correct the name in [[publish]], or make the object",
        )
    }

    pub(super) fn of_another(trust_domain: &str) -> Self {
        let shown: String = trust_domain.chars().take(64).collect();
        Self::new(
            "ARX-PUBLISH-FOREIGN",
            format!(
                "it holds the roots of trust domain {shown:?}: give the two objects of their own, or delete this one"
            ),
        )
    }

    pub(super) fn newer(found: Sequence, ours: Sequence) -> Self {
        Self::new(
            "ARX-PUBLISH-NEWER",
            format!(
                "it holds bundle {found}, and the newest here is {ours}: this state is older than the cluster; restore a newer one"
            ),
        )
    }

    pub(super) fn contradicts(sequence: Sequence) -> Self {
        Self::new(
            "ARX-PUBLISH-NEWER",
            format!(
                "it holds another bundle {sequence} than was published here: find out which authority wrote it, and delete it"
            ),
        )
    }

    pub(super) fn unserved() -> Self {
        Self::new(
            "ARX-PUBLISH-UNSERVED",
            "the API server has ClusterTrustBundles neither as v1 nor as v1beta1: enable certificates.k8s.io/v1beta1, or remove cluster_trust_bundle",
        )
    }

    pub(super) fn silent(seconds: u64) -> Self {
        let message = format!("the API server gave no answer within {seconds} s");
        Self::new("ARX-PUBLISH-AWAY", message)
    }

    /// What the API server tells is of an earlier state.
    pub(super) fn set_back(how: &str) -> Self {
        let message = format!("{how}: the API server's own state was set back, and is read anew");
        Self::new("ARX-PUBLISH-AWAY", message)
    }

    /// What the API server says of it.
    pub(super) fn of(error: &kube::Error) -> Self {
        let kube::Error::Api(status) = error else {
            return Self::new("ARX-PUBLISH-AWAY", in_short(error));
        };
        let said: String = status.message.chars().take(300).collect();
        let causes = status.details.iter().flat_map(|it| &it.causes);
        let foreign = causes
            .into_iter()
            .any(|cause| cause.reason == "FieldManagerConflict");
        match status.code {
            409 if foreign => Self::new(
                "ARX-PUBLISH-FOREIGN",
                format!(
                    "somebody else has written it, and is left alone ({said}): end that, and delete the object"
                ),
            ),
            401 | 403 => Self::new(
                "ARX-PUBLISH-FORBIDDEN",
                format!(
                    "the authority may not do that ({said}): give its service account the right"
                ),
            ),
            code => Self::new(
                "ARX-PUBLISH-AWAY",
                format!("the API server answers {code} ({said})"),
            ),
        }
    }

    /// Whether asking again soon may help.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self.code, "ARX-PUBLISH-AWAY" | "ARX-PUBLISH-FORBIDDEN")
    }
}
