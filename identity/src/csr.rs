//! Certificate signing requests (PKCS #10, RFC 2986): a proof that somebody holds a
//! key, and nothing more.

use crate::certificate::{alternative_names, pem};
use crate::der::{self, NotDer, Reader};
use crate::key::{KeyAlgorithm, KeyError, PublicKey};

/// Longest request that is looked at, in bytes.
const MAX_CSR: usize = 16 * 1024;
/// The attribute that lists requested extensions (RFC 2985, 5.4.2).
pub(crate) const OID_EXTENSION_REQUEST: &[u8] =
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e];

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
        let content = whole.read(der::SEQUENCE)?;
        whole.end().map_err(|_| CsrError::TrailingBytes)?;
        let mut parts = Reader::new(content);
        let (info, fields) = parts.element(der::SEQUENCE)?;
        let algorithm = parts.read(der::SEQUENCE)?;
        let signature = parts.bit_string()?;
        parts.end().map_err(|_| CsrError::TrailingBytes)?;

        let info_parts = Info::read(fields)?;
        let public_key = PublicKey::from_spki_der(info_parts.public_key)?;
        if !policy.allows(public_key.algorithm()) {
            return Err(CsrError::KeyNotAllowed(public_key.algorithm()));
        }
        if !public_key.verify(algorithm, info, signature) {
            return Err(CsrError::Signature);
        }
        Ok(Self {
            public_key,
            claimed_names: alternative_names(info_parts.extensions),
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

/// A request as PEM (RFC 7468), ending in a newline.
#[must_use]
pub fn csr_pem(der: &[u8]) -> String {
    pem("CERTIFICATE REQUEST", der)
}

impl From<NotDer> for CsrError {
    fn from(_: NotDer) -> Self {
        Self::NotDer
    }
}

/// What matters of a CertificationRequestInfo (RFC 2986, 4.1).
struct Info<'a> {
    public_key: &'a [u8],
    /// Content of the list of requested extensions; empty if there is none.
    extensions: &'a [u8],
}

impl<'a> Info<'a> {
    fn read(content: &'a [u8]) -> Result<Self, NotDer> {
        let mut fields = Reader::new(content);
        if fields.read(der::INTEGER)? != [0] {
            return Err(NotDer);
        }
        fields.read(der::SEQUENCE)?;
        let (public_key, _) = fields.element(der::SEQUENCE)?;
        let mut extensions: &[u8] = &[];
        // Some tools leave empty attributes out, against the standard.
        if !fields.is_empty() {
            let mut attributes = Reader::new(fields.read(der::EXPLICIT_0)?);
            while !attributes.is_empty() {
                let mut attribute = Reader::new(attributes.read(der::SEQUENCE)?);
                let oid = attribute.read(der::OID)?;
                let values = attribute.read(der::SET)?;
                attribute.end()?;
                if oid == OID_EXTENSION_REQUEST {
                    let mut values = Reader::new(values);
                    extensions = values.read(der::SEQUENCE)?;
                    values.end()?;
                }
            }
        }
        fields.end()?;
        Ok(Self {
            public_key,
            extensions,
        })
    }
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

    /// A request signed by `key` whose CertificationRequestInfo has these parts.
    fn signed(key: &PrivateKey, algorithm: &[u8], info: &[&[u8]]) -> Vec<u8> {
        let info = der::sequence(info);
        let signature = key.sign(&info).expect("a signature");
        der::sequence(&[&info, algorithm, &der::bit_string(&signature)])
    }

    #[test]
    fn names_and_ca_flags_are_claims_that_change_nothing() {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
        let extension = |id: u8, value: &[u8]| {
            der::sequence(&[
                &der::tlv(der::OID, &[&[0x55, 0x1d, id]]),
                &der::tlv(der::OCTET_STRING, &[value]),
            ])
        };
        let names = der::sequence(&[
            &der::tlv(0x86, &[b"spiffe://example.org/admin"]),
            &der::tlv(0x82, &[b"kubernetes.default"]),
        ]);
        let extensions = der::sequence(&[
            &extension(0x11, &names),
            &extension(0x13, &der::sequence(&[der::BOOLEAN_TRUE])),
        ]);
        let request = |extensions: &[u8]| {
            let attribute = der::sequence(&[
                &der::tlv(der::OID, &[OID_EXTENSION_REQUEST]),
                &der::tlv(der::SET, &[extensions]),
            ]);
            let info: &[&[u8]] = &[
                &der::unsigned_integer(&[0]),
                &der::sequence(&[]),
                key.public_key().spki_der(),
                &der::tlv(der::EXPLICIT_0, &[&attribute]),
            ];
            let algorithm = KeyAlgorithm::EcdsaP256.signature_identifier();
            VerifiedCsr::verify(&signed(&key, &algorithm, info), &KeyPolicy::default())
        };
        let verified = request(&extensions).expect("verified");
        assert_eq!(verified.public_key(), key.public_key());
        assert_eq!(
            verified.claimed_names(),
            ["spiffe://example.org/admin", "kubernetes.default"]
        );
        let control = der::sequence(&[&extension(
            0x11,
            &der::sequence(&[&der::tlv(0x82, &[b"\n"])]),
        )]);
        assert!(
            request(&control)
                .expect("verified")
                .claimed_names()
                .is_empty()
        );
        let twice = [extensions.as_slice(), &extensions].concat();
        assert_eq!(request(&twice).expect_err("two lists"), CsrError::NotDer);
    }

    #[test]
    fn a_signature_by_another_key_or_algorithm_is_refused() {
        let (key, other) = (
            PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key"),
            PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key"),
        );
        let ed25519 = PrivateKey::generate(KeyAlgorithm::Ed25519).expect("a key");
        let (version, subject) = (der::unsigned_integer(&[0]), der::sequence(&[]));
        let attributes = der::tlv(der::EXPLICIT_0, &[]);
        let spki = key.public_key().spki_der();
        let info: &[&[u8]] = &[&version, &subject, spki, &attributes];
        let p256 = KeyAlgorithm::EcdsaP256.signature_identifier();
        let with_null = {
            let content = Reader::new(&p256).read(der::SEQUENCE).expect("a sequence");
            der::sequence(&[content, &[5, 0]])
        };
        let cases = [
            ("another key of the kind", signed(&other, &p256, info)),
            (
                "another kind of key",
                signed(
                    &ed25519,
                    &KeyAlgorithm::Ed25519.signature_identifier(),
                    info,
                ),
            ),
            (
                "another algorithm's name",
                signed(&key, &KeyAlgorithm::EcdsaP384.signature_identifier(), info),
            ),
            (
                "parameters where none belong",
                signed(&key, &with_null, info),
            ),
        ];
        for (what, request) in cases {
            let refused = VerifiedCsr::verify(&request, &KeyPolicy::default());
            assert_eq!(refused.expect_err(what), CsrError::Signature, "{what}");
        }
        let good = signed(&key, &p256, info);
        assert!(VerifiedCsr::verify(&good, &KeyPolicy::default()).is_ok());
    }

    #[test]
    fn only_version_1_and_nothing_after_the_attributes() {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
        let algorithm = KeyAlgorithm::EcdsaP256.signature_identifier();
        let subject = der::sequence(&[]);
        let spki = key.public_key().spki_der();
        let attributes = der::tlv(der::EXPLICIT_0, &[]);
        let (first, second) = (der::unsigned_integer(&[0]), der::unsigned_integer(&[1]));
        let infos: [&[&[u8]]; 3] = [
            &[&second, &subject, spki, &attributes],
            &[&first, &subject, spki, &attributes, &[5, 0]],
            &[&subject, spki, &attributes],
        ];
        for info in infos {
            let refused =
                VerifiedCsr::verify(&signed(&key, &algorithm, info), &KeyPolicy::default());
            assert_eq!(refused.expect_err("refused"), CsrError::NotDer);
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
