//! Whom a denial is about, and how that is written: `spiffe://…` is an identity,
//! `sa/<namespace>/<name>` a service account in whatever cluster, `node/<cluster>/<node>` a
//! node with everything on it.

use std::fmt;

use arx_identity::{SpiffeId, TrustDomain};

use crate::caller::NodeName;
use crate::refusal::{Fault, Refusal};
use crate::token::is_segment;

/// Whom a denial is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Whoever would get this identity.
    Identity(SpiffeId),
    /// A service account.
    Account {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A node, and all that is on it.
    Node(NodeName),
}

/// A node as a subject.
pub(crate) fn of_node(node: &NodeName) -> String {
    format!("node/{node}")
}

/// A service account as a subject.
pub(super) fn of_account(namespace: &str, name: &str) -> String {
    format!("sa/{namespace}/{name}")
}

impl Subject {
    /// The subject that is written so. The identity of a node is that node.
    ///
    /// # Errors
    /// If it is none, or one of the authority's own.
    pub fn parse(text: &str, trust_domain: &TrustDomain) -> Result<Self, Refusal> {
        if text.starts_with("spiffe://") {
            return Self::identity(text, trust_domain);
        }
        let parts: Vec<_> = text.split('/').collect();
        match parts[..] {
            ["sa", namespace, name] if is_segment(namespace) && is_segment(name) => {
                Ok(Self::Account {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                })
            }
            ["node", cluster, node] if is_segment(cluster) && is_segment(node) => {
                Ok(Self::Node(NodeName {
                    cluster: cluster.into(),
                    node: node.into(),
                }))
            }
            _ => Err(malformed(
                "name whom it is about: spiffe://…, sa/<namespace>/<name> or node/<cluster>/<node>",
            )),
        }
    }

    fn identity(text: &str, trust_domain: &TrustDomain) -> Result<Self, Refusal> {
        let id = SpiffeId::parse(text).map_err(|error| malformed(&error.to_string()))?;
        if id.trust_domain() != trust_domain {
            return Err(malformed(&format!(
                "nobody gets certificates of another trust domain here: this is {trust_domain}"
            )));
        }
        match NodeName::of(&id) {
            Some(node) => Ok(Self::Node(node)),
            None if id.path().is_empty() || id.path().starts_with("/arx/") => Err(malformed(
                "the authority's own identities can't be denied, and the trust domain as a whole neither",
            )),
            None => Ok(Self::Identity(id)),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(id) => f.write_str(id.as_str()),
            Self::Account { namespace, name } => f.write_str(&of_account(namespace, name)),
            Self::Node(node) => f.write_str(&of_node(node)),
        }
    }
}

fn malformed(message: &str) -> Refusal {
    Refusal::new("ARX-REQUEST-MALFORMED", Fault::Request, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Subject, Refusal> {
        Subject::parse(text, &TrustDomain::parse("example.org").expect("a name"))
    }

    #[test]
    fn subjects_are_read_as_they_are_written() {
        for text in [
            "spiffe://example.org/ns/shop/sa/web",
            "sa/shop/web",
            "node/c1/n1.example.org",
        ] {
            assert_eq!(parse(text).expect(text).to_string(), text);
        }
        let node = parse("spiffe://example.org/arx/node/c1/n1").expect("a node");
        assert_eq!(node.to_string(), "node/c1/n1");
    }

    #[test]
    fn what_would_deny_nobody_or_the_authority_itself_is_refused() {
        for text in [
            "",
            "shop/web",
            "sa/shop",
            "sa/shop/",
            "sa/shop/web/x",
            "node/n1",
            "node/c1/n 1",
            "spiffe://other.org/ns/shop/sa/web",
            "spiffe://example.org",
            "spiffe://example.org/arx/ca",
            "spiffe://example.org/a b",
        ] {
            let refused = parse(text).expect_err(text);
            assert_eq!(refused.code, "ARX-REQUEST-MALFORMED", "{text}");
        }
    }
}
