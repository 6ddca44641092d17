//! What this process may do, by the API server's own word (SelfSubjectAccessReview,
//! authorization.k8s.io/v1).

use std::fmt;

use serde::Deserialize;
use serde_json::{Value, json};

/// Where it is asked for. Everybody may, who has a name (`system:basic-user`).
pub(crate) const PATH: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

/// Where a right is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Of what is in no namespace.
    Cluster,
    Everywhere,
    Namespace(String),
}

/// Something that has to be granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Right {
    pub(crate) verb: &'static str,
    /// The core group is empty.
    pub(crate) group: &'static str,
    pub(crate) resource: &'static str,
    /// Of the only object that it is needed for; empty for all.
    pub(crate) name: String,
    pub(crate) scope: Scope,
}

impl Right {
    /// The question whether it is granted.
    pub(crate) fn review(&self) -> Value {
        let namespace = match &self.scope {
            Scope::Namespace(name) => name.as_str(),
            Scope::Cluster | Scope::Everywhere => "",
        };
        json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {
                "verb": self.verb,
                "group": self.group,
                "resource": self.resource,
                "name": self.name,
                "namespace": namespace,
            }},
        })
    }
}

/// `list configmaps "arx-trust" in all namespaces`
impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            verb,
            group,
            resource,
            name,
            scope,
        } = self;
        write!(f, "{verb} {resource}")?;
        if !group.is_empty() {
            write!(f, ".{group}")?;
        }
        if !name.is_empty() {
            write!(f, " {name:?}")?;
        }
        match scope {
            Scope::Cluster => Ok(()),
            Scope::Everywhere => f.write_str(" in all namespaces"),
            Scope::Namespace(namespace) => write!(f, " in namespace {namespace}"),
        }
    }
}

/// Whether an answer says yes; `None` if it is none.
pub(crate) fn is_allowed(answer: &[u8]) -> Option<bool> {
    #[derive(Deserialize)]
    struct Review {
        status: Verdict,
    }
    #[derive(Deserialize)]
    struct Verdict {
        #[serde(default)]
        allowed: bool,
    }
    let answer: Review = serde_json::from_slice(answer).ok()?;
    Some(answer.status.allowed)
}
