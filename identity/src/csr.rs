//! Certificate signing requests (PKCS #10, RFC 2986): a proof that somebody holds a
//! key, and nothing more.

use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509CertificationRequest};

use crate::der::{self, Reader};
use crate::key::{KeyAlgorithm, KeyError, PublicKey};

/// Longest request that is looked at, in bytes.
const MAX_CSR: usize = 16 * 1024;

/// Which keys certificates are issued for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPolicy(Vec<KeyAlgorithm>);

impl KeyPolicy {
    /// Exactly these kinds. RSA sizes stand for themselves and everything larger, up to
    /// 4096 bits.
    #[must_use]
    pub fn allow(algorithms: impl Into<Vec<KeyAlgorithm>>) -> Self {
        Self(algorithms.into())
    }

    /// Whether the policy allows this kind of key.
    #[must_use]
    pub fn allows(&self, algorithm: KeyAlgorithm) -> bool {
        self.0.iter().any(|allowed| match (*allowed, algorithm) {
            (KeyAlgorithm::Rsa(least), KeyAlgorithm::Rsa(bits)) => bits >= least,
            (allowed, algorithm) => allowed == algorithm,
        })
    }
}

impl Default for KeyPolicy {
    /// P-256, P-384, Ed25519, and RSA of 2048 to 4096 bits.
    fn default() -> Self {
        Self::allow([
            KeyAlgorithm::EcdsaP256,
            KeyAlgorithm::EcdsaP384,
            KeyAlgorithm::Ed25519,
            KeyAlgorithm::Rsa(2048),
        ])
    }
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// More than 16 KiB.
    #[error("the request has {0} bytes, 16384 are allowed")]
    TooLong(usize),
    /// Not a PKCS #10 request in DER.
    #[error("not a PKCS #10 request in DER")]
    NotDer,
    /// Bytes after the request.
    #[error("bytes follow the request")]
    TrailingBytes,
    /// The key is of no accepted kind.
    #[error("the request's key: {0}")]
    Key(#[from] KeyError),
    /// The policy does not allow this kind of key.
    #[error("policy does not allow {0} keys")]
    KeyNotAllowed(KeyAlgorithm),
    /// The self-signature is not by the key in the request.
    #[error("the request's signature does not verify under its own key")]
    Signature,
}

/// A request whose sender was shown to hold the private key.
///
/// Its names are claims: nothing here believes them.
#[derive(Clone, Debug)]
pub struct VerifiedCsr {
    public_key: PublicKey,
    claimed_names: Vec<String>,
}

impl VerifiedCsr {
    /// Checks `bytes`: one request and nothing after it, a key that `policy` allows, and
    /// a signature by that key.
    ///
    /// # Errors
    /// The first of these that does not hold.
    pub fn verify(bytes: &[u8], policy: &KeyPolicy) -> Result<Self, CsrError> {
        if bytes.len() > MAX_CSR {
            return Err(CsrError::TooLong(bytes.len()));
        }
        let mut whole = Reader::new(bytes);
        let content = whole.read(der::SEQUENCE).map_err(|_| CsrError::NotDer)?;
        whole.end().map_err(|_| CsrError::TrailingBytes)?;
        let mut parts = Reader::new(content);
        let (info, _) = parts.element(der::SEQUENCE).map_err(|_| CsrError::NotDer)?;
        let algorithm = parts.read(der::SEQUENCE).map_err(|_| CsrError::NotDer)?;
        let signature = parts.bit_string().map_err(|_| CsrError::NotDer)?;
        parts.end().map_err(|_| CsrError::TrailingBytes)?;

        let (_, parsed) =
            X509CertificationRequest::from_der(bytes).map_err(|_| CsrError::NotDer)?;
        let public_key =
            PublicKey::from_spki_der(parsed.certification_request_info.subject_pki.raw)?;
        if !policy.allows(public_key.algorithm()) {
            return Err(CsrError::KeyNotAllowed(public_key.algorithm()));
        }
        if !public_key.verify(algorithm, info, signature) {
            return Err(CsrError::Signature);
        }
        Ok(Self {
            public_key,
            claimed_names: claimed_names(&parsed),
        })
    }

    /// The key that the sender holds.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// URI and DNS names that the request asks for: claims, for a log at most.
    #[must_use]
    pub fn claimed_names(&self) -> &[String] {
        &self.claimed_names
    }
}

fn claimed_names(parsed: &X509CertificationRequest<'_>) -> Vec<String> {
    let mut names = Vec::new();
    for extension in parsed.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(san) = extension {
            names.extend(san.general_names.iter().filter_map(|name| match name {
                GeneralName::URI(name) | GeneralName::DNSName(name) => Some((*name).to_owned()),
                _ => None,
            }));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::PrivateKey;
    use proptest::prelude::*;

    fn csr() -> Vec<u8> {
        PrivateKey::generate(KeyAlgorithm::EcdsaP256)
            .expect("a key")
            .create_csr()
            .expect("a request")
    }

    #[test]
    fn a_request_yields_the_key_that_signed_it() {
        for algorithm in [
            KeyAlgorithm::EcdsaP256,
            KeyAlgorithm::EcdsaP384,
            KeyAlgorithm::Ed25519,
        ] {
            let key = PrivateKey::generate(algorithm).expect("a key");
            let csr = key.create_csr().expect("a request");
            let verified = VerifiedCsr::verify(&csr, &KeyPolicy::default()).expect("verified");
            assert_eq!(verified.public_key(), key.public_key());
            assert!(verified.claimed_names().is_empty());
        }
    }

    #[test]
    fn trailing_bytes_are_refused_outside_and_inside() {
        let mut outside = csr();
        outside.push(0);
        let refused =
            VerifiedCsr::verify(&outside, &KeyPolicy::default()).expect_err("trailing byte");
        assert_eq!(refused, CsrError::TrailingBytes);
        let csr = csr();
        let content = Reader::new(&csr).read(der::SEQUENCE).expect("a sequence");
        let inside = der::sequence(&[content, &[5, 0]]);
        let refused =
            VerifiedCsr::verify(&inside, &KeyPolicy::default()).expect_err("trailing element");
        assert_eq!(refused, CsrError::TrailingBytes);
    }

    #[test]
    fn a_request_of_a_megabyte_is_not_looked_at() {
        let refused =
            VerifiedCsr::verify(&vec![0x30; 1 << 20], &KeyPolicy::default()).expect_err("1 MB");
        assert_eq!(refused, CsrError::TooLong(1 << 20));
    }

    #[test]
    fn a_kind_of_key_that_policy_leaves_out_is_refused() {
        let policy = KeyPolicy::allow([KeyAlgorithm::EcdsaP384, KeyAlgorithm::Rsa(3072)]);
        let refused = VerifiedCsr::verify(&csr(), &policy).expect_err("not allowed");
        assert_eq!(refused, CsrError::KeyNotAllowed(KeyAlgorithm::EcdsaP256));
        assert!(policy.allows(KeyAlgorithm::Rsa(4096)));
        assert!(!policy.allows(KeyAlgorithm::Rsa(2048)));
    }

    #[test]
    fn no_single_changed_byte_is_accepted_for_another_key() {
        let csr = csr();
        let policy = KeyPolicy::default();
        let original = VerifiedCsr::verify(&csr, &policy).expect("verified");
        for at in 0..csr.len() {
            let mut changed = csr.clone();
            changed[at] ^= 0x01;
            if let Ok(verified) = VerifiedCsr::verify(&changed, &policy) {
                assert_eq!(verified.public_key(), original.public_key(), "byte {at}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = VerifiedCsr::verify(&bytes, &KeyPolicy::default());
        }

        #[test]
        fn any_changed_request_is_parsed_without_a_panic(at in 0usize..200, byte: u8) {
            let mut csr = csr();
            let at = at % csr.len();
            csr[at] = byte;
            let _ = VerifiedCsr::verify(&csr, &KeyPolicy::default());
        }
    }
}
