//! The public keys of an issuer (JSON Web Key Set, RFC 7517), made ready to verify. The
//! key decides the algorithm, by its type, its curve and its own `alg`; a token has no say.

use arx_identity::crypto::{TokenAlgorithm, TokenKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// Longest key set that is read, in bytes.
pub(super) const MAX_SET: usize = 256 << 10;
/// More keys than an issuer has even in the middle of a rotation.
const MAX_KEYS: usize = 64;

/// Keys by their `kid`.
#[derive(Debug)]
pub(super) struct KeySet {
    keys: Vec<(String, TokenKey)>,
    /// Keys that were left out, each with the reason.
    pub(super) skipped: Vec<String>,
}

impl KeySet {
    /// The keys in `json`. Keys for other uses or of other kinds are left out; none at all
    /// is an error.
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Raw {
            keys: Vec<serde_json::Value>,
        }
        if json.len() > MAX_SET {
            return Err(format!("the key set is longer than {} KiB", MAX_SET >> 10));
        }
        let raw: Raw = serde_json::from_slice(json).map_err(|error| {
            format!(
                "not a JSON Web Key Set (line {}): an object with \"keys\" is expected",
                error.line()
            )
        })?;
        if raw.keys.len() > MAX_KEYS {
            return Err(format!("the key set has more than {MAX_KEYS} keys"));
        }
        let mut set = Self {
            keys: Vec::with_capacity(raw.keys.len()),
            skipped: Vec::new(),
        };
        for (n, raw) in raw.keys.into_iter().enumerate() {
            let key = serde_json::from_value::<Jwk>(raw)
                .map_err(|_| "it is not a JSON Web Key")
                .and_then(Jwk::open);
            match key {
                Ok(key) => set.keys.push(key),
                Err(reason) => set.skipped.push(format!("key {n} is left out: {reason}")),
            }
        }
        if set.keys.is_empty() {
            let mut reason = "the key set has no key that could verify a token".to_owned();
            for skipped in set.skipped.iter().take(3) {
                reason.push_str("; ");
                reason.push_str(skipped);
            }
            return Err(reason);
        }
        Ok(set)
    }

    /// All keys with this `kid`; more than one only where they are for different algorithms.
    pub(super) fn named<'s>(&'s self, kid: &str) -> impl Iterator<Item = &'s TokenKey> {
        self.keys
            .iter()
            .filter(move |(name, _)| name == kid)
            .map(|(_, key)| key)
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The names of the keys.
    pub(super) fn kids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|(kid, _)| kid.as_str())
    }
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    d: Option<serde::de::IgnoredAny>,
}

impl Jwk {
    fn open(self) -> Result<(String, TokenKey), &'static str> {
        if self.d.is_some() {
            return Err(
                "it has its private half with it; publish the public half only, and replace this key",
            );
        }
        if self.usage.as_deref().is_some_and(|usage| usage != "sig") {
            return Err("it is not for signatures (use)");
        }
        if let Some(operations) = &self.key_ops
            && !operations.iter().any(|operation| operation == "verify")
        {
            return Err("it is not for verifying (key_ops)");
        }
        let number = |text: &Option<String>| {
            text.as_deref()
                .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
                .ok_or("a number of it is missing or not base64url")
        };
        let key = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", None) => TokenKey::rsa(&number(&self.n)?, &number(&self.e)?),
            ("EC", Some("P-256")) => TokenKey::p256(&number(&self.x)?, &number(&self.y)?),
            ("EC", Some("P-384")) => TokenKey::p384(&number(&self.x)?, &number(&self.y)?),
            ("OKP", Some("Ed25519")) => TokenKey::ed25519(&number(&self.x)?),
            _ => return Err("it is not an RSA, P-256, P-384 or Ed25519 key"),
        }
        .map_err(|_| "its numbers have a length that is not accepted")?;
        let stated = self.alg.as_deref().map(TokenAlgorithm::from_name);
        if stated.is_some_and(|stated| stated != Some(key.algorithm())) {
            return Err(
                "it is for an algorithm that is not accepted, or that does not fit its type (alg)",
            );
        }
        let kid = self.kid.ok_or("it has no name (kid)")?;
        Ok((kid, key))
    }
}
