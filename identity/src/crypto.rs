//! The one module that chooses the crypto provider, and the few primitives beyond
//! X.509 that Arx stands on: hashing, randomness, sealing, and the signatures of
//! JSON Web Tokens.
//!
//! `aws-lc-rs` is the default; `ring` is taken where only that feature is on.

use std::fmt;

use zeroize::Zeroizing;

#[cfg(feature = "aws-lc-rs")]
pub(crate) use aws_lc_rs as provider;
#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
pub(crate) use ring as provider;
#[cfg(not(any(feature = "aws-lc-rs", feature = "ring")))]
compile_error!("arx-identity needs one of the features `aws-lc-rs` and `ring`");

use provider::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use provider::digest;
use provider::rand::{SecureRandom, SystemRandom};
use provider::signature;

/// Name of the crypto provider that this build uses.
pub const PROVIDER: &str = if cfg!(feature = "aws-lc-rs") {
    "aws-lc-rs"
} else {
    "ring"
};

/// The rustls side of the same choice.
pub(crate) fn tls_provider() -> std::sync::Arc<rustls::crypto::CryptoProvider> {
    #[cfg(feature = "aws-lc-rs")]
    use rustls::crypto::aws_lc_rs::default_provider;
    #[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
    use rustls::crypto::ring::default_provider;
    static PROVIDER: std::sync::OnceLock<std::sync::Arc<rustls::crypto::CryptoProvider>> =
        std::sync::OnceLock::new();
    PROVIDER
        .get_or_init(|| std::sync::Arc::new(default_provider()))
        .clone()
}

/// SHA-256 of `bytes`.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(bytes);
    hash.finish()
}

/// SHA-384 of `bytes`.
pub(crate) fn sha384(bytes: &[u8]) -> [u8; 48] {
    let mut out = [0; 48];
    out.copy_from_slice(digest::digest(&digest::SHA384, bytes).as_ref());
    out
}

/// SHA-256 of data that comes in parts.
#[derive(Clone)]
pub struct Sha256(digest::Context);

impl Sha256 {
    /// An empty hash.
    #[must_use]
    pub fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    /// Takes in the next part.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all parts.
    #[must_use]
    pub fn finish(self) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(self.0.finish().as_ref());
        out
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sha256")
    }
}

/// `N` bytes from the operating system's generator, by way of the provider.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    fill_random(&mut out);
    out
}

fn fill_random(out: &mut [u8]) {
    SystemRandom::new()
        .fill(out)
        .expect("the operating system's random generator answers");
}

/// A key that seals values at rest: AES-256-GCM under a random nonce.
///
/// One key may seal 2^32 values before nonces are likely to repeat (NIST SP 800-38D,
/// 8.3), far above what state that changes by the minute comes to.
pub struct SealingKey {
    key: LessSafeKey,
    bytes: Zeroizing<[u8; 32]>,
}

/// A sealed value does not open: another key, other associated data, or changed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the sealed value does not open with this key and this name: it was changed, or it belongs elsewhere"
)]
pub struct OpenError;

impl SealingKey {
    /// The key with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, bytes).expect("AES-256 takes 32 bytes");
        Self {
            key: LessSafeKey::new(key),
            bytes: Zeroizing::new(*bytes),
        }
    }

    /// A new random key.
    #[must_use]
    pub fn generate() -> Self {
        Self::from_bytes(&Zeroizing::new(random()))
    }

    /// The key itself, for writing it to where it is kept.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// `plain` sealed and bound to `associated`: nonce, ciphertext, tag; 28 bytes longer.
    #[must_use]
    pub fn seal(&self, associated: &[u8], plain: &[u8]) -> Vec<u8> {
        let nonce = random::<NONCE_LEN>();
        let mut out = Vec::with_capacity(NONCE_LEN + plain.len() + AES_256_GCM.tag_len());
        out.extend_from_slice(&nonce);
        out.extend_from_slice(plain);
        let tag = self
            .key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(associated),
                &mut out[NONCE_LEN..],
            )
            .expect("a value in memory is shorter than the 64 GiB that AES-GCM can seal");
        out.extend_from_slice(tag.as_ref());
        out
    }

    /// The value that [`SealingKey::seal`] sealed with the same `associated`.
    ///
    /// # Errors
    /// [`OpenError`] if anything differs; it does not say what.
    pub fn open(&self, associated: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let (nonce, rest) = sealed.split_at_checked(NONCE_LEN).ok_or(OpenError)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| OpenError)?;
        let mut plain = Zeroizing::new(rest.to_vec());
        let length = self
            .key
            .open_in_place(nonce, Aad::from(associated), &mut plain)
            .map_err(|_| OpenError)?
            .len();
        plain.truncate(length);
        Ok(plain)
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey(..)")
    }
}

/// Signature algorithms of JSON Web Tokens that are accepted at all (RFC 7518, 3.1;
/// RFC 8037, 3.1). `none` and the HMAC family do not exist here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenAlgorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256, signature r || s.
    Es256,
    /// ECDSA on P-384 with SHA-384, signature r || s.
    Es384,
    /// Ed25519.
    EdDsa,
}

impl TokenAlgorithm {
    /// The algorithm with this `alg` name, if it is one that is accepted.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            "ES384" => Some(Self::Es384),
            "EdDSA" => Some(Self::EdDsa),
            _ => None,
        }
    }

    /// Its `alg` name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }
}

/// A public key of a token issuer. It verifies one algorithm only, so a token cannot
/// choose how its key is used.
#[derive(Clone)]
pub struct TokenKey(Verifier);

#[derive(Clone)]
enum Verifier {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    Fixed {
        algorithm: TokenAlgorithm,
        key: Vec<u8>,
    },
}

/// The numbers of a JSON Web Key do not make a key that is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenKeyError {
    /// RSA outside 2048..=8192 bits, or an even or tiny exponent.
    #[error(
        "RSA keys of token issuers must have 2048 to 8192 bits and an odd exponent of at least 3"
    )]
    Rsa,
    /// A coordinate or key of the wrong length.
    #[error("the key's coordinates have the wrong length for its curve")]
    Length,
}

impl TokenKey {
    /// An RSA key from big-endian modulus and exponent; verifies RS256.
    ///
    /// # Errors
    /// [`TokenKeyError::Rsa`] for sizes that are not accepted.
    pub fn rsa(n: &[u8], e: &[u8]) -> Result<Self, TokenKeyError> {
        let n: Vec<u8> = n.iter().copied().skip_while(|byte| *byte == 0).collect();
        let e: Vec<u8> = e.iter().copied().skip_while(|byte| *byte == 0).collect();
        let bits = n
            .first()
            .map_or(0, |high| n.len() * 8 - high.leading_zeros() as usize);
        let exponent_fits =
            matches!(e.as_slice(), [low] if *low >= 3) || (2..=4).contains(&e.len());
        let odd = e.last().is_some_and(|low| low & 1 == 1);
        if !(2048..=8192).contains(&bits) || !exponent_fits || !odd {
            return Err(TokenKeyError::Rsa);
        }
        Ok(Self(Verifier::Rsa { n, e }))
    }

    /// A P-256 key from its coordinates; verifies ES256.
    ///
    /// # Errors
    /// [`TokenKeyError::Length`] unless both have 32 bytes.
    pub fn p256(x: &[u8], y: &[u8]) -> Result<Self, TokenKeyError> {
        Self::point(TokenAlgorithm::Es256, 32, x, y)
    }

    /// A P-384 key from its coordinates; verifies ES384.
    ///
    /// # Errors
    /// [`TokenKeyError::Length`] unless both have 48 bytes.
    pub fn p384(x: &[u8], y: &[u8]) -> Result<Self, TokenKeyError> {
        Self::point(TokenAlgorithm::Es384, 48, x, y)
    }

    /// An Ed25519 key; verifies EdDSA.
    ///
    /// # Errors
    /// [`TokenKeyError::Length`] unless it has 32 bytes.
    pub fn ed25519(x: &[u8]) -> Result<Self, TokenKeyError> {
        if x.len() != 32 {
            return Err(TokenKeyError::Length);
        }
        Ok(Self(Verifier::Fixed {
            algorithm: TokenAlgorithm::EdDsa,
            key: x.to_vec(),
        }))
    }

    fn point(
        algorithm: TokenAlgorithm,
        size: usize,
        x: &[u8],
        y: &[u8],
    ) -> Result<Self, TokenKeyError> {
        if x.len() != size || y.len() != size {
            return Err(TokenKeyError::Length);
        }
        Ok(Self(Verifier::Fixed {
            algorithm,
            key: [&[4], x, y].concat(),
        }))
    }

    /// The only algorithm that this key verifies.
    #[must_use]
    pub fn algorithm(&self) -> TokenAlgorithm {
        match &self.0 {
            Verifier::Rsa { .. } => TokenAlgorithm::Rs256,
            Verifier::Fixed { algorithm, .. } => *algorithm,
        }
    }

    /// Whether `signature` over `message` is this key's.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.0 {
            Verifier::Rsa { n, e } => signature::RsaPublicKeyComponents {
                n: n.as_slice(),
                e: e.as_slice(),
            }
            .verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, signature)
            .is_ok(),
            Verifier::Fixed { algorithm, key } => {
                let how: &dyn signature::VerificationAlgorithm = match algorithm {
                    TokenAlgorithm::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
                    TokenAlgorithm::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
                    TokenAlgorithm::EdDsa => &signature::ED25519,
                    TokenAlgorithm::Rs256 => return false,
                };
                signature::UnparsedPublicKey::new(how, key)
                    .verify(message, signature)
                    .is_ok()
            }
        }
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKey({})", self.algorithm().name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_opens_only_under_its_own_name_and_key() {
        let key = SealingKey::generate();
        let sealed = key.seal(b"example.org/root/3", b"secret");
        assert_eq!(
            key.open(b"example.org/root/3", &sealed).as_deref(),
            Ok(&b"secret".to_vec())
        );
        assert_eq!(key.open(b"example.org/root/2", &sealed), Err(OpenError));
        assert_eq!(
            SealingKey::generate().open(b"example.org/root/3", &sealed),
            Err(OpenError)
        );
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(
                key.open(b"example.org/root/3", &changed),
                Err(OpenError),
                "byte {at}"
            );
            assert_eq!(
                key.open(b"example.org/root/3", &sealed[..at]),
                Err(OpenError)
            );
        }
    }

    #[test]
    fn a_sealing_key_never_shows_itself() {
        assert_eq!(
            format!("{:?}", SealingKey::from_bytes(&[7; 32])),
            "SealingKey(..)"
        );
    }

    #[test]
    fn weak_token_keys_are_refused() {
        assert!(
            TokenKey::rsa(&[0xff; 128], &[1, 0, 1]).is_err(),
            "1024 bits"
        );
        assert!(TokenKey::rsa(&[0xff; 256], &[1]).is_err(), "exponent 1");
        assert!(
            TokenKey::rsa(&[0xff; 256], &[1, 0, 0]).is_err(),
            "even exponent"
        );
        assert!(TokenKey::rsa(&[0xff; 256], &[1, 0, 1]).is_ok());
        assert!(TokenKey::p256(&[1; 31], &[1; 32]).is_err());
        assert!(TokenKey::ed25519(&[1; 33]).is_err());
    }

    #[test]
    fn hashing_in_parts_is_hashing() {
        let mut parts = Sha256::new();
        parts.update(b"ab");
        parts.update(b"c");
        assert_eq!(parts.finish(), sha256(b"abc"));
        assert_eq!(sha256(b"abc")[..4], [0xba, 0x78, 0x16, 0xbf]);
    }
}
