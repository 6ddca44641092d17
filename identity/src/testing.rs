//! Authorities for tests, at a fixed time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::profile::{self, Issuer, Leaf, Validity};
use crate::{
    CertChain, Certificate, KeyAlgorithm, PrivateKey, Sequence, SpiffeId, TrustBundle, TrustDomain,
};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

pub(crate) fn example() -> TrustDomain {
    TrustDomain::parse("example.org").expect("a trust domain")
}

/// An authority and its key, and the certificates between it and its root.
pub(crate) struct Authority {
    pub(crate) key: PrivateKey,
    pub(crate) issuer: Issuer,
    above: Vec<Certificate>,
}

impl Authority {
    pub(crate) fn root(trust_domain: &TrustDomain) -> Self {
        Self::root_with(trust_domain, KeyAlgorithm::EcdsaP256)
    }

    pub(crate) fn root_with(trust_domain: &TrustDomain, algorithm: KeyAlgorithm) -> Self {
        let key = PrivateKey::generate(algorithm).expect("a key");
        let validity = Validity::authority(now(), 1000 * HOUR);
        let unsigned = profile::root(key.public_key(), trust_domain, validity).expect("a root");
        let signature = key.sign(unsigned.to_be_signed()).expect("a signature");
        let certificate = unsigned.complete(&signature).expect("a root");
        let issuer = Issuer::new(&certificate).expect("an issuer");
        Self {
            key,
            issuer,
            above: Vec::new(),
        }
    }

    pub(crate) fn below(&self, trust_domain: &TrustDomain, path_len: u8) -> Self {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
        let validity = Validity::authority(now(), 100 * HOUR);
        let unsigned = profile::intermediate(
            &self.issuer,
            key.public_key(),
            trust_domain,
            "issuing",
            validity,
            path_len,
        )
        .expect("an intermediate");
        let signature = self.key.sign(unsigned.to_be_signed()).expect("a signature");
        let certificate = unsigned.complete(&signature).expect("an intermediate");
        let issuer = Issuer::new(&certificate).expect("an issuer");
        Self {
            key,
            issuer,
            above: [vec![certificate], self.above.clone()].concat(),
        }
    }

    pub(crate) fn certificate(&self) -> &Certificate {
        self.issuer.certificate()
    }

    pub(crate) fn bundle(&self, trust_domain: &TrustDomain) -> TrustBundle {
        let roots = vec![self.certificate().clone()];
        TrustBundle::new(trust_domain.clone(), Sequence::default(), roots).expect("a bundle")
    }

    /// A leaf for `id`, with this authority and those above it but for the root.
    pub(crate) fn chain(&self, id: &str, validity: Validity) -> CertChain {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
        let leaf = Leaf {
            public_key: key.public_key(),
            id: &SpiffeId::parse(id).expect("an id"),
            dns_names: &[],
            validity,
            revocable: false,
        };
        let unsigned = profile::leaf(&self.issuer, &leaf).expect("a leaf");
        let signature = self.key.sign(unsigned.to_be_signed()).expect("a signature");
        let leaf = unsigned.complete(&signature).expect("a leaf");
        CertChain::new([vec![leaf], self.above.clone()].concat()).expect("a chain")
    }

    /// A leaf for `id`, valid for an hour.
    pub(crate) fn valid(&self, id: &str) -> CertChain {
        self.chain(id, Validity::leaf(&self.issuer, now(), HOUR))
    }
}
