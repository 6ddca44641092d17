//! What one caller may have, at one moment: a map from resource names to secrets. Which
//! names there are is the agent's decision. A name that is missing is unknown, forbidden
//! or not ready, and all three are answered by silence.

mod secret;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arx_identity::{TrustBundle, TrustDomain, VerifyError, verify};

pub use secret::{Content, Secret};
pub(crate) use secret::{Encoded, TYPE_URL, delta_head, short_hex, state_of_the_world_head};

/// The secrets of one caller by resource name. It never changes; a change is another
/// snapshot, in which unchanged secrets are the same ones, encoded once for all.
#[derive(Clone, Default)]
pub struct Snapshot {
    secrets: BTreeMap<Arc<str>, Arc<Secret>>,
}

/// Why secrets are not sent. Envoy would take some of them and fail later, and others it
/// would blame on the wrong secret, so they are held back here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// A certificate that peers with the bundle beside it would refuse, and a bundle that
    /// its own holder's certificate is not under.
    #[error("the certificate `{certificate}` does not reach the bundle `{bundle}`: {source}")]
    Unreached {
        /// Resource name of the certificate.
        certificate: Arc<str>,
        /// Resource name of the bundle.
        bundle: Arc<str>,
        /// What keeps it from reaching.
        source: VerifyError,
    },
    /// No trust domain at all: Envoy would refuse everybody.
    #[error("the map of trust domains `{0}` is empty")]
    NoTrustDomain(Arc<str>),
    /// Two bundles of one trust domain in one map.
    #[error("the map of trust domains `{name}` holds {trust_domain} twice")]
    TwoBundles {
        /// Resource name of the map.
        name: Arc<str>,
        /// The trust domain that stands twice.
        trust_domain: TrustDomain,
    },
}

impl Snapshot {
    /// Starts a snapshot without secrets.
    #[must_use]
    pub fn builder() -> SnapshotBuilder {
        SnapshotBuilder::default()
    }

    /// The secret of this name, if this caller may have it and it is ready.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Secret>> {
        self.secrets.get(name)
    }

    /// All secrets, in the order of their names.
    pub fn secrets(&self) -> impl Iterator<Item = &Arc<Secret>> {
        self.secrets.values()
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.secrets.values()).finish()
    }
}

/// Collects the secrets of a [`Snapshot`]. A name that is given again replaces what it
/// stood for; if the content is the same, the secret stays the same one.
#[derive(Debug, Default)]
pub struct SnapshotBuilder {
    secrets: BTreeMap<Arc<str>, Arc<Secret>>,
}

impl SnapshotBuilder {
    /// Takes over all secrets of another snapshot, so that what is encoded of them is
    /// shared: the trust of all callers, or what a caller had before.
    #[must_use]
    pub fn with(mut self, other: &Snapshot) -> Self {
        let shared = other.secrets.iter();
        self.secrets
            .extend(shared.map(|(name, secret)| (name.clone(), secret.clone())));
        self
    }

    /// A certificate chain with its key, under each of these names.
    #[must_use]
    pub fn certificate<N: Into<Arc<str>>>(
        self,
        names: impl IntoIterator<Item = N>,
        svid: &arx_identity::Svid,
    ) -> Self {
        self.put(names, &Content::Certificate(svid.clone()))
    }

    /// The roots of one trust domain as a plain `trusted_ca`, under each of these names.
    #[must_use]
    pub fn trust<N: Into<Arc<str>>>(
        self,
        names: impl IntoIterator<Item = N>,
        bundle: &TrustBundle,
    ) -> Self {
        self.put(names, &Content::Trust(bundle.clone()))
    }

    /// The roots of several trust domains, each good for its own domain's identities only
    /// (`envoy.tls.cert_validator.spiffe`), under each of these names.
    #[must_use]
    pub fn all<N: Into<Arc<str>>>(
        self,
        names: impl IntoIterator<Item = N>,
        bundles: &[TrustBundle],
    ) -> Self {
        let mut bundles = bundles.to_vec();
        // The order is part of the content and so of the version.
        bundles.sort_by(|a, b| a.trust_domain().cmp(b.trust_domain()));
        self.put(names, &Content::All(bundles.into()))
    }

    /// Leaves this name out again.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.secrets.remove(name);
        self
    }

    /// The snapshot, if its secrets go together.
    ///
    /// That a certificate has run out is not looked at: whether it is still served is a
    /// decision about clocks, and not made here.
    ///
    /// # Errors
    /// If a certificate does not reach a bundle of its own trust domain that stands beside
    /// it, or a map of trust domains is empty or holds one of them twice.
    pub fn build(self) -> Result<Snapshot, SnapshotError> {
        let mut bundles: Vec<(&Arc<str>, &TrustBundle)> = Vec::new();
        for (name, secret) in &self.secrets {
            let held = match secret.content() {
                Content::Certificate(_) => continue,
                Content::Trust(bundle) => std::slice::from_ref(bundle),
                Content::All(all) => {
                    check_map(name, all)?;
                    all
                }
            };
            // One bundle usually stands under several names, and one check is enough.
            let new = held
                .iter()
                .filter(|bundle| bundles.iter().all(|(_, other)| other != bundle));
            let new: Vec<_> = new.map(|bundle| (name, bundle)).collect();
            bundles.extend(new);
        }
        let mut checked: Option<&Arc<str>> = None;
        for (name, secret) in &self.secrets {
            let Content::Certificate(svid) = secret.content() else {
                continue;
            };
            if checked == Some(secret.version()) {
                continue;
            }
            let domain = svid.spiffe_id().trust_domain();
            for (bundle_name, bundle) in bundles
                .iter()
                .filter(|(_, bundle)| bundle.trust_domain() == domain)
            {
                // At the end of the leaf's life every issuer above it is still valid.
                verify(svid.chain(), bundle, svid.not_after()).map_err(|source| {
                    SnapshotError::Unreached {
                        certificate: name.clone(),
                        bundle: Arc::clone(bundle_name),
                        source,
                    }
                })?;
            }
            checked = Some(secret.version());
        }
        Ok(Snapshot {
            secrets: self.secrets,
        })
    }

    fn put<N: Into<Arc<str>>>(
        mut self,
        names: impl IntoIterator<Item = N>,
        content: &Content,
    ) -> Self {
        let version = content.version();
        for name in names {
            let name = name.into();
            if self
                .secrets
                .get(&name)
                .is_some_and(|secret| *secret.version() == version)
            {
                continue;
            }
            let secret = Secret::new(name.clone(), version.clone(), content.clone());
            self.secrets.insert(name, Arc::new(secret));
        }
        self
    }
}

/// `bundles` are in the order of their trust domains.
fn check_map(name: &Arc<str>, bundles: &[TrustBundle]) -> Result<(), SnapshotError> {
    if bundles.is_empty() {
        return Err(SnapshotError::NoTrustDomain(name.clone()));
    }
    match bundles
        .windows(2)
        .find(|pair| pair[0].trust_domain() == pair[1].trust_domain())
    {
        Some(pair) => Err(SnapshotError::TwoBundles {
            name: name.clone(),
            trust_domain: pair[0].trust_domain().clone(),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
