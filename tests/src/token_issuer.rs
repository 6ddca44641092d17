//! A small issuer of Kubernetes-shaped service-account tokens. It stands for a cluster's
//! API server in tests and in the demo, and is nothing that a cluster should use.

mod claims;
mod discovery;
mod jws;

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use arx_daemon::Clock;
use arx_identity::{KeyAlgorithm, PrivateKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

pub use claims::Claims;
pub use discovery::Discovery;
use jws::{fixed, hmac_sha256, rsa_numbers};

/// Signs tokens with one key.
pub struct TokenIssuer {
    key: PrivateKey,
    algorithm: &'static str,
    key_id: String,
    issuer: String,
}

impl TokenIssuer {
    /// An issuer with a new key.
    ///
    /// # Errors
    /// If the key can't be made, or tokens can't be signed with this kind.
    pub fn new(issuer: &str, algorithm: KeyAlgorithm) -> anyhow::Result<Self> {
        let name = match algorithm {
            KeyAlgorithm::EcdsaP256 => "ES256",
            KeyAlgorithm::Rsa(_) => "RS256",
            KeyAlgorithm::Ed25519 => "EdDSA",
            other => anyhow::bail!("{other} signs no tokens here"),
        };
        Ok(Self {
            key: PrivateKey::generate(algorithm)?,
            algorithm: name,
            key_id: "key-1".to_owned(),
            issuer: issuer.to_owned(),
        })
    }

    /// The same with another name of its key.
    #[must_use]
    pub fn key_named(mut self, key_id: &str) -> Self {
        key_id.clone_into(&mut self.key_id);
        self
    }

    /// Its `iss`.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The issuer that was kept at `path` before, or a new one that is kept there.
    ///
    /// # Errors
    /// If the file can't be read or written.
    pub fn kept(issuer: &str, path: &Path) -> anyhow::Result<Self> {
        let key = match std::fs::read_to_string(path) {
            Ok(pem) => PrivateKey::from_pem(&pem)
                .with_context(|| format!("{} is no key: remove it", path.display()))?,
            Err(_) => {
                let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
                arx_daemon::files::write_atomically(path, key.pkcs8_pem().as_bytes(), 0o600)?;
                key
            }
        };
        Ok(Self {
            key,
            algorithm: "ES256",
            key_id: "key-1".to_owned(),
            issuer: issuer.to_owned(),
        })
    }

    /// Its public key, as a JSON Web Key Set (RFC 7517).
    #[must_use]
    pub fn jwks(&self) -> String {
        let spki = self.key.public_key().spki_der();
        let tail = |length: usize| &spki[spki.len() - length..];
        let encoded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let key = match self.algorithm {
            "ES256" => {
                json!({"kty": "EC", "crv": "P-256", "x": encoded(&tail(64)[..32]), "y": encoded(tail(32))})
            }
            "EdDSA" => json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(tail(32))}),
            _ => {
                let (n, e) = rsa_numbers(spki);
                json!({"kty": "RSA", "n": encoded(n), "e": encoded(e)})
            }
        };
        let Value::Object(mut key) = key else {
            unreachable!("an object was written")
        };
        key.insert("kid".to_owned(), self.key_id.as_str().into());
        key.insert("use".to_owned(), "sig".into());
        key.insert("alg".to_owned(), self.algorithm.into());
        json!({"keys": [key]}).to_string()
    }

    /// Signs a token.
    #[must_use]
    pub fn mint(&self, claims: &Claims) -> String {
        let now = Clock::system()
            .now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let algorithm = claims.algorithm.as_deref().unwrap_or(self.algorithm);
        let bound =
            |kind: &str, name: &String| json!({"name": name, "uid": format!("{kind}-{name}")});
        let mut kubernetes = json!({
            "namespace": claims.namespace,
            "serviceaccount": bound("sa", &claims.service_account),
        });
        if let Some(pod) = &claims.pod {
            kubernetes["pod"] = bound("pod", pod);
            if let Some(uid) = &claims.pod_uid {
                kubernetes["pod"]["uid"] = uid.as_str().into();
            }
        }
        if let Some(node) = &claims.node {
            kubernetes["node"] = bound("node", node);
        }
        if claims.extended {
            kubernetes["warnafter"] = (now + 600).into();
        }
        let mut body = json!({
            "iss": claims.issuer.as_deref().unwrap_or(&self.issuer),
            "aud": [claims.audience],
            "sub": format!("system:serviceaccount:{}:{}", claims.namespace, claims.service_account),
            "iat": now - claims.age, "nbf": now - claims.age, "exp": now + claims.lifetime,
            "jti": unique(),
            "kubernetes.io": kubernetes,
        });
        if claims.padding > 0 {
            body["padding"] = "x".repeat(claims.padding).into();
        }
        let key_id = claims.key_id.as_deref().unwrap_or(&self.key_id);
        let header = json!({"alg": algorithm, "kid": key_id, "typ": "JWT"});
        let encoded = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encoded(&header), encoded(&body));
        let signature = match algorithm {
            "none" => Vec::new(),
            "HS256" => {
                let key = crate::mesh::pem("PUBLIC KEY", self.key.public_key().spki_der());
                hmac_sha256(key.as_bytes(), message.as_bytes()).to_vec()
            }
            _ => self.sign(message.as_bytes()),
        };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature = self
            .key
            .sign(message)
            .expect("a key that was made here signs");
        if self.algorithm == "ES256" {
            fixed(&signature)
        } else {
            signature
        }
    }
}

fn unique() -> String {
    let random = arx_identity::crypto::random::<16>();
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The time of day, for those who wait for one.
#[must_use]
pub fn now() -> SystemTime {
    Clock::system().now()
}

/// So many seconds.
#[must_use]
pub const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
