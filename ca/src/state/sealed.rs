//! A replica's own intermediate with its key, kept where the key above it may be out of reach:
//! so that a restart goes on under it. Never written where that key is in the state too.

use std::time::SystemTime;

use arx_identity::{Certificate, KeyId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::authorities::pkcs8;
use super::document::{self, Document};
use super::{Decision, Loaded, Pkcs8, Replica, State, StateError, wire};
use crate::store::{Key, Segment};

/// What a replica needs to go on issuing after a restart.
#[derive(Debug)]
pub struct SealedIntermediate {
    /// The intermediate, then what stands between it and the root.
    pub chain: Vec<Certificate>,
    /// The root, by its subject key identifier.
    pub root: KeyId,
    /// The intermediate's key.
    pub key: Pkcs8,
    /// When it was made; its notBefore is earlier.
    pub made: SystemTime,
    /// What a newer version has added.
    pub extra: Map<String, Value>,
}

#[derive(Serialize)]
struct FormOf<'a> {
    #[serde(with = "wire::certificates")]
    chain: &'a [Certificate],
    #[serde(with = "wire::key_id")]
    root: &'a KeyId,
    #[serde(with = "pkcs8")]
    key: &'a Pkcs8,
    #[serde(with = "wire::millis", rename = "made_ms")]
    made: SystemTime,
    #[serde(flatten)]
    extra: &'a Map<String, Value>,
}

#[derive(Deserialize)]
struct Form {
    #[serde(with = "wire::certificates")]
    chain: Vec<Certificate>,
    #[serde(with = "wire::key_id")]
    root: KeyId,
    #[serde(with = "pkcs8")]
    key: Pkcs8,
    #[serde(with = "wire::millis", rename = "made_ms")]
    made: SystemTime,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

impl Document for SealedIntermediate {
    const KIND: Segment = Segment::fixed("sealed-intermediate");

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        document::encode(&FormOf {
            chain: &self.chain,
            root: &self.root,
            key: &self.key,
            made: self.made,
            extra: &self.extra,
        })
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let form: Form = document::decode(bytes)?;
        if form.chain.is_empty() {
            return Err("no certificate".to_owned());
        }
        Ok(Self {
            chain: form.chain,
            root: form.root,
            key: form.key,
            made: form.made,
            extra: form.extra,
        })
    }
}

impl SealedIntermediate {
    /// The intermediate.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        self.chain.first().expect("checked by whoever has made it")
    }
}

impl State {
    /// What `replica` has kept.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be read.
    pub async fn sealed_intermediate(
        &self,
        replica: &Replica,
    ) -> Result<Option<SealedIntermediate>, StateError> {
        let found = self.load(&self.sealed_key(replica)).await?;
        Ok(found.map(|found| found.value))
    }

    /// Keeps `sealed` for `replica` instead of what was kept before. `make` is asked again if
    /// somebody else has written meanwhile.
    pub(crate) async fn seal_intermediate(
        &self,
        replica: &Replica,
        make: impl Fn() -> SealedIntermediate + Send,
    ) -> Result<(), StateError> {
        self.update(
            &self.sealed_key(replica),
            |_: Option<Loaded<SealedIntermediate>>| Ok(Decision::Write(make(), ())),
        )
        .await
    }

    /// Whether any replica has kept something under `root` that has not ended.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be read.
    pub async fn is_sealed_under(
        &self,
        root: Option<KeyId>,
        now: SystemTime,
    ) -> Result<bool, StateError> {
        let all: Vec<(Key, SealedIntermediate)> = self.entries(&SealedIntermediate::KIND).await?;
        let mut all = all.iter();
        Ok(all
            .any(|(_, sealed)| Some(sealed.root) == root && sealed.certificate().not_after() > now))
    }

    /// Erases what is kept for `replica`.
    pub(crate) async fn erase_sealed(&self, replica: &Replica) -> Result<(), StateError> {
        self.remove(&self.sealed_key(replica)).await
    }

    /// Erases whatever replicas have kept that ended before `now`: not each of them comes back
    /// to do so itself.
    pub(crate) async fn erase_ended(&self, now: SystemTime) -> Result<(), StateError> {
        let all: Vec<(Key, SealedIntermediate)> = self.entries(&SealedIntermediate::KIND).await?;
        for (key, sealed) in all {
            if sealed.certificate().not_after() < now {
                self.remove(&key).await?;
            }
        }
        Ok(())
    }

    fn sealed_key(&self, replica: &Replica) -> Key {
        let key = self.key(&SealedIntermediate::KIND);
        key.named(replica.segment().clone())
    }
}
