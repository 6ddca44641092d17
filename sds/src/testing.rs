//! A certificate authority for tests: real keys, real certificates.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arx_identity::profile::{self, Issuer, Leaf, Validity};
use arx_identity::{
    CertChain, Certificate, KeyAlgorithm, PrivateKey, Sequence, SpiffeId, Svid, TrustBundle,
    TrustDomain,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

pub(crate) struct Authority {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) root: Certificate,
    intermediate: Certificate,
    key: PrivateKey,
}

impl Authority {
    pub(crate) fn new(trust_domain: &str) -> Self {
        let trust_domain = TrustDomain::parse(trust_domain).expect("a trust domain");
        let root_key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
        let root = profile::root(
            root_key.public_key(),
            &trust_domain,
            Validity::authority(now(), 10 * DAY),
        );
        let root = signed(&root_key, root.expect("a root"));
        let issuer = Issuer::new(&root).expect("an issuer");
        let validity = Validity::authority(now(), 5 * DAY);
        let intermediate = profile::intermediate(
            &issuer,
            key.public_key(),
            &trust_domain,
            "test",
            validity,
            0,
        );
        let intermediate = signed(&root_key, intermediate.expect("an intermediate"));
        Self {
            trust_domain,
            root,
            intermediate,
            key,
        }
    }

    pub(crate) fn bundle(&self, number: u64) -> TrustBundle {
        self.bundle_with(number, &[])
    }

    /// The own root, and those of others of the same domain.
    pub(crate) fn bundle_with(&self, number: u64, others: &[&Authority]) -> TrustBundle {
        let roots = std::iter::once(self).chain(others.iter().copied());
        let roots = roots.map(|authority| authority.root.clone()).collect();
        let sequence = Sequence { epoch: 1, number };
        TrustBundle::new(self.trust_domain.clone(), sequence, roots).expect("a bundle")
    }

    pub(crate) fn svid(&self, path: &str) -> Svid {
        self.svid_of(path, KeyAlgorithm::EcdsaP256)
    }

    pub(crate) fn svid_of(&self, path: &str, algorithm: KeyAlgorithm) -> Svid {
        let key = PrivateKey::generate(algorithm).expect("a key");
        let issuer = Issuer::new(&self.intermediate).expect("an issuer");
        let leaf = Leaf {
            public_key: key.public_key(),
            id: &SpiffeId::new(&self.trust_domain, path).expect("an id"),
            dns_names: &[],
            validity: Validity::leaf(&issuer, now(), DAY),
            revocable: false,
        };
        let leaf = signed(&self.key, profile::leaf(&issuer, &leaf).expect("a leaf"));
        let chain = CertChain::new(vec![leaf, self.intermediate.clone()]).expect("a chain");
        Svid::new(chain, Arc::new(key)).expect("an SVID")
    }
}

fn signed(key: &PrivateKey, unsigned: profile::Unsigned) -> Certificate {
    let signature = key.sign(unsigned.to_be_signed()).expect("a signature");
    unsigned.complete(&signature).expect("a certificate")
}

#[expect(
    clippy::disallowed_methods,
    reason = "certificates of tests are valid now"
)]
fn now() -> SystemTime {
    SystemTime::now()
}
