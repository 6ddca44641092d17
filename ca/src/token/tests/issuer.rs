//! An issuer of service-account tokens for the tests.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arx_daemon::Clock;
use arx_identity::{KeyAlgorithm, PrivateKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::token::{Cluster, Purpose, Refused, Token, Tokens, Verified};

pub(super) const NOW: u64 = 1_780_000_000;

pub(super) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

pub(super) fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A signing key with its name.
pub(super) struct Signer {
    pub(super) kid: &'static str,
    pub(super) alg: &'static str,
    key: Arc<PrivateKey>,
}

impl Signer {
    pub(super) fn new(kid: &'static str, algorithm: KeyAlgorithm) -> Self {
        // RSA keys take long to make, and any will do.
        static RSA: OnceLock<Arc<PrivateKey>> = OnceLock::new();
        let generate = || Arc::new(PrivateKey::generate(algorithm).expect("a new key"));
        let (alg, key) = match algorithm {
            KeyAlgorithm::EcdsaP256 => ("ES256", generate()),
            KeyAlgorithm::EcdsaP384 => ("ES384", generate()),
            KeyAlgorithm::Ed25519 => ("EdDSA", generate()),
            KeyAlgorithm::Rsa(_) => ("RS256", RSA.get_or_init(generate).clone()),
        };
        Self { kid, alg, key }
    }

    pub(super) fn p256(kid: &'static str) -> Self {
        Self::new(kid, KeyAlgorithm::EcdsaP256)
    }

    /// The public half, as a key set carries it.
    pub(super) fn jwk(&self) -> Value {
        let spki = self.key.public_key().spki_der();
        let tail = |n: usize| &spki[spki.len() - n..];
        let mut jwk = match self.alg {
            "ES256" => point("P-256", tail(64)),
            "ES384" => point("P-384", tail(96)),
            "EdDSA" => json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(tail(32))}),
            // RSA-2048 with exponent 65537: 00 || modulus, then the integer 01 00 01.
            _ => json!({"kty": "RSA", "n": base64url(&tail(256 + 5)[..256]), "e": "AQAB"}),
        };
        jwk["kid"] = self.kid.into();
        jwk["alg"] = self.alg.into();
        jwk["use"] = "sig".into();
        jwk
    }

    /// Header and payload as they are, signed.
    pub(super) fn sign_text(&self, header: &str, claims: &str) -> String {
        let signed = format!(
            "{}.{}",
            base64url(header.as_bytes()),
            base64url(claims.as_bytes())
        );
        let signature = self.key.sign(signed.as_bytes()).expect("a signature");
        let signature = match self.alg {
            "ES256" => fixed(&signature, 32),
            "ES384" => fixed(&signature, 48),
            _ => signature,
        };
        format!("{signed}.{}", base64url(&signature))
    }

    pub(super) fn header(&self) -> Value {
        json!({"alg": self.alg, "kid": self.kid})
    }

    pub(super) fn sign(&self, claims: &Value) -> String {
        self.sign_text(&self.header().to_string(), &claims.to_string())
    }
}

fn point(curve: &str, xy: &[u8]) -> Value {
    let (x, y) = xy.split_at(xy.len() / 2);
    json!({"kty": "EC", "crv": curve, "x": base64url(x), "y": base64url(y)})
}

/// ECDSA-Sig-Value (RFC 3279, 2.2.3) as r || s.
fn fixed(der: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 * size);
    let mut rest = &der[2..];
    if der[1] & 0x80 != 0 {
        rest = &der[2 + usize::from(der[1] & 0x7f)..];
    }
    for _ in 0..2 {
        let length = usize::from(rest[1]);
        let (number, after) = rest[2..].split_at(length);
        let number = &number[number.len().saturating_sub(size)..];
        out.extend(std::iter::repeat_n(0, size - number.len()));
        out.extend_from_slice(number);
        rest = after;
    }
    out
}

pub(super) fn key_set(signers: &[&Signer]) -> String {
    json!({"keys": signers.iter().map(|it| it.jwk()).collect::<Vec<_>>()}).to_string()
}

/// What a pod's projected token says.
pub(super) fn claims() -> Value {
    json!({
        "iss": "https://issuer.example",
        "sub": "system:serviceaccount:payments:api",
        "aud": ["arx"],
        "exp": NOW + 3600,
        "nbf": NOW,
        "iat": NOW,
        "jti": "f2b6f1a4",
        "kubernetes.io": {
            "namespace": "payments",
            "serviceaccount": {"name": "api", "uid": "sa-1"},
            "pod": {"name": "api-0", "uid": "pod-1"},
            "node": {"name": "node-1", "uid": "node-uid-1"},
        },
    })
}

/// The claims with one of them changed; `null` takes it away.
pub(super) fn with(pointer: &str, value: Value) -> Value {
    let mut claims = claims();
    let (parent, name) = pointer.rsplit_once('/').expect("starts with /");
    let parent = claims
        .pointer_mut(parent)
        .expect("is there")
        .as_object_mut()
        .expect("an object");
    if value.is_null() {
        parent.remove(name);
    } else {
        parent.insert(name.to_owned(), value);
    }
    claims
}

/// `c1`, by configuration text with these further lines.
pub(super) fn cluster(lines: &str) -> Cluster {
    let text = format!(
        "name = \"c1\"\nissuer = \"https://issuer.example\"\naudiences = [\"arx\"]\nagents = [\"arx-system/arx-node-agent\"]\n{lines}"
    );
    toml::from_str(&text).expect("a cluster")
}

/// Verification by a key file, on a clock that the test moves.
pub(super) struct Bench {
    pub(super) clock: Clock,
    pub(super) tokens: Tokens,
    pub(super) file: tempfile::NamedTempFile,
}

impl Bench {
    pub(super) async fn new(signers: &[&Signer], lines: &str) -> Self {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), key_set(signers)).expect("written");
        let clock = Clock::manual(now());
        let cluster = cluster(&format!("jwks_file = {:?}\n{lines}", file.path()));
        let tokens = Tokens::new(&[cluster], &clock).await.expect("sound");
        Self {
            clock,
            tokens,
            file,
        }
    }

    pub(super) async fn workload(&self, token: &str) -> Result<Verified, Refused> {
        self.tokens
            .verify(Token::new(token), Purpose::Workload, None)
            .await
    }

    pub(super) async fn code(&self, token: &str) -> &'static str {
        self.workload(token)
            .await
            .map_or_else(|refused| refused.code(), |_| "accepted")
    }
}
