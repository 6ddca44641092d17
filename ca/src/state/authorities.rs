//! The roots, in what state each is, where its key is, and which replicas have intermediates
//! under it.
//!
//! All in one document, because compare-and-swap holds for one: so that there is never more
//! than one active root, and no intermediate is registered under a root that is no longer
//! active.

mod form;
mod place;

use std::time::{Duration, SystemTime};

use arx_identity::{Certificate, KeyId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub(super) use self::place::pkcs8;
pub use self::place::{KeyPlace, Newer, Pkcs8, SocketKey, TokenKey};
use super::wire;

/// The authorities of a trust domain.
#[derive(Debug, Default)]
pub struct Authorities {
    /// All roots, the distrusted ones too: they win over any backup.
    pub roots: Vec<Root>,
    /// One for each replica and root under which it has had an intermediate that has not
    /// expired for long.
    pub registrations: Vec<Registration>,
    /// What was lost was given up, and no root is left that may be trusted: another may be made.
    pub anew: bool,
    /// The step of rotations that has changed them last, as the generation of their document: one
    /// that was decided before it, and comes later, changes nothing.
    pub step: u64,
    /// The key that waits for its certificate by a CA outside.
    pub pending: Option<Pending>,
    /// What a newer version has added.
    pub extra: Map<String, Value>,
}

/// A key that a CA outside is to certify, to stand between its root and the replicas' own.
#[derive(Debug)]
pub struct Pending {
    /// The key.
    pub key: Pkcs8,
    /// The request for it, PEM: the same however often it is asked for.
    pub request: String,
    /// When both were made.
    pub made: SystemTime,
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
    /// Its cross-certificate by the root that it follows: what is issued under it carries that
    /// for as long as that root retires.
    pub cross: Option<Certificate>,
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

    /// What vouches for the active root to whoever still has the one before alone.
    #[must_use]
    pub fn cross(&self) -> Option<&Certificate> {
        let cross = self.active()?.cross.as_ref()?;
        let by = self.root(cross.authority_key_id()?)?;
        (by.state == RootState::Retiring).then_some(cross)
    }

    /// Forgets whatever `root` has cross-certified; whether there was anything.
    pub(crate) fn forget_crosses_by(&mut self, root: KeyId) -> bool {
        let by = |it: &mut Certificate| it.authority_key_id() == Some(root);
        let roots = self.roots.iter_mut();
        roots.filter_map(|it| it.cross.take_if(by)).count() > 0
    }

    /// The root with this subject key identifier.
    #[must_use]
    pub fn root(&self, id: KeyId) -> Option<&Root> {
        self.roots.iter().find(|root| root.key_id() == Some(id))
    }

    /// Whether there is no root that could sign, and another may be made in spite of that.
    pub(crate) fn is_to_begin_anew(&self) -> bool {
        let mut roots = self.roots.iter();
        self.anew && roots.all(|root| root.state == RootState::Distrusted)
    }

    /// What is left of this root, or of another with its key, if it must never be trusted
    /// again.
    #[must_use]
    pub fn tombstone(&self, root: &Certificate) -> Option<&Root> {
        let mut distrusted = self
            .roots
            .iter()
            .filter(|it| it.state == RootState::Distrusted);
        distrusted.find(|it| {
            it.key_id() == root.subject_key_id() || it.certificate.public_key() == root.public_key()
        })
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

    /// When the first of the certificates up to the root ends: nothing below lives longer.
    #[must_use]
    pub fn ends(&self) -> SystemTime {
        let above = self.above.iter().map(Certificate::not_after);
        above.fold(self.certificate.not_after(), SystemTime::min)
    }

    /// When all of them have begun.
    #[must_use]
    pub fn begins(&self) -> SystemTime {
        let above = self.above.iter().map(Certificate::not_before);
        above.fold(self.certificate.not_before(), SystemTime::max)
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
