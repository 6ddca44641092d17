//! What objects are to hold: the published bundle with the root first that signs, and which one
//! that is.

use std::collections::BTreeMap;
use std::sync::Arc;

use arx_identity::crypto::sha256;
use arx_identity::{KeyId, Sequence, TrustBundle};
use kube::api::DynamicObject;

use crate::hex::Hex;

/// The annotation that says whose roots an object holds.
pub(crate) const DOMAIN: &str = "arx.dev/trust-domain";
const SEQUENCE: &str = "arx.dev/bundle-sequence";
const HASH: &str = "arx.dev/bundle-sha256";

/// Which bundle an object says to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) trust_domain: String,
    pub(super) sequence: Sequence,
    /// Of the bundle, whatever the order of its roots.
    pub(super) hash: String,
}

/// What is to be held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) stamp: Stamp,
    pub(super) pem: Arc<str>,
    /// SHA-256 of that.
    pub(super) content: [u8; 32],
}

impl Wanted {
    /// The roots of a bundle, the one first that signs: who reads but one gets that.
    pub(super) fn of(bundle: &TrustBundle, active: KeyId) -> Self {
        let mut roots: Vec<_> = bundle.roots().iter().collect();
        roots.sort_by_key(|root| root.subject_key_id() != Some(active));
        let pem: String = roots.into_iter().map(|root| root.pem()).collect();
        Self {
            stamp: Stamp {
                trust_domain: bundle.trust_domain().to_string(),
                sequence: bundle.sequence(),
                hash: Hex(&bundle.sha256()).to_string(),
            },
            content: sha256(pem.as_bytes()),
            pem: pem.into(),
        }
    }

    pub(super) fn annotations(&self) -> BTreeMap<&'static str, String> {
        let Stamp {
            trust_domain,
            sequence,
            hash,
        } = &self.stamp;
        BTreeMap::from([
            (DOMAIN, trust_domain.clone()),
            (SEQUENCE, format!("{}.{}", sequence.epoch, sequence.number)),
            (HASH, hash.clone()),
        ])
    }
}

/// What an object says to hold, if it says so.
pub(super) fn stamp(object: &DynamicObject) -> Option<Stamp> {
    let annotations = object.metadata.annotations.as_ref()?;
    let (epoch, number) = annotations.get(SEQUENCE)?.split_once('.')?;
    Some(Stamp {
        trust_domain: annotations.get(DOMAIN)?.clone(),
        sequence: Sequence {
            epoch: epoch.parse().ok()?,
            number: number.parse().ok()?,
        },
        hash: annotations.get(HASH)?.clone(),
    })
}
