//! Roots and certificates that worlds share. All of them are real; but a certificate is made
//! once for a minute of issue, and used in every world that needs one like it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arx_identity::profile::{self, Issuer, Leaf, Unsigned, Validity};
use arx_identity::{
    CertChain, Certificate, KeyAlgorithm, KeyId, PrivateKey, SpiffeId, Svid, TrustDomain,
};

use super::clock::{Millis, wall};

/// The trust domain of every world.
pub const TRUST_DOMAIN: &str = "example.org";
/// Certificates are made as if it was the beginning of the minute.
const SLOT: Millis = 60_000;
const DAY: Duration = Duration::from_secs(86_400);

/// A certificate: which root is above it, which replica signs, whose it is, from which minute
/// on and for how many, and how many like it the world has had.
type Key = (usize, usize, String, u64, u64, usize);

/// What worlds share.
pub struct Pool {
    trust_domain: TrustDomain,
    key: Arc<PrivateKey>,
    roots: Vec<Root>,
    leaves: HashMap<Key, Svid>,
}

struct Root {
    certificate: Certificate,
    id: KeyId,
    /// One for each replica, with its key.
    intermediates: Vec<(Issuer, PrivateKey)>,
}

impl Pool {
    /// With as many roots and replicas.
    ///
    /// # Errors
    /// If keys cannot be made.
    pub fn new(roots: usize, replicas: usize) -> anyhow::Result<Self> {
        let trust_domain = TrustDomain::parse(TRUST_DOMAIN)?;
        let key = Arc::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256)?);
        let roots = (0..roots).map(|_| Root::new(&trust_domain, replicas));
        Ok(Self {
            roots: roots.collect::<anyhow::Result<_>>()?,
            trust_domain,
            key,
            leaves: HashMap::new(),
        })
    }

    /// The key of all leaves.
    #[must_use]
    pub fn key(&self) -> Arc<PrivateKey> {
        Arc::clone(&self.key)
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// A root, by its place.
    #[must_use]
    pub fn root(&self, root: usize) -> &Certificate {
        &self.roots[root].certificate
    }

    /// Its subject key identifier.
    #[must_use]
    pub fn root_id(&self, root: usize) -> KeyId {
        self.roots[root].id
    }

    /// The place of a root.
    #[must_use]
    pub fn place(&self, id: KeyId) -> usize {
        let place = self.roots.iter().position(|root| root.id == id);
        place.expect("every root of a world is of the pool")
    }

    /// The subject key identifier of a replica's intermediate under a root.
    #[must_use]
    pub fn intermediate_id(&self, root: usize, replica: usize) -> KeyId {
        self.roots[root].intermediates[replica].0.key_id()
    }

    /// A certificate of `path` for so long from the minute of `now` on, unlike the `nth` others
    /// of this minute.
    #[must_use]
    pub fn leaf(
        &mut self,
        (root, replica): (usize, usize),
        path: &str,
        now: Millis,
        lifetime: Millis,
        nth: usize,
    ) -> Svid {
        let (slot, minutes) = (now / SLOT, lifetime / SLOT);
        let key = (root, replica, path.to_owned(), slot, minutes, nth);
        if let Some(known) = self.leaves.get(&key) {
            return known.clone();
        }
        let (issuer, signer) = &self.roots[root].intermediates[replica];
        let lifetime = Duration::from_millis(minutes * SLOT);
        let leaf = Leaf {
            public_key: self.key.public_key(),
            id: &SpiffeId::new(&self.trust_domain, path).expect("a path"),
            dns_names: &[],
            validity: Validity::leaf(issuer, wall(slot * SLOT), lifetime),
            revocable: false,
        };
        let leaf = sign(profile::leaf(issuer, &leaf), signer).expect("within the profile");
        let chain = CertChain::new(vec![leaf, issuer.certificate().clone()]);
        let svid = Svid::new(chain.expect("a chain"), Arc::clone(&self.key));
        let svid = svid.expect("it is the leaf's key");
        self.leaves.insert(key, svid.clone());
        svid
    }
}

impl Root {
    fn new(trust_domain: &TrustDomain, replicas: usize) -> anyhow::Result<Self> {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
        let validity = Validity::authority(wall(0), 3650 * DAY);
        let root = profile::root(key.public_key(), trust_domain, validity);
        let certificate = sign(root, &key)?;
        let issuer = Issuer::new(&certificate)?;
        let intermediate = |_| {
            let validity = Validity::authority(wall(0), 365 * DAY);
            let own = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
            let below = own.public_key();
            let made = profile::intermediate(&issuer, below, trust_domain, "ca", validity, 0);
            anyhow::Ok((Issuer::new(&sign(made, &key)?)?, own))
        };
        Ok(Self {
            intermediates: (0..replicas)
                .map(intermediate)
                .collect::<anyhow::Result<_>>()?,
            id: issuer.key_id(),
            certificate,
        })
    }
}

fn sign(
    unsigned: Result<Unsigned, profile::ProfileError>,
    key: &PrivateKey,
) -> anyhow::Result<Certificate> {
    let unsigned = unsigned?;
    let signature = key.sign(unsigned.to_be_signed())?;
    Ok(unsigned.complete(&signature)?)
}
