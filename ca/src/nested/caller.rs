//! Which authority asks, by what this authority itself has made sure of.

use std::sync::Arc;
use std::time::SystemTime;

use arx_identity::{SpiffeId, VerifiedPeer};

use crate::ca::Ca;
use crate::caller::{Caller, NodeName, is_in_time, is_our_own};
use crate::refusal::{Fault, Refusal};
use crate::state::StateError;
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
        is_in_time(peer, now)?;
        let own = is_our_own(&ca.state, &peer.issuers).await;
        let unreadable =
            |error: StateError| Refusal::new(error.code(), Fault::Dependency, error.to_string());
        if !own.map_err(unreadable)? {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Below;
    use crate::testing::House;
    use arx_identity::profile::{self, Issuer, Leaf, Validity};
    use arx_identity::{CertChain, Certificate, KeyAlgorithm, PrivateKey, verify};
    use std::time::Duration;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    const TTL: Duration = Duration::from_secs(3600);

    fn id() -> SpiffeId {
        SpiffeId::parse("spiffe://example.org/ns/arx-system/sa/arx-ca").expect("an id")
    }

    fn peer(house: &House, chain: Vec<Certificate>) -> VerifiedPeer {
        let bundle = house.ca.trust.current();
        let chain = CertChain::new(chain).expect("a chain");
        verify(&chain, &bundle, house.clock.now()).expect("it verifies")
    }

    /// A leaf by the first of `issuers`, whose key this is.
    fn leaf(house: &House, issuers: &[Certificate], key: &PrivateKey) -> Vec<Certificate> {
        let issuer = Issuer::new(&issuers[0]).expect("it issues");
        let own = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
        let leaf = Leaf {
            public_key: own.public_key(),
            id: &id(),
            dns_names: &[],
            validity: Validity::leaf(&issuer, house.clock.now(), TTL),
            revocable: false,
        };
        let unsigned = profile::leaf(&issuer, &leaf).expect("the profile has it");
        let signature = key.sign(unsigned.to_be_signed()).expect("it signs");
        let leaf = unsigned.complete(&signature).expect("it keeps the profile");
        [&[leaf], issuers].concat()
    }

    async fn judge(house: &House, chain: Vec<Certificate>) -> Result<Known, Refusal> {
        let peer = Arc::new(peer(house, chain));
        Known::find(&house.ca, &Caller::Other(peer), None, house.clock.now()).await
    }

    #[tokio::test]
    async fn what_our_own_replica_has_signed_says_who_asks() -> Outcome {
        let house = House::new().await?;
        let issuing = house.ca.authority.issuing().ok_or("it issues")?;
        let serving = house.ca.authority.prepare_serving(house.clock.now())?;
        let known = judge(&house, serving.chain().certificates().to_vec()).await?;
        assert_eq!(known.id, *serving.spiffe_id());
        assert_eq!(issuing.root(), house.ca.authority.root_key_id());
        Ok(())
    }

    #[tokio::test]
    async fn what_an_authority_below_has_signed_itself_or_by_another_says_nothing() -> Outcome {
        let house = House::new().await?;
        let now = house.clock.now();
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
        let below = Below {
            key: key.public_key(),
            name: "nested:west",
            ttl: TTL,
            path_length: 1,
            root: None,
        };
        let mut chain = house.ca.authority.certify_below(&below, now).await?;
        chain.pop();
        let itself = judge(&house, leaf(&house, &chain, &key)).await;
        let refused = itself.expect_err("it could name anybody");
        assert_eq!(refused.code, "ARX-NESTED-ISSUER");

        let own = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
        let unsigned = profile::intermediate(
            &Issuer::new(&chain[0])?,
            own.public_key(),
            &house.ca.trust_domain,
            "ca-1",
            Validity::authority(now, Duration::from_secs(60)),
            0,
        )?;
        let signature = key.sign(unsigned.to_be_signed())?;
        chain.insert(0, unsigned.complete(&signature)?);
        let another = judge(&house, leaf(&house, &chain, &own)).await;
        let refused = another.expect_err("it could name anybody");
        assert_eq!(refused.code, "ARX-NESTED-ISSUER");
        Ok(())
    }
}
