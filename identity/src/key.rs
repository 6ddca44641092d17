//! Keys: private ones that never show themselves, and public ones as certificates
//! carry them.

use std::fmt;
use std::str::FromStr;

use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use zeroize::Zeroizing;

use crate::certificate::KeyId;
use crate::crypto::{provider, sha256};
use crate::csr::OID_EXTENSION_REQUEST;
use crate::der::{self, NotDer, Reader};
use provider::rand::SystemRandom;
use provider::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};

const OID_EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const OID_P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const OID_P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const OID_ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const OID_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const OID_ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const OID_ECDSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
const OID_RSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];
const DER_NULL: &[u8] = &[0x05, 0x00];

mod outside;

pub use outside::ecdsa_signature;

/// Kind and size of a key. Displayed and parsed as `ecdsa-p256`, `ecdsa-p384`,
/// `ed25519`, `rsa-3072` and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyAlgorithm {
    /// ECDSA on NIST P-256, signing with SHA-256.
    EcdsaP256,
    /// ECDSA on NIST P-384, signing with SHA-384.
    EcdsaP384,
    /// Ed25519 (RFC 8410). Envoy and Go accept it only where told to.
    Ed25519,
    /// RSA with this modulus length in bits, signing PKCS #1 v1.5 with SHA-256.
    Rsa(u16),
}

impl KeyAlgorithm {
    /// The signature AlgorithmIdentifier that a key of this kind signs X.509 with
    /// (RFC 5758, 3.2; RFC 8410, 3; RFC 4055, 5), whole.
    pub(crate) fn signature_identifier(self) -> Vec<u8> {
        match self {
            Self::EcdsaP256 => der::sequence(&[&der::tlv(der::OID, &[OID_ECDSA_SHA256])]),
            Self::EcdsaP384 => der::sequence(&[&der::tlv(der::OID, &[OID_ECDSA_SHA384])]),
            Self::Ed25519 => der::sequence(&[&der::tlv(der::OID, &[OID_ED25519])]),
            Self::Rsa(_) => der::sequence(&[&der::tlv(der::OID, &[OID_RSA_SHA256]), DER_NULL]),
        }
    }

    fn spki(self, key: &[u8]) -> Vec<u8> {
        let oid = |oid| der::tlv(der::OID, &[oid]);
        let algorithm = match self {
            Self::EcdsaP256 => der::sequence(&[&oid(OID_EC), &oid(OID_P256)]),
            Self::EcdsaP384 => der::sequence(&[&oid(OID_EC), &oid(OID_P384)]),
            Self::Ed25519 => der::sequence(&[&oid(OID_ED25519)]),
            Self::Rsa(_) => der::sequence(&[&oid(OID_RSA), DER_NULL]),
        };
        der::sequence(&[&algorithm, &der::bit_string(key)])
    }
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EcdsaP256 => f.write_str("ecdsa-p256"),
            Self::EcdsaP384 => f.write_str("ecdsa-p384"),
            Self::Ed25519 => f.write_str("ed25519"),
            Self::Rsa(bits) => write!(f, "rsa-{bits}"),
        }
    }
}

impl FromStr for KeyAlgorithm {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let unknown = || KeyError::UnknownAlgorithm(text.chars().take(40).collect());
        match text {
            "ecdsa-p256" => Ok(Self::EcdsaP256),
            "ecdsa-p384" => Ok(Self::EcdsaP384),
            "ed25519" => Ok(Self::Ed25519),
            _ => match text.strip_prefix("rsa-").and_then(|bits| bits.parse().ok()) {
                Some(bits @ (2048 | 3072 | 4096)) => Ok(Self::Rsa(bits)),
                _ => Err(unknown()),
            },
        }
    }
}

/// Why bytes are not a key that is accepted, or a key did not do its work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not `ecdsa-p256`, `ecdsa-p384`, `ed25519`, `rsa-2048`, `rsa-3072` or `rsa-4096`.
    #[error(
        "unknown key algorithm {0:?}; use ecdsa-p256, ecdsa-p384, ed25519, rsa-2048, rsa-3072 or rsa-4096"
    )]
    UnknownAlgorithm(String),
    /// The bytes do not parse, or bytes are left over.
    #[error("not a SubjectPublicKeyInfo in DER")]
    NotDer,
    /// A curve or algorithm that nothing here uses.
    #[error("the key's algorithm or curve is not supported; use P-256, P-384, Ed25519 or RSA")]
    Unsupported,
    /// RSA outside 2048 to 4096 bits.
    #[error("the RSA key has {0} bits, 2048 to 4096 are allowed")]
    RsaSize(usize),
    /// An RSA exponent other than 65537.
    #[error("the RSA key's exponent is not 65537")]
    RsaExponent,
    /// A PEM file without a private key.
    #[error("no private key found in the PEM text; it needs a PRIVATE KEY block")]
    NoPrivateKey,
    /// PKCS #1 or SEC1 instead of PKCS #8.
    #[error("the private key is not in PKCS #8; convert it with `openssl pkcs8 -topk8 -nocrypt`")]
    NotPkcs8,
    /// The private key does not parse, or does not fit its public half.
    #[error("the private key is damaged or inconsistent")]
    BadPrivateKey,
    /// This build's provider cannot make such a key.
    #[error(
        "this build cannot generate {0} keys; build with the feature aws-lc-rs, or supply the key"
    )]
    CannotGenerate(KeyAlgorithm),
    /// The provider refused to sign.
    #[error("signing failed")]
    Signing,
}

impl From<NotDer> for KeyError {
    fn from(_: NotDer) -> Self {
        Self::NotDer
    }
}

/// A public key as certificates carry it (SubjectPublicKeyInfo), of a supported kind.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PublicKey {
    spki: Vec<u8>,
    algorithm: KeyAlgorithm,
    id: KeyId,
}

impl PublicKey {
    /// The key in these bytes.
    ///
    /// # Errors
    /// If they are not exactly one SubjectPublicKeyInfo of a supported algorithm:
    /// P-256 or P-384 (uncompressed point), Ed25519, or RSA of 2048 to 4096 bits with
    /// exponent 65537.
    pub fn from_spki_der(spki: &[u8]) -> Result<Self, KeyError> {
        let parts = SpkiParts::read(spki)?;
        let mut algorithm = Reader::new(parts.algorithm);
        let oid = algorithm.read(der::OID)?;
        let algorithm = match oid {
            OID_EC => {
                let curve = algorithm
                    .read(der::OID)
                    .map_err(|_| KeyError::Unsupported)?;
                algorithm.end()?;
                let (algorithm, length) = match curve {
                    OID_P256 => (KeyAlgorithm::EcdsaP256, 65),
                    OID_P384 => (KeyAlgorithm::EcdsaP384, 97),
                    _ => return Err(KeyError::Unsupported),
                };
                if parts.key.len() != length || parts.key[0] != 4 {
                    return Err(KeyError::Unsupported);
                }
                algorithm
            }
            OID_ED25519 => {
                algorithm.end()?;
                if parts.key.len() != 32 {
                    return Err(KeyError::NotDer);
                }
                KeyAlgorithm::Ed25519
            }
            OID_RSA => {
                algorithm.read(DER_NULL[0])?;
                algorithm.end()?;
                KeyAlgorithm::Rsa(rsa_bits(parts.key)?)
            }
            _ => return Err(KeyError::Unsupported),
        };
        let hash = sha256(parts.key);
        let id = KeyId::from_slice(&hash[..20]).expect("20 bytes are a key id");
        Ok(Self {
            spki: spki.to_vec(),
            algorithm,
            id,
        })
    }

    /// The whole SubjectPublicKeyInfo, DER.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// Kind and size.
    #[must_use]
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// The subject key identifier that certificates of ours give this key: the leftmost
    /// 160 bits of SHA-256 of the key (RFC 7093, 2, method 1).
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        self.id
    }

    /// Content of the subjectPublicKey: an uncompressed point, an RSAPublicKey, or an
    /// Ed25519 key.
    pub(crate) fn key_bytes(&self) -> &[u8] {
        SpkiParts::read(&self.spki)
            .expect("checked by the constructor")
            .key
    }

    /// Modulus and exponent, big-endian, if this is an RSA key.
    pub(crate) fn rsa_numbers(&self) -> Option<(&[u8], &[u8])> {
        let mut numbers = Reader::new(Reader::new(self.key_bytes()).read(der::SEQUENCE).ok()?);
        Some((
            numbers.positive_integer().ok()?,
            numbers.positive_integer().ok()?,
        ))
    }

    /// Whether `signature` over `message`, as X.509 carries it, is this key's, by the algorithm
    /// that belongs to this kind of key: what [`PrivateKey::sign`] answers, wherever the
    /// private key is.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let identifier = self.algorithm.signature_identifier();
        Reader::new(&identifier)
            .read(der::SEQUENCE)
            .is_ok_and(|content| self.verify(content, message, signature))
    }

    /// Whether `signature` over `message` is this key's. `signature_algorithm` is the
    /// content of the AlgorithmIdentifier that came with it.
    pub(crate) fn verify(
        &self,
        signature_algorithm: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        let Ok(parts) = SpkiParts::read(&self.spki) else {
            return false;
        };
        crate::crypto::tls_provider()
            .signature_verification_algorithms
            .all
            .iter()
            .filter(|how| {
                how.public_key_alg_id().as_ref() == parts.algorithm
                    && how.signature_alg_id().as_ref() == signature_algorithm
            })
            .any(|how| how.verify_signature(parts.key, message, signature).is_ok())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({}, {})", self.algorithm, self.id)
    }
}

struct SpkiParts<'a> {
    /// Content of the AlgorithmIdentifier.
    algorithm: &'a [u8],
    key: &'a [u8],
}

impl<'a> SpkiParts<'a> {
    fn read(spki: &'a [u8]) -> Result<Self, NotDer> {
        let mut outer = Reader::new(spki);
        let mut inner = Reader::new(outer.read(der::SEQUENCE)?);
        outer.end()?;
        let parts = Self {
            algorithm: inner.read(der::SEQUENCE)?,
            key: inner.bit_string()?,
        };
        inner.end()?;
        Ok(parts)
    }
}

/// Modulus length of an RSAPublicKey (RFC 8017, A.1.1).
fn rsa_bits(key: &[u8]) -> Result<u16, KeyError> {
    let mut outer = Reader::new(key);
    let mut inner = Reader::new(outer.read(der::SEQUENCE)?);
    outer.end()?;
    let modulus = inner.positive_integer()?;
    let exponent = inner.positive_integer()?;
    inner.end()?;
    let bits = modulus.len() * 8 - modulus[0].leading_zeros() as usize;
    if !(2048..=4096).contains(&bits) {
        return Err(KeyError::RsaSize(bits));
    }
    if exponent != [1, 0, 1] {
        return Err(KeyError::RsaExponent);
    }
    Ok(bits as u16)
}

/// A private key. Zeroized when dropped, never printed, never serialized; shared by
/// `Arc`, not cloned.
pub struct PrivateKey {
    pkcs8: Zeroizing<Vec<u8>>,
    pair: Pair,
    public: PublicKey,
}

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(Box<RsaKeyPair>),
}

impl PrivateKey {
    /// A new key.
    ///
    /// # Errors
    /// [`KeyError::CannotGenerate`] for RSA where the provider is `ring`.
    pub fn generate(algorithm: KeyAlgorithm) -> Result<Self, KeyError> {
        let rng = SystemRandom::new();
        let pkcs8 = match algorithm {
            KeyAlgorithm::EcdsaP256 | KeyAlgorithm::EcdsaP384 => {
                EcdsaKeyPair::generate_pkcs8(ecdsa(algorithm), &rng)
                    .map(|document| Zeroizing::new(document.as_ref().to_vec()))
                    .map_err(|_| KeyError::CannotGenerate(algorithm))?
            }
            KeyAlgorithm::Ed25519 => Ed25519KeyPair::generate_pkcs8(&rng)
                .map(|document| Zeroizing::new(document.as_ref().to_vec()))
                .map_err(|_| KeyError::CannotGenerate(algorithm))?,
            KeyAlgorithm::Rsa(bits) => generate_rsa(bits)?,
        };
        Self::from_pkcs8_der(&pkcs8)
    }

    /// The key in these bytes (PKCS #8, RFC 5958).
    ///
    /// # Errors
    /// If it does not parse, its halves do not fit, or its kind is not supported.
    pub fn from_pkcs8_der(pkcs8: &[u8]) -> Result<Self, KeyError> {
        let (pair, public) = if let Ok(pair) = load_ecdsa(KeyAlgorithm::EcdsaP256, pkcs8) {
            let public = KeyAlgorithm::EcdsaP256.spki(pair.public_key().as_ref());
            (Pair::Ecdsa(pair), public)
        } else if let Ok(pair) = load_ecdsa(KeyAlgorithm::EcdsaP384, pkcs8) {
            let public = KeyAlgorithm::EcdsaP384.spki(pair.public_key().as_ref());
            (Pair::Ecdsa(pair), public)
        } else if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8) {
            let public = KeyAlgorithm::Ed25519.spki(pair.public_key().as_ref());
            (Pair::Ed25519(pair), public)
        } else {
            let pair = RsaKeyPair::from_pkcs8(pkcs8).map_err(|_| KeyError::BadPrivateKey)?;
            let public = KeyAlgorithm::Rsa(0).spki(pair.public_key().as_ref());
            (Pair::Rsa(Box::new(pair)), public)
        };
        let public = PublicKey::from_spki_der(&public)?;
        Ok(Self {
            pkcs8: Zeroizing::new(pkcs8.to_vec()),
            pair,
            public,
        })
    }

    /// The first private key of a PEM text (RFC 7468), which must be PKCS #8.
    ///
    /// # Errors
    /// If there is none, or it is not accepted.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        match PrivateKeyDer::from_pem_slice(text.as_bytes()) {
            Ok(PrivateKeyDer::Pkcs8(der)) => Self::from_pkcs8_der(der.secret_pkcs8_der()),
            Ok(_) => Err(KeyError::NotPkcs8),
            Err(_) => Err(KeyError::NoPrivateKey),
        }
    }

    /// The key in PKCS #8, DER.
    #[must_use]
    pub fn pkcs8_der(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The key in PKCS #8, PEM.
    #[must_use]
    pub fn pkcs8_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(crate::certificate::pem("PRIVATE KEY", &self.pkcs8))
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// Signature over `message` as X.509 carries it, by the algorithm that belongs to
    /// this kind of key.
    ///
    /// # Errors
    /// [`KeyError::Signing`] if the provider refuses.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let rng = SystemRandom::new();
        match &self.pair {
            Pair::Ecdsa(pair) => pair
                .sign(&rng, message)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(|_| KeyError::Signing),
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; modulus_len(pair)];
                pair.sign(&signature::RSA_PKCS1_SHA256, &rng, message, &mut signature)
                    .map_err(|_| KeyError::Signing)?;
                Ok(signature)
            }
        }
    }

    /// A PKCS #10 request (RFC 2986) for this key, DER, with an empty subject and no
    /// names: the authority decides those.
    ///
    /// # Errors
    /// As [`PrivateKey::sign`].
    pub fn create_csr(&self) -> Result<Vec<u8>, KeyError> {
        self.request(&der::sequence(&[]), &[])
    }

    /// The same with this subject (a Name, DER), asking for these extensions (each DER).
    pub(crate) fn request(&self, subject: &[u8], extensions: &[u8]) -> Result<Vec<u8>, KeyError> {
        let asked = match extensions {
            [] => Vec::new(),
            _ => der::sequence(&[
                &der::tlv(der::OID, &[OID_EXTENSION_REQUEST]),
                &der::tlv(der::SET, &[&der::sequence(&[extensions])]),
            ]),
        };
        let info = der::sequence(&[
            &der::unsigned_integer(&[0]),
            subject,
            self.public.spki_der(),
            &der::tlv(der::EXPLICIT_0, &[&asked]),
        ]);
        let signature = self.sign(&info)?;
        let algorithm = self.public.algorithm().signature_identifier();
        Ok(der::sequence(&[
            &info,
            &algorithm,
            &der::bit_string(&signature),
        ]))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "PrivateKey({}, {})",
            self.public.algorithm, self.public.id
        )
    }
}

fn ecdsa(algorithm: KeyAlgorithm) -> &'static signature::EcdsaSigningAlgorithm {
    match algorithm {
        KeyAlgorithm::EcdsaP384 => &signature::ECDSA_P384_SHA384_ASN1_SIGNING,
        _ => &signature::ECDSA_P256_SHA256_ASN1_SIGNING,
    }
}

#[cfg(feature = "aws-lc-rs")]
mod differences {
    use super::*;
    use provider::encoding::AsDer as _;

    pub(super) fn load_ecdsa(
        algorithm: KeyAlgorithm,
        pkcs8: &[u8],
    ) -> Result<EcdsaKeyPair, KeyError> {
        EcdsaKeyPair::from_pkcs8(ecdsa(algorithm), pkcs8).map_err(|_| KeyError::BadPrivateKey)
    }

    pub(super) fn generate_rsa(bits: u16) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let cannot = KeyError::CannotGenerate(KeyAlgorithm::Rsa(bits));
        let size = match bits {
            2048 => provider::rsa::KeySize::Rsa2048,
            3072 => provider::rsa::KeySize::Rsa3072,
            4096 => provider::rsa::KeySize::Rsa4096,
            _ => return Err(cannot),
        };
        let pair = provider::rsa::KeyPair::generate(size).map_err(|_| cannot.clone())?;
        let pkcs8: provider::encoding::Pkcs8V1Der<'_> = pair.as_der().map_err(|_| cannot)?;
        Ok(Zeroizing::new(pkcs8.as_ref().to_vec()))
    }

    pub(super) fn modulus_len(pair: &RsaKeyPair) -> usize {
        pair.public_modulus_len()
    }
}

#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
mod differences {
    use super::*;

    pub(super) fn load_ecdsa(
        algorithm: KeyAlgorithm,
        pkcs8: &[u8],
    ) -> Result<EcdsaKeyPair, KeyError> {
        EcdsaKeyPair::from_pkcs8(ecdsa(algorithm), pkcs8, &SystemRandom::new())
            .map_err(|_| KeyError::BadPrivateKey)
    }

    pub(super) fn generate_rsa(bits: u16) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        Err(KeyError::CannotGenerate(KeyAlgorithm::Rsa(bits)))
    }

    pub(super) fn modulus_len(pair: &RsaKeyPair) -> usize {
        pair.public().modulus_len()
    }
}

use differences::{generate_rsa, load_ecdsa, modulus_len};

#[cfg(test)]
mod tests;
