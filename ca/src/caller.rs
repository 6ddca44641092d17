//! Who is at the other end of a connection, by what its handshake proved. A closed set:
//! a node with its SVID, or somebody who has yet to prove who they are by a token.

mod own;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use arx_identity::{KeyId, Serial, SpiffeId, TrustDomain, VerifiedPeer};

pub(crate) use self::own::is_our_own;
use crate::refusal::{Fault, Refusal};

/// A node of a cluster.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeName {
    /// The cluster, as the configuration calls it.
    pub cluster: Arc<str>,
    /// The node's name in it.
    pub node: Arc<str>,
}

impl NodeName {
    /// The node that `id` names, if it is a node's id: `/arx/node/<cluster>/<node>`.
    #[must_use]
    pub fn of(id: &SpiffeId) -> Option<Self> {
        let (cluster, node) = id.path().strip_prefix("/arx/node/")?.split_once('/')?;
        (!node.contains('/')).then(|| Self {
            cluster: cluster.into(),
            node: node.into(),
        })
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.cluster, self.node)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A node agent that proved its node SVID.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// Its SPIFFE id, as text.
    pub id: Arc<str>,
    /// Serial number of the certificate that it came with.
    pub serial: Serial,
    /// End of that certificate.
    pub not_after: SystemTime,
    /// Who vouched for it: intermediates, and last the root.
    pub issuers: Arc<[KeyId]>,
}

/// Who calls.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Without a certificate: only a join is open to it.
    Stranger,
    /// A node.
    Node(Arc<Node>),
    /// With a certificate of this trust domain that is not a node's.
    Other(Arc<VerifiedPeer>),
}

/// Whether what an authority or a replica has shown is still valid: it may run out while its
/// connection is open.
pub(crate) fn is_in_time(peer: &VerifiedPeer, now: SystemTime) -> Result<(), Refusal> {
    if now <= peer.not_after {
        return Ok(());
    }
    Err(Refusal::new(
        "ARX-CALLER-EXPIRED",
        Fault::Unauthenticated,
        "the certificate of this connection has run out: connect with a renewed one",
    ))
}

impl Caller {
    /// The caller that presented this in its handshake.
    #[must_use]
    pub fn of(peer: Option<&VerifiedPeer>, trust_domain: &TrustDomain) -> Self {
        let Some(peer) = peer else {
            return Self::Stranger;
        };
        match NodeName::of(&peer.id) {
            Some(name) if peer.id.trust_domain() == trust_domain => Self::Node(Arc::new(Node {
                name,
                id: peer.id.as_str().into(),
                serial: peer.serial.clone(),
                not_after: peer.not_after,
                issuers: peer.issuers.as_slice().into(),
            })),
            _ => Self::Other(Arc::new(peer.clone())),
        }
    }

    /// The node that calls. A certificate may run out while its connection is open, so
    /// every call asks again.
    ///
    /// # Errors
    /// If the caller is not a node, or not any longer.
    pub fn node(&self, now: SystemTime) -> Result<&Arc<Node>, Refusal> {
        match self {
            Self::Node(node) if now <= node.not_after => Ok(node),
            Self::Node(_) => Err(Refusal::new(
                "ARX-CALLER-EXPIRED",
                Fault::Unauthenticated,
                "the certificate of this connection has run out: connect with the renewed one, or join again",
            )),
            Self::Stranger => Err(Refusal::new(
                "ARX-CALLER-UNKNOWN",
                Fault::Unauthenticated,
                "this call needs a node's certificate: join first",
            )),
            Self::Other(peer) => Err(Refusal::new(
                "ARX-CALLER-NOT-NODE",
                Fault::Forbidden,
                format!("{} is not a node: only node agents may call this", peer.id),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn peer(id: &str) -> VerifiedPeer {
        VerifiedPeer {
            id: SpiffeId::parse(id).expect("an id"),
            serial: Serial::from_bytes(&[1]).expect("a serial"),
            not_after: UNIX_EPOCH + Duration::from_secs(100),
            issuers: Vec::new(),
        }
    }

    fn domain() -> TrustDomain {
        TrustDomain::parse("example.org").expect("a trust domain")
    }

    #[test]
    fn only_ids_of_the_reserved_form_in_our_own_trust_domain_are_nodes() {
        let named = |id| match Caller::of(Some(&peer(id)), &domain()) {
            Caller::Node(node) => Some(node.name.to_string()),
            _ => None,
        };
        assert_eq!(
            named("spiffe://example.org/arx/node/c1/n1").as_deref(),
            Some("c1/n1")
        );
        for id in [
            "spiffe://other.org/arx/node/c1/n1",
            "spiffe://example.org/arx/node/c1",
            "spiffe://example.org/arx/node/c1/n1/x",
            "spiffe://example.org/ns/arx/node/c1",
            "spiffe://example.org/arx/ca",
        ] {
            assert_eq!(named(id), None, "{id}");
        }
    }

    #[test]
    fn a_certificate_that_ran_out_on_an_open_connection_counts_no_longer() {
        let caller = Caller::of(
            Some(&peer("spiffe://example.org/arx/node/c1/n1")),
            &domain(),
        );
        let end = UNIX_EPOCH + Duration::from_secs(100);
        assert!(caller.node(end).is_ok());
        let refused = caller.node(end + Duration::from_secs(1)).expect_err("over");
        assert_eq!(refused.code, "ARX-CALLER-EXPIRED");
    }
}
