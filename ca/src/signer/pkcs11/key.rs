//! Keys in a token: found by label, made, and signing.

use arx_identity::crypto::random;
use arx_identity::{KeyAlgorithm, PublicKey};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use super::connection::{Connected, Failure};
use crate::signer::SignerError;
use crate::signer::options::Pkcs11 as Options;
use crate::state::TokenKey;

/// OBJECT IDENTIFIER of the curves, DER (RFC 5480, 2.1.1.1): what CKA_EC_PARAMS holds.
const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];

/// How many keys one label may get numbers for.
const NUMBERS: u32 = 1000;

/// A key that is there already.
pub(super) struct Wanted {
    pub(super) label: String,
    pub(super) public_key: PublicKey,
}

/// The private key that is `wanted`.
pub(super) fn find(connected: &Connected, wanted: &Wanted) -> Result<ObjectHandle, Failure> {
    let session = &connected.session;
    let keys = labelled(session, &wanted.label)?;
    for key in &keys {
        if public_key(session, *key)?.as_ref() == Some(&wanted.public_key) {
            return Ok(*key);
        }
    }
    // A token need not keep the public half. What it signs is verified in any case.
    if let [only] = keys[..]
        && public_key(session, only)?.is_none()
    {
        return Ok(only);
    }
    let remedy = if keys.is_empty() {
        "put it back from the token's backup"
    } else {
        "there is one of that name, and it is not the root's; put that back from a backup"
    };
    let place = TokenKey::new(&connected.token, &wanted.label).to_string();
    Err(SignerError::KeyMissing { place, remedy }.into())
}

/// The key for the next root, which no root in `used` has.
pub(super) fn next(
    connected: &Connected,
    options: &Options,
    algorithm: KeyAlgorithm,
    used: &[PublicKey],
) -> Result<(TokenKey, PublicKey), Failure> {
    let names = (1..NUMBERS).map(|number| match number {
        1 => options.key_label.clone(),
        _ => format!("{}-{number}", options.key_label),
    });
    for label in names {
        let place = TokenKey::new(&connected.token, &label);
        let found = labelled(&connected.session, &label)?;
        let public_key = match found[..] {
            [] if !options.make => {
                let remedy = "name another, or set make = true to have it made there";
                let place = place.to_string();
                return Err(SignerError::KeyMissing { place, remedy }.into());
            }
            [] => make(connected, &label, algorithm)?,
            [one] => public_key(&connected.session, one)?.ok_or_else(|| unsuitable(
                &place,
                "the token does not show its public half, or it is none of P-256, P-384 and RSA",
            ))?,
            _ => return Err(unsuitable(&place, "several keys are called that").into()),
        };
        if used.contains(&public_key) {
            if options.make {
                continue;
            }
            let place = place.to_string();
            let remedy = "name another, or set make = true to have one made";
            return Err(SignerError::KeyUsed { place, remedy }.into());
        }
        let signs = matches!(
            public_key.algorithm(),
            KeyAlgorithm::EcdsaP256 | KeyAlgorithm::EcdsaP384 | KeyAlgorithm::Rsa(3072 | 4096)
        );
        if !signs {
            let reason = format!(
                "no root is made with a key of kind {}",
                public_key.algorithm()
            );
            return Err(unsuitable(&place, reason).into());
        }
        return Ok((place, public_key));
    }
    let place = TokenKey::new(&connected.token, &options.key_label);
    Err(unsuitable(&place, "too many keys have this name already").into())
}

fn unsuitable(place: &TokenKey, reason: impl Into<String>) -> SignerError {
    SignerError::KeyUnsuitable {
        place: place.to_string(),
        reason: reason.into(),
    }
}

/// The private keys that are called `label`.
fn labelled(session: &Session, label: &str) -> Result<Vec<ObjectHandle>, Failure> {
    Ok(session.find_objects(&[
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::Label(label.as_bytes().to_vec()),
    ])?)
}

/// The public half of a private key, if the token shows it.
fn public_key(session: &Session, private: ObjectHandle) -> Result<Option<PublicKey>, Failure> {
    let wanted = [AttributeType::Id, AttributeType::Label];
    let mut template = vec![Attribute::Class(ObjectClass::PUBLIC_KEY)];
    for attribute in session.get_attributes(private, &wanted)? {
        match attribute {
            Attribute::Id(id) if !id.is_empty() => template.push(Attribute::Id(id)),
            label @ Attribute::Label(_) => template.push(label),
            _ => {}
        }
    }
    let mut halves = session.find_objects(&template)?;
    // RSA keys have it in the private object, too.
    halves.push(private);
    for half in halves {
        if let Some(key) = read_public(session, half)? {
            return Ok(Some(key));
        }
    }
    Ok(None)
}

fn read_public(session: &Session, key: ObjectHandle) -> Result<Option<PublicKey>, Failure> {
    let (mut params, mut point, mut modulus, mut exponent) = (None, None, None, None);
    let wanted = [
        AttributeType::KeyType,
        AttributeType::EcParams,
        AttributeType::EcPoint,
        AttributeType::Modulus,
        AttributeType::PublicExponent,
    ];
    for attribute in session.get_attributes(key, &wanted)? {
        match attribute {
            Attribute::EcParams(value) => params = Some(value),
            Attribute::EcPoint(value) => point = Some(value),
            Attribute::Modulus(value) => modulus = Some(value),
            Attribute::PublicExponent(value) => exponent = Some(value),
            _ => {}
        }
    }
    let key = match (params, point, modulus, exponent) {
        (Some(params), Some(point), ..) => {
            let algorithm = match &params[..] {
                P256 => KeyAlgorithm::EcdsaP256,
                P384 => KeyAlgorithm::EcdsaP384,
                _ => return Ok(None),
            };
            PublicKey::from_point(algorithm, bare(&point))
        }
        (.., Some(modulus), Some(exponent)) => PublicKey::from_modulus(&modulus, &exponent),
        _ => return Ok(None),
    };
    Ok(key.ok())
}

/// The point in a CKA_EC_POINT: an OCTET STRING by the standard, bare in some tokens.
fn bare(point: &[u8]) -> &[u8] {
    match point {
        [0x04, length, rest @ ..] if rest.len() == usize::from(*length) && *length < 0x80 => rest,
        [0x04, 0x81, length, rest @ ..] if rest.len() == usize::from(*length) => rest,
        _ => point,
    }
}

/// Makes a key pair that never leaves the token.
fn make(connected: &Connected, label: &str, algorithm: KeyAlgorithm) -> Result<PublicKey, Failure> {
    let id = random::<16>().to_vec();
    let mut public = vec![
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Verify(true),
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::Id(id.clone()),
    ];
    let private = [
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::Label(label.as_bytes().to_vec()),
        Attribute::Id(id),
    ];
    let mechanism = match algorithm {
        KeyAlgorithm::Rsa(bits) => {
            public.push(Attribute::ModulusBits(u64::from(bits).into()));
            public.push(Attribute::PublicExponent(vec![1, 0, 1]));
            Mechanism::RsaPkcsKeyPairGen
        }
        _ => {
            let curve = if algorithm == KeyAlgorithm::EcdsaP384 {
                P384
            } else {
                P256
            };
            public.push(Attribute::EcParams(curve.to_vec()));
            Mechanism::EccKeyPairGen
        }
    };
    let session = connected.context.open_rw_session(connected.slot)?;
    let (public, private) = session.generate_key_pair(&mechanism, &public, &private)?;
    let kept = session.get_attributes(
        private,
        &[AttributeType::Extractable, AttributeType::Sensitive],
    )?;
    let place = TokenKey::new(&connected.token, label);
    if kept.contains(&Attribute::Extractable(true)) || kept.contains(&Attribute::Sensitive(false)) {
        return Err(unsuitable(&place, "the token would give it away").into());
    }
    tracing::info!(token = connected.token, label, %algorithm, "a key was made in the token");
    read_public(&session, public)?
        .ok_or_else(|| unsuitable(&place, "the token does not show its public half").into())
}

/// A signature as X.509 carries it.
pub(super) fn sign(
    connected: &Connected,
    key: ObjectHandle,
    public_key: &PublicKey,
    message: &[u8],
) -> Result<Vec<u8>, Failure> {
    let session = &connected.session;
    let algorithm = public_key.algorithm();
    if let KeyAlgorithm::Rsa(_) = algorithm {
        return Ok(session.sign(&Mechanism::Sha256RsaPkcs, key, message)?);
    }
    let (hashes, name) = match algorithm {
        KeyAlgorithm::EcdsaP384 => (Mechanism::EcdsaSha384, MechanismType::ECDSA_SHA384),
        _ => (Mechanism::EcdsaSha256, MechanismType::ECDSA_SHA256),
    };
    // Not every token hashes.
    let raw = if connected.mechanisms.contains(&name) {
        session.sign(&hashes, key, message)?
    } else {
        session.sign(&Mechanism::Ecdsa, key, &algorithm.digest(message))?
    };
    Ok(arx_identity::ecdsa_signature(&raw).unwrap_or_default())
}
