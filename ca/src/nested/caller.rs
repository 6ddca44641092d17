//! Which authority asks, by what this authority itself has made sure of.

use std::sync::Arc;
use std::time::SystemTime;

use arx_identity::{Certificate, KeyId, SpiffeId, VerifiedPeer};

use crate::ca::Ca;
use crate::caller::{Caller, NodeName};
use crate::refusal::{Fault, Refusal};
use crate::state::Authorities;
use crate::token::{Purpose, Token, Verified};

/// An authority that asks.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) id: SpiffeId,
    /// For the ledger: how that is known.
    pub(super) evidence: String,
    pub(super) node: NodeName,
    pub(super) account: Option<Verified>,
}

impl Known {
    /// Who asks: by the token, if one is brought, or else by the certificate of the connection.
    pub(super) async fn find(
        ca: &Ca,
        caller: &Caller,
        token: Option<&str>,
        now: SystemTime,
    ) -> Result<Self, Refusal> {
        match (token, caller) {
            (Some(token), _) => Self::by_token(ca, token).await,
            (None, Caller::Other(peer)) => Self::by_certificate(ca, peer, now).await,
            (None, Caller::Node(node)) => Err(Refusal::new(
                "ARX-NESTED-NOT-ALLOWED",
                Fault::Forbidden,
                format!(
                    "{} is a node agent, and none may stand below this authority",
                    node.id
                ),
            )),
            (None, Caller::Stranger) => Err(Refusal::new(
                "ARX-CALLER-UNKNOWN",
                Fault::Unauthenticated,
                "this call needs a client certificate of this trust domain, or a service-account token for joining as `authorization: Bearer ...`",
            )),
        }
    }

    async fn by_token(ca: &Ca, token: &str) -> Result<Self, Refusal> {
        let rules = ca.rules.get();
        let verified = rules
            .tokens
            .verify(Token::new(token), Purpose::Join, None)
            .await?;
        let id = rules.policy.account(&verified)?;
        let node = verified.node.as_ref().map(|node| node.name.as_str());
        Ok(Self {
            evidence: format!(
                "token of {}/{} in cluster {}",
                verified.namespace, verified.service_account, verified.cluster
            ),
            node: NodeName {
                cluster: Arc::clone(&verified.cluster),
                node: node.unwrap_or_default().into(),
            },
            id,
            account: Some(verified),
        })
    }

    async fn by_certificate(
        ca: &Ca,
        peer: &VerifiedPeer,
        now: SystemTime,
    ) -> Result<Self, Refusal> {
        if peer.not_after < now {
            return Err(Refusal::new(
                "ARX-CALLER-EXPIRED",
                Fault::Unauthenticated,
                "the certificate of this connection has run out: connect with a renewed one",
            ));
        }
        let stored = ca.state.authorities().await;
        let stored = stored
            .map_err(|error| Refusal::new(error.code(), Fault::Dependency, error.to_string()))?;
        let stored = stored.map(|stored| stored.value).unwrap_or_default();
        if !is_our_own(&peer.issuers, &stored) {
            return Err(Refusal::new(
                "ARX-NESTED-ISSUER",
                Fault::Forbidden,
                format!(
                    "the certificate of {} is from an authority below this one, which could name itself anybody: come with one that this authority has issued itself",
                    peer.id
                ),
            ));
        }
        Ok(Self {
            id: peer.id.clone(),
            evidence: format!("certificate {}", peer.serial),
            // No node is called so.
            node: NodeName {
                cluster: "".into(),
                node: "".into(),
            },
            account: None,
        })
    }
}

/// Whether a replica's own intermediate has signed it, which stands directly below what signs
/// for one of the roots here.
fn is_our_own(issuers: &[KeyId], stored: &Authorities) -> bool {
    let Some((_intermediate, above)) = issuers.split_first() else {
        return false;
    };
    stored.roots.iter().any(|root| {
        let ids = root.above.iter().chain([&root.certificate]);
        let ids: Option<Vec<KeyId>> = ids.map(Certificate::subject_key_id).collect();
        ids.is_some_and(|ids| ids == above)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::House;

    #[tokio::test]
    async fn only_what_stands_directly_below_what_signs_here_is_our_own()
    -> Result<(), Box<dyn std::error::Error>> {
        let house = House::new().await?;
        let stored = house.ca.state.authorities().await?.ok_or("a root")?.value;
        let root = house.ca.authority.root_key_id();
        let key = |number: u8| KeyId::from_slice(&[number; 20]).expect("20 bytes");
        assert!(is_our_own(&[key(1), root], &stored));
        for other in [
            &[][..],
            &[root],
            &[key(1), key(2)],
            &[key(1), key(2), root],
            &[key(1), root, key(2)],
        ] {
            assert!(!is_our_own(other, &stored), "{other:?}");
        }
        Ok(())
    }
}
