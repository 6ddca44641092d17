//! The roots, in what state each is, where its key is, and which replicas have intermediates
//! under it.
//!
//! All in one document, because compare-and-swap holds for one: so that there is never more
//! than one active root, and no intermediate is registered under a root that is no longer
//! active.

use std::fmt;
use std::time::{Duration, SystemTime};

use arx_identity::{Certificate, KeyError, KeyId, PrivateKey};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::document::{self, Document};
use super::wire;
use crate::store::Segment;

/// The authorities of a trust domain.
#[derive(Debug, Default)]
pub struct Authorities {
    /// All roots, the distrusted ones too: they win over any backup.
    pub roots: Vec<Root>,
    /// One for each replica and root under which it has had an intermediate that has not
    /// expired for long.
    pub registrations: Vec<Registration>,
    /// What a newer version has added.
    pub extra: Map<String, Value>,
}

/// A root of the trust domain.
#[derive(Debug)]
pub struct Root {
    /// The self-signed certificate.
    pub certificate: Certificate,
    /// Its part in a rotation.
    pub state: RootState,
    /// Where the key is that signs the replicas' intermediates.
    pub key: KeyPlace,
    /// The operator's intermediates between the root and the replicas' own, the one whose key
    /// signs first; empty where the root itself signs.
    pub above: Vec<Certificate>,
    /// When it came into the state store.
    pub added: SystemTime,
    /// What a newer version has added.
    pub extra: Map<String, Value>,
}

/// What a root is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootState {
    /// Made, and signs nothing yet.
    Prepared,
    /// Signs; one at a time.
    Active,
    /// Signs nothing any more, and is still trusted.
    Retiring,
    /// Must not be trusted again, whatever a backup says.
    Distrusted,
    /// Of a newer version: whoever meets it issues and serves, and changes no root.
    Unknown(String),
}

/// Where the private key is that signs intermediates.
#[derive(Debug)]
pub enum KeyPlace {
    /// Here, sealed with the rest of the document.
    Stored(Pkcs8),
    /// In the operator's file.
    Files,
    /// Nowhere any more.
    Erased,
}

/// A private key as it is stored. Zeroized when dropped, never printed.
pub struct Pkcs8(Zeroizing<Vec<u8>>);

/// What one replica may sign under one root, and until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The replica's name.
    pub replica: String,
    /// The root, by its subject key identifier.
    #[serde(with = "wire::key_id")]
    pub root: KeyId,
    /// The newest intermediate, by its subject key identifier.
    #[serde(with = "wire::key_id")]
    pub intermediate: KeyId,
    /// The latest end of all its intermediates under this root.
    #[serde(with = "wire::millis", rename = "not_after_ms")]
    pub not_after: SystemTime,
    /// What a newer version has added.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Authorities {
    /// The root that signs.
    #[must_use]
    pub fn active(&self) -> Option<&Root> {
        self.roots
            .iter()
            .find(|root| root.state == RootState::Active)
    }

    /// The root with this subject key identifier.
    #[must_use]
    pub fn root(&self, id: KeyId) -> Option<&Root> {
        self.roots.iter().find(|root| root.key_id() == Some(id))
    }

    /// Notes that `replica` will sign under `root` by `intermediate` until `not_after`.
    pub(crate) fn register(
        &mut self,
        replica: &str,
        root: KeyId,
        intermediate: KeyId,
        not_after: SystemTime,
    ) {
        let mut same = self.registrations.iter_mut();
        match same.find(|known| known.replica == replica && known.root == root) {
            Some(known) => {
                known.intermediate = intermediate;
                known.not_after = known.not_after.max(not_after);
            }
            None => self.registrations.push(Registration {
                replica: replica.to_owned(),
                root,
                intermediate,
                not_after,
                extra: Map::new(),
            }),
        }
    }

    /// Forgets registrations that ended before `now` by `grace` or more.
    pub(crate) fn forget_ended(&mut self, now: SystemTime, grace: Duration) {
        self.registrations
            .retain(|registration| registration.not_after + grace > now);
    }

    fn contradiction(&self) -> Option<String> {
        let active = self
            .roots
            .iter()
            .filter(|root| root.state == RootState::Active)
            .count();
        if active > 1 {
            return Some(format!("{active} roots are active"));
        }
        let twice = self.roots.iter().enumerate().find(|(at, root)| {
            self.roots[..*at]
                .iter()
                .any(|other| other.key_id() == root.key_id())
        });
        twice.map(|(_, root)| format!("{} is there twice", root.certificate.subject()))
    }
}

impl Root {
    /// Its subject key identifier.
    #[must_use]
    pub fn key_id(&self) -> Option<KeyId> {
        self.certificate.subject_key_id()
    }

    /// The certificate whose key signs the replicas' intermediates.
    #[must_use]
    pub fn signer(&self) -> &Certificate {
        self.above.first().unwrap_or(&self.certificate)
    }
}

impl KeyPlace {
    /// What `arx status` calls it.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Stored(_) => "state store",
            Self::Files => "operator's files",
            Self::Erased => "erased",
        }
    }
}

impl RootState {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Prepared => "prepared",
            Self::Active => "active",
            Self::Retiring => "retiring",
            Self::Distrusted => "distrusted",
            Self::Unknown(name) => name,
        }
    }

    fn named(name: String) -> Self {
        match name.as_str() {
            "prepared" => Self::Prepared,
            "active" => Self::Active,
            "retiring" => Self::Retiring,
            "distrusted" => Self::Distrusted,
            _ => Self::Unknown(name),
        }
    }
}

impl Pkcs8 {
    /// This key, to be stored.
    #[must_use]
    pub fn of(key: &PrivateKey) -> Self {
        Self(Zeroizing::new(key.pkcs8_der().to_vec()))
    }

    /// The key.
    ///
    /// # Errors
    /// If it is not one.
    pub fn key(&self) -> Result<PrivateKey, KeyError> {
        PrivateKey::from_pkcs8_der(&self.0)
    }
}

impl fmt::Debug for Pkcs8 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pkcs8(..)")
    }
}

/// The document. The public types have no form outside of it, so that a key cannot be written
/// anywhere else.
#[derive(Serialize, Deserialize)]
struct Form {
    roots: Vec<RootForm>,
    registrations: Vec<Registration>,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct RootForm {
    #[serde(with = "wire::certificate")]
    certificate: Certificate,
    state: String,
    key: KeyForm,
    #[serde(with = "wire::certificates", default)]
    above: Vec<Certificate>,
    #[serde(with = "wire::millis", rename = "added_ms")]
    added: SystemTime,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum KeyForm {
    Stored(#[serde(with = "wire::secret")] Zeroizing<Vec<u8>>),
    Files,
    Erased,
}

impl Document for Authorities {
    const KIND: Segment = Segment::fixed("authorities");

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let roots = self.roots.iter().map(|root| RootForm {
            certificate: root.certificate.clone(),
            state: root.state.as_str().to_owned(),
            key: match &root.key {
                KeyPlace::Stored(key) => KeyForm::Stored(key.0.clone()),
                KeyPlace::Files => KeyForm::Files,
                KeyPlace::Erased => KeyForm::Erased,
            },
            above: root.above.clone(),
            added: root.added,
            extra: root.extra.clone(),
        });
        document::encode(&Form {
            roots: roots.collect(),
            registrations: self.registrations.clone(),
            extra: self.extra.clone(),
        })
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let form: Form = document::decode(bytes)?;
        let roots = form.roots.into_iter().map(|root| Root {
            certificate: root.certificate,
            state: RootState::named(root.state),
            key: match root.key {
                KeyForm::Stored(key) => KeyPlace::Stored(Pkcs8(key)),
                KeyForm::Files => KeyPlace::Files,
                KeyForm::Erased => KeyPlace::Erased,
            },
            above: root.above,
            added: root.added,
            extra: root.extra,
        });
        let authorities = Self {
            roots: roots.collect(),
            registrations: form.registrations,
            extra: form.extra,
        };
        match authorities.contradiction() {
            Some(contradiction) => Err(contradiction),
            None => Ok(authorities),
        }
    }
}
