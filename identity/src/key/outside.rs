//! What keys need that are not in this process: their public halves and signatures come in the
//! forms of whatever holds them.

use super::{KeyAlgorithm, KeyError, PublicKey};
use crate::crypto::{sha256, sha384};
use crate::der;

impl PublicKey {
    /// The key on the curve of `algorithm` at this point, uncompressed (SEC 1, 2.3.3).
    ///
    /// # Errors
    /// [`KeyError`] if `algorithm` has no points, or this is none of its.
    pub fn from_point(algorithm: KeyAlgorithm, point: &[u8]) -> Result<Self, KeyError> {
        match algorithm {
            KeyAlgorithm::EcdsaP256 | KeyAlgorithm::EcdsaP384 => {
                Self::from_spki_der(&algorithm.spki(point))
            }
            KeyAlgorithm::Ed25519 | KeyAlgorithm::Rsa(_) => Err(KeyError::Unsupported),
        }
    }

    /// The RSA key of these numbers, big-endian (RFC 8017, 3.1).
    ///
    /// # Errors
    /// [`KeyError`] if such a key is not supported.
    pub fn from_modulus(modulus: &[u8], exponent: &[u8]) -> Result<Self, KeyError> {
        let key = der::sequence(&[
            &der::unsigned_integer(modulus),
            &der::unsigned_integer(exponent),
        ]);
        Self::from_spki_der(&KeyAlgorithm::Rsa(0).spki(&key))
    }
}

impl KeyAlgorithm {
    /// What a key of this kind signs of `message` where it is given a digest: SHA-384 for
    /// P-384, and SHA-256 otherwise. Ed25519 takes the message itself.
    #[must_use]
    pub fn digest(self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::EcdsaP384 => sha384(message).to_vec(),
            Self::EcdsaP256 | Self::Rsa(_) => sha256(message).to_vec(),
            Self::Ed25519 => message.to_vec(),
        }
    }
}

/// An ECDSA signature as X.509 carries it (RFC 3279, 2.2.3) from its two numbers side by side,
/// which is how PKCS #11 has it (2.3.1). `None` if these cannot be two.
#[must_use]
pub fn ecdsa_signature(raw: &[u8]) -> Option<Vec<u8>> {
    if raw.is_empty() || !raw.len().is_multiple_of(2) {
        return None;
    }
    let (r, s) = raw.split_at(raw.len() / 2);
    Some(der::sequence(&[
        &der::unsigned_integer(r),
        &der::unsigned_integer(s),
    ]))
}

#[cfg(test)]
mod tests {
    use super::super::PrivateKey;
    use super::*;
    use crate::der::Reader;

    fn number(reader: &mut Reader<'_>, length: usize) -> Vec<u8> {
        let number = reader.positive_integer().expect("a number");
        let mut padded = vec![0; length - number.len()];
        padded.extend_from_slice(number);
        padded
    }

    #[test]
    fn a_signature_of_two_numbers_verifies_as_x509_carries_it() {
        for (algorithm, length) in [(KeyAlgorithm::EcdsaP256, 32), (KeyAlgorithm::EcdsaP384, 48)] {
            let key = PrivateKey::generate(algorithm).expect("a key");
            // Often enough for numbers with leading zeros and with the highest bit set.
            for message in 0..300_u16 {
                let message = message.to_be_bytes();
                let signature = key.sign(&message).expect("a signature");
                let mut outer = Reader::new(&signature);
                let mut inner = Reader::new(outer.read(der::SEQUENCE).expect("a sequence"));
                let mut raw = number(&mut inner, length);
                raw.extend(number(&mut inner, length));
                assert_eq!(ecdsa_signature(&raw), Some(signature.clone()));
                assert!(key.public_key().verifies(&message, &signature));
            }
        }
        assert_eq!(ecdsa_signature(&[]), None);
        assert_eq!(ecdsa_signature(&[1; 63]), None);
    }

    #[test]
    fn a_public_key_is_the_same_from_its_parts() {
        for algorithm in [KeyAlgorithm::EcdsaP256, KeyAlgorithm::EcdsaP384] {
            let key = PrivateKey::generate(algorithm).expect("a key");
            let public = key.public_key();
            let built = PublicKey::from_point(algorithm, public.key_bytes());
            assert_eq!(built.as_ref(), Ok(public));
            assert!(PublicKey::from_point(algorithm, &public.key_bytes()[1..]).is_err());
        }
        assert!(PublicKey::from_point(KeyAlgorithm::Rsa(3072), &[4; 65]).is_err());
    }

    #[cfg(feature = "aws-lc-rs")]
    #[test]
    fn an_rsa_key_is_the_same_from_its_numbers() {
        let key = PrivateKey::generate(KeyAlgorithm::Rsa(2048)).expect("a key");
        let (modulus, exponent) = key.public_key().rsa_numbers().expect("it is RSA");
        let built = PublicKey::from_modulus(modulus, exponent);
        assert_eq!(built.as_ref(), Ok(key.public_key()));
        assert!(PublicKey::from_modulus(&modulus[1..], exponent).is_err());
    }

    #[test]
    fn a_signature_of_another_message_or_key_does_not_verify() {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
        let other = PrivateKey::generate(KeyAlgorithm::EcdsaP256).expect("a key");
        let signature = key.sign(b"message").expect("a signature");
        assert!(key.public_key().verifies(b"message", &signature));
        assert!(!key.public_key().verifies(b"another", &signature));
        assert!(!other.public_key().verifies(b"message", &signature));
        assert!(!key.public_key().verifies(b"message", &signature[1..]));
        assert!(!key.public_key().verifies(b"message", &[]));
    }
}
