//! Trust bundles: the roots of one trust domain, at one place in its history.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::certificate::{Certificate, CertificateError, KeyId};
use crate::crypto::Sha256;
use crate::der::{self, Reader};
use crate::id::TrustDomain;
use crate::key::KeyAlgorithm;

/// Most roots in one bundle. Envoy breaks every mTLS handshake at about 1,200, because
/// their names go into the CertificateRequest.
const MAX_ROOTS: usize = 100;

/// A place in the history of a trust domain's bundle. The epoch grows only when a
/// store is restored from a backup. Displayed as `epoch.number`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence {
    /// Which life of the store.
    pub epoch: u64,
    /// Which content within the epoch.
    pub number: u64,
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.number)
    }
}

/// The roots of one trust domain: self-signed certificate authorities, at least one,
/// at most 100, none twice. Clones share them.
#[derive(Clone, PartialEq, Eq)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    sequence: Sequence,
    roots: Arc<[Certificate]>,
    sha256: [u8; 32],
}

/// Why certificates are not a trust bundle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// No root: every identity of the trust domain would be untrusted.
    #[error("the bundle of {0} holds no root")]
    Empty(TrustDomain),
    /// More than 100.
    #[error("the bundle holds {0} roots, 100 are allowed")]
    TooMany(usize),
    /// A certificate that is not a certificate authority.
    #[error("the bundle holds {0}, which is not a certificate authority")]
    NotCa(String),
    /// An intermediate.
    #[error("the bundle holds {0}, which is not self-signed; only roots belong in a bundle")]
    NotSelfSigned(String),
    /// One certificate twice.
    #[error("the bundle holds {0} twice")]
    Duplicate(String),
    /// A root that names another trust domain.
    #[error("the bundle of {expected} holds a root of {found}")]
    ForeignRoot {
        /// Whose bundle it is.
        expected: TrustDomain,
        /// Whose root it is.
        found: TrustDomain,
    },
    /// One of the certificates is not accepted.
    #[error("the bundle's certificate {position}: {source}")]
    Certificate {
        /// Position in the bundle, from 0.
        position: usize,
        /// What is wrong with it.
        source: CertificateError,
    },
    /// The PEM text as a whole.
    #[error(transparent)]
    Pem(CertificateError),
    /// Not concatenated DER certificates.
    #[error("not concatenated certificates in DER")]
    NotDer,
    /// Not a SPIFFE bundle document.
    #[error("not a SPIFFE bundle: {0}")]
    Json(String),
}

impl TrustBundle {
    /// The bundle of `trust_domain` with these roots at `sequence`.
    ///
    /// # Errors
    /// The first promise of [`TrustBundle`] that does not hold.
    pub fn new(
        trust_domain: TrustDomain,
        sequence: Sequence,
        roots: Vec<Certificate>,
    ) -> Result<Self, BundleError> {
        if roots.is_empty() {
            return Err(BundleError::Empty(trust_domain));
        }
        if roots.len() > MAX_ROOTS {
            return Err(BundleError::TooMany(roots.len()));
        }
        let mut hash = Sha256::new();
        for (position, root) in roots.iter().enumerate() {
            let name = || format!("{} (serial {})", root.subject(), root.serial());
            if !root.is_ca() {
                return Err(BundleError::NotCa(name()));
            }
            if !root.is_signed_by(root) {
                return Err(BundleError::NotSelfSigned(name()));
            }
            if roots[..position].contains(root) {
                return Err(BundleError::Duplicate(name()));
            }
            if let Some(id) = root
                .spiffe_id()
                .filter(|id| *id.trust_domain() != trust_domain)
            {
                return Err(BundleError::ForeignRoot {
                    expected: trust_domain,
                    found: id.trust_domain().clone(),
                });
            }
            hash.update(root.der());
        }
        Ok(Self {
            trust_domain,
            sequence,
            roots: roots.into(),
            sha256: hash.finish(),
        })
    }

    /// The bundle in a PEM text.
    ///
    /// # Errors
    /// As [`TrustBundle::new`], or if the text is damaged.
    pub fn from_pem(
        trust_domain: TrustDomain,
        sequence: Sequence,
        text: &str,
    ) -> Result<Self, BundleError> {
        let roots = Certificate::list_from_pem(text).map_err(BundleError::Pem)?;
        Self::new(trust_domain, sequence, roots)
    }

    /// The bundle in concatenated DER certificates, as the Workload API has it.
    ///
    /// # Errors
    /// As [`TrustBundle::new`], or if the bytes are not whole certificates.
    pub fn from_der(
        trust_domain: TrustDomain,
        sequence: Sequence,
        bytes: &[u8],
    ) -> Result<Self, BundleError> {
        let mut roots = Vec::new();
        let mut rest = Reader::new(bytes);
        while rest.end().is_err() {
            let (root, _) = rest
                .element(der::SEQUENCE)
                .map_err(|_| BundleError::NotDer)?;
            roots.push(certificate(roots.len(), root)?);
        }
        Self::new(trust_domain, sequence, roots)
    }

    /// The X.509 roots in a SPIFFE bundle document (SPIFFE Trust Domain and Bundle, 4).
    /// Keys of other uses are passed over, and so are entries without `x5c`.
    ///
    /// # Errors
    /// As [`TrustBundle::new`], or if it is not such a document.
    pub fn from_spiffe_json(
        trust_domain: TrustDomain,
        sequence: Sequence,
        text: &str,
    ) -> Result<Self, BundleError> {
        let document: Value =
            serde_json::from_str(text).map_err(|error| BundleError::Json(error.to_string()))?;
        let keys = document.get("keys").and_then(Value::as_array);
        let keys = keys.ok_or_else(|| BundleError::Json("the array `keys` is missing".into()))?;
        let mut roots = Vec::new();
        for key in keys
            .iter()
            .filter(|key| key.get("use").and_then(Value::as_str) == Some("x509-svid"))
        {
            let Some(first) = key
                .get("x5c")
                .and_then(Value::as_array)
                .and_then(|list| list.first())
            else {
                continue;
            };
            let der = first.as_str().and_then(|text| STANDARD.decode(text).ok());
            let der = der.ok_or_else(|| BundleError::Json("`x5c` is not base64".into()))?;
            roots.push(certificate(roots.len(), &der)?);
        }
        Self::new(trust_domain, sequence, roots)
    }

    /// Whose roots they are.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Where in the trust domain's history.
    #[must_use]
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// The roots, in order.
    #[must_use]
    pub fn roots(&self) -> &[Certificate] {
        &self.roots
    }

    /// The root with this subject key identifier.
    #[must_use]
    pub fn root(&self, id: &KeyId) -> Option<&Certificate> {
        self.roots
            .iter()
            .find(|root| root.subject_key_id() == Some(*id))
    }

    /// SHA-256 of the content: the DER roots, concatenated in order.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    /// The roots in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.roots.iter().map(Certificate::pem).collect()
    }

    /// The roots in concatenated DER.
    #[must_use]
    pub fn der(&self) -> Vec<u8> {
        self.roots
            .iter()
            .flat_map(|root| root.der())
            .copied()
            .collect()
    }

    /// The bundle as a SPIFFE bundle document. `refresh_hint` is in seconds.
    /// `spiffe_sequence` is the bundle endpoint's own counter and so the caller's.
    #[must_use]
    pub fn spiffe_json(&self, spiffe_sequence: u64, refresh_hint: Option<u64>) -> String {
        let keys: Vec<Value> = self.roots.iter().map(jwk).collect();
        let mut document = json!({ "keys": keys, "spiffe_sequence": spiffe_sequence });
        if let Some(seconds) = refresh_hint {
            document["spiffe_refresh_hint"] = seconds.into();
        }
        format!("{document:#}\n")
    }
}

fn certificate(position: usize, der: &[u8]) -> Result<Certificate, BundleError> {
    Certificate::from_der(der).map_err(|source| BundleError::Certificate { position, source })
}

/// The entry of one root: `use`, its key's parameters, and the certificate, no `kid`.
fn jwk(root: &Certificate) -> Value {
    let x5c = [STANDARD.encode(root.der())];
    let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let key = root.public_key().key_bytes();
    let curve = |name: &str| {
        let (x, y) = key[1..].split_at(key.len() / 2);
        json!({ "kty": "EC", "crv": name, "x": text(x), "y": text(y) })
    };
    let mut entry = match root.public_key().algorithm() {
        KeyAlgorithm::EcdsaP256 => curve("P-256"),
        KeyAlgorithm::EcdsaP384 => curve("P-384"),
        KeyAlgorithm::Ed25519 => json!({ "kty": "OKP", "crv": "Ed25519", "x": text(key) }),
        KeyAlgorithm::Rsa(_) => {
            let (n, e) = root
                .public_key()
                .rsa_numbers()
                .expect("an RSA key has a modulus and an exponent");
            json!({ "kty": "RSA", "n": text(n), "e": text(e) })
        }
    };
    entry["use"] = "x509-svid".into();
    entry["x5c"] = x5c.as_slice().into();
    entry
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "TrustBundle({}, {}, {} roots)",
            self.trust_domain,
            self.sequence,
            self.roots.len()
        )
    }
}

#[cfg(test)]
mod tests;
