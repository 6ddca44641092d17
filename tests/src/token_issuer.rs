//! A small issuer of Kubernetes-shaped service-account tokens. It stands for a cluster's
//! API server in tests and in the demo, and is nothing that a cluster should use.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use arx_daemon::Clock;
use arx_identity::{KeyAlgorithm, PrivateKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// Signs tokens with one key.
pub struct TokenIssuer {
    key: PrivateKey,
    algorithm: &'static str,
    issuer: String,
}

/// What a token says; begin with [`Claims::new`] and change what the test is about.
#[derive(Clone, Debug)]
pub struct Claims {
    /// `alg` of the header.
    pub algorithm: Option<String>,
    /// `kid` of the header.
    pub key_id: String,
    /// `iss`.
    pub issuer: Option<String>,
    /// `aud`.
    pub audience: String,
    /// Namespace of the service account.
    pub namespace: String,
    /// Its name.
    pub service_account: String,
    /// The pod that it is bound to.
    pub pod: Option<String>,
    /// The node that the pod runs on.
    pub node: Option<String>,
    /// Begins so long before now; negative lies in the future.
    pub age: i64,
    /// Valid for so long after now; negative is over.
    pub lifetime: i64,
    /// `warnafter`: a token of extended life.
    pub extended: bool,
    /// Bytes of a claim that nobody reads.
    pub padding: usize,
}

impl Claims {
    /// A good token of this account, in a pod on `node`.
    #[must_use]
    pub fn new(audience: &str, namespace: &str, service_account: &str, node: &str) -> Self {
        Self {
            algorithm: None,
            key_id: "key-1".to_owned(),
            issuer: None,
            audience: audience.to_owned(),
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
            pod: Some(format!("{service_account}-0")),
            node: Some(node.to_owned()),
            age: 1,
            lifetime: 3600,
            extended: false,
            padding: 0,
        }
    }
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
            issuer: issuer.to_owned(),
        })
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
        key.insert("kid".to_owned(), "key-1".into());
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
        let header = json!({"alg": algorithm, "kid": claims.key_id});
        let encoded = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encoded(&header), encoded(&body));
        let signature = match algorithm {
            "none" => Vec::new(),
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

/// An ECDSA signature as JWS has it (RFC 7518, 3.4): two numbers of 32 bytes, instead of a
/// DER sequence of two integers.
fn fixed(der: &[u8]) -> Vec<u8> {
    let mut rest = &der[2..];
    let mut out = Vec::with_capacity(64);
    for _ in 0..2 {
        let length = usize::from(rest[1]);
        let number = &rest[2..2 + length];
        let number = &number[number.len().saturating_sub(32)..];
        out.extend(std::iter::repeat_n(0, 32 - number.len()));
        out.extend_from_slice(number);
        rest = &rest[2 + length..];
    }
    out
}

/// Modulus and exponent of an RSA public key: the last two integers of its SPKI.
fn rsa_numbers(spki: &[u8]) -> (&[u8], &[u8]) {
    // Keys made here have the exponent 65537: five bytes at the end. The modulus stands
    // before it, with a zero in front.
    let modulus_end = spki.len() - 5;
    let bytes = [256, 384, 512].into_iter().find(|bytes| {
        let start = modulus_end - bytes;
        spki[start - 1] == 0 && spki[start - 5] == 0x02
    });
    let start = modulus_end - bytes.expect("a key of 2048, 3072 or 4096 bits");
    (&spki[start..modulus_end], &spki[modulus_end + 2..])
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
