//! What tests of this crate share: a small authority of their own, a server for it, and
//! proxies.

pub(crate) mod kubelet;
pub(crate) mod proxy;
pub(crate) mod server;

use crate::attest::{Pod, PodUid};
use arx_identity::profile::{self, Issuer, Leaf, Validity};
use arx_identity::{
    CertChain, Certificate, KeyAlgorithm, PrivateKey, PublicKey, Sequence, SpiffeId, Svid,
    TrustBundle, TrustDomain,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A token of pod `u-1` that says to be valid until 2033.
pub(crate) const JWT: &str = "e30.eyJpc3MiOiJrOHMiLCJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6YTpiIiwiZXhwIjoyMDAwMDAwMDAwLCJrdWJlcm5ldGVzLmlvIjp7InBvZCI6eyJ1aWQiOiJ1LTEifX19.c2ln";

pub(crate) fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::parse("example.org").expect("valid")
}

pub(crate) fn id(path: &str) -> SpiffeId {
    SpiffeId::new(&trust_domain(), path).expect("valid")
}

fn sign(unsigned: profile::Unsigned, key: &PrivateKey) -> Certificate {
    let signature = key.sign(unsigned.to_be_signed()).expect("signs");
    unsigned.complete(&signature).expect("within the profile")
}

/// A root and one intermediate under it.
#[derive(Debug)]
pub(crate) struct Authority {
    pub(crate) root: Certificate,
    intermediate: Certificate,
    key: PrivateKey,
    root_key: PrivateKey,
    /// The root, certified by another.
    cross: Option<Certificate>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        Self::made(noon())
    }

    /// Good from an hour before `now`.
    pub(crate) fn made(now: SystemTime) -> Self {
        let day = Duration::from_secs(86_400);
        let generate = || PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
        let (root_key, key) = (generate(), generate());
        let validity = Validity::authority(now, 3650 * day);
        let root = profile::root(root_key.public_key(), &trust_domain(), validity);
        let root = sign(root.expect("a root"), &root_key);
        let issuer = Issuer::new(&root).expect("an issuer");
        let validity = Validity::authority(now, 365 * day);
        let intermediate = profile::intermediate(
            &issuer,
            key.public_key(),
            &trust_domain(),
            "test",
            validity,
            0,
        );
        Self {
            intermediate: sign(intermediate.expect("an intermediate"), &root_key),
            root,
            key,
            root_key,
            cross: None,
        }
    }

    /// Another that follows this one, cross-certified by it.
    pub(crate) fn followed(&self) -> Self {
        let next = Self::new();
        let [old, new] = [&self.root, &next.root].map(|root| Issuer::new(root).expect("an issuer"));
        let ends = noon() + Duration::from_secs(86_400);
        let cross = profile::cross(&old, &new, noon(), ends).expect("a cross-certificate");
        Self {
            cross: Some(sign(cross, &self.root_key)),
            ..next
        }
    }

    /// Leaf and intermediate for a key.
    pub(crate) fn issue(
        &self,
        key: &PublicKey,
        id: &SpiffeId,
        now: SystemTime,
        ttl: Duration,
    ) -> CertChain {
        let issuer = Issuer::new(&self.intermediate).expect("an issuer");
        let leaf = Leaf {
            public_key: key,
            id,
            dns_names: &[],
            validity: Validity::leaf(&issuer, now, ttl),
            revocable: false,
        };
        let leaf = profile::leaf(&issuer, &leaf).expect("a leaf");
        let signature = self.key.sign(leaf.to_be_signed()).expect("signs");
        let leaf = leaf.complete(&signature).expect("within the profile");
        let mut chain = vec![leaf, self.intermediate.clone()];
        chain.extend(self.cross.clone());
        CertChain::new(chain).expect("a chain")
    }

    pub(crate) fn svid(&self, path: &str, now: SystemTime, ttl: Duration) -> Svid {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
        let chain = self.issue(key.public_key(), &id(path), now, ttl);
        Svid::new(chain, Arc::new(key)).expect("they belong together")
    }

    pub(crate) fn bundle(&self, number: u64) -> TrustBundle {
        bundle(number, &[&self.root])
    }
}

pub(crate) fn bundle(number: u64, roots: &[&Certificate]) -> TrustBundle {
    let sequence = Sequence { epoch: 1, number };
    let roots = roots.iter().map(|root| (*root).clone()).collect();
    TrustBundle::new(trust_domain(), sequence, roots).expect("a bundle")
}

/// UID of a pod.
pub(crate) fn uid(text: &str) -> PodUid {
    PodUid::parse(text).expect("valid")
}

/// The pod `a/web` of account `b`, with this UID.
pub(crate) fn pod(uid: &str) -> Pod {
    Pod {
        uid: self::uid(uid),
        namespace: "a".into(),
        name: "web".into(),
        service_account: "b".into(),
    }
}

/// A token of this account, pod and end, with a signature that nobody would accept or
/// refuse here.
pub(crate) fn token(account: &str, pod_uid: &str, expires: u64, signature: &str) -> String {
    let payload = serde_json::json!({
        "iss": "https://k8s",
        "sub": format!("system:serviceaccount:{account}"),
        "exp": expires,
        "kubernetes.io": {"pod": {"uid": pod_uid}},
    });
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    format!("e30.{}.{}", encode(&payload.to_string()), encode(signature))
}

/// One root for tests that need any.
pub(crate) fn root() -> &'static Certificate {
    static ROOT: OnceLock<Certificate> = OnceLock::new();
    ROOT.get_or_init(|| Authority::new().root)
}
