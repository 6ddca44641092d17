//! What the authority keeps, as typed documents over the [store](crate::store): roots and their
//! keys, registered intermediates, published trust, and what each replica has seen.
//!
//! Every document is sealed and carries a generation that only grows. Whoever reads one that is
//! older than what this process or this replica has seen is told that it was put back, and
//! never works with it. Documents change by deciding on what was read and comparing before
//! swapping; a decision that lost the race is made again.

mod authorities;
mod bury;
mod denials;
mod document;
mod error;
mod intermediate;
mod lease;
mod nodes;
mod published;
mod replica;
mod restored;
mod rotation;
mod sealed;
mod wire;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arx_identity::{KeyId, TrustDomain};
use bytes::Bytes;

pub use self::authorities::{
    Authorities, KeyPlace, Newer, Pending, Pkcs8, Registration, Root, RootState, SocketKey,
    TokenKey,
};
pub use self::denials::{Denial, Denials};
pub use self::document::Document;
pub(crate) use self::document::{decode, encode};
pub use self::error::StateError;
pub use self::intermediate::Intermediate;
pub use self::lease::Lease;
pub use self::nodes::{Nodes, hash_of};
pub use self::published::{Link, Published};
pub use self::replica::{
    Below, Checkpoint, Counted, Gate, LedgerLost, LedgerMark, Open, Replica, ReplicaDocument,
    Report, Seen, replica_name,
};
pub(crate) use self::restored::NAMED;
pub use self::restored::{Adopts, Ahead, Heard, Opened, Restored};
pub use self::rotation::{
    Forced, Initiator, Kind, LeftBehind, LeftOut, Opener, Passed, Phase, RootName, Rotation,
    Rotations, Terms,
};
pub use self::sealed::SealedIntermediate;
use crate::seal::{Seal, SealError};
use crate::store::{CasError, Changes, FORMAT, Key, Prefix, Segment, Shared, list_all};

/// How often a read is repeated before an older value counts as put back: where the store is a
/// service, a read may be stale.
const READS: u32 = 4;

/// How often a decision is made again before the caller is told to come back.
const ROUNDS: u32 = 64;

/// The documents of one trust domain. Clones share everything.
#[derive(Clone, Debug)]
pub struct State(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Shared,
    seal: Seal,
    trust_domain: TrustDomain,
    software: String,
    /// The highest generation seen of each document.
    seen: Mutex<HashMap<Key, u64>>,
}

/// A document as it was read.
#[derive(Debug)]
pub struct Loaded<T> {
    /// What it says.
    pub value: T,
    /// Grows by one with every change.
    pub generation: u64,
}

/// What to do with a document after a look at it.
#[derive(Debug)]
pub enum Decision<T, R> {
    /// Write this, and answer that once it is written.
    Write(T, R),
    /// Leave it as it is, and answer that.
    Keep(R),
}

impl State {
    /// The state of `trust_domain` in `store`, which is marked as ours if it is empty.
    /// `software` is the name and version of this program.
    ///
    /// # Errors
    /// [`StateError`] if the store holds something else, or something newer, or does not
    /// answer, or if its values need another sealing key.
    pub async fn open(
        store: Shared,
        seal: Seal,
        trust_domain: &TrustDomain,
        software: &str,
    ) -> Result<Self, StateError> {
        // Before anything is written: another sealing key must not be found out half-way.
        let state = Self::over(store, seal, trust_domain, software);
        state.try_seal().await?;
        FORMAT.open(&*state.0.store, trust_domain, software).await?;
        Ok(state)
    }

    /// Whether nothing was ever kept for `trust_domain` in `store`: then, and only then, a
    /// missing sealing key may be made.
    ///
    /// # Errors
    /// [`StateError`] if the store does not answer, or holds something else.
    pub async fn is_new(store: &Shared, trust_domain: &TrustDomain) -> Result<bool, StateError> {
        Ok(FORMAT.inspect(&**store, trust_domain).await?.is_none())
    }

    /// The state of `trust_domain` in `store`, to look at: nothing is written. `None` if there
    /// is none yet.
    ///
    /// # Errors
    /// As [`State::open`].
    pub async fn inspect(
        store: Shared,
        seal: Seal,
        trust_domain: &TrustDomain,
    ) -> Result<Option<Self>, StateError> {
        if FORMAT.inspect(&*store, trust_domain).await?.is_none() {
            return Ok(None);
        }
        let state = Self::over(store, seal, trust_domain, "");
        state.try_seal().await?;
        Ok(Some(state))
    }

    fn over(store: Shared, seal: Seal, trust_domain: &TrustDomain, software: &str) -> Self {
        Self(Arc::new(Inner {
            store,
            seal,
            trust_domain: trust_domain.clone(),
            software: software.to_owned(),
            seen: Mutex::default(),
        }))
    }

    /// Whether the seal opens what is there.
    async fn try_seal(&self) -> Result<(), StateError> {
        let key = self.key(&Authorities::KIND);
        if let Some(entry) = self.0.store.get(&key).await? {
            self.0.seal.open(&key, &entry.value)?;
        }
        Ok(())
    }

    /// Whose state this is.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.trust_domain
    }

    /// What seals the documents.
    pub(crate) fn seal(&self) -> &Seal {
        &self.0.seal
    }

    /// The store below.
    #[must_use]
    pub fn store(&self) -> &Shared {
        &self.0.store
    }

    /// The roots and what is registered under them; `None` before the first start has made one.
    ///
    /// # Errors
    /// [`StateError`] if they cannot be read.
    pub async fn authorities(&self) -> Result<Option<Loaded<Authorities>>, StateError> {
        self.load(&self.key(&Authorities::KIND)).await
    }

    /// The rotations of the roots.
    ///
    /// # Errors
    /// [`StateError`] if they cannot be read.
    pub async fn rotations(&self) -> Result<Rotations, StateError> {
        let found = self.load(&self.key(&Rotations::KIND)).await?;
        Ok(found.map(|found| found.value).unwrap_or_default())
    }

    /// That this state is a backup which was put back, if it is one.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be read.
    pub async fn restored(&self) -> Result<Option<Restored>, StateError> {
        let found = self.load(&self.key(&Restored::KIND)).await?;
        Ok(found.map(|found| found.value))
    }

    /// Who is denied, with the generation of that; `None` before anybody was.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be read.
    pub async fn denials(&self) -> Result<Option<Loaded<Denials>>, StateError> {
        self.load(&self.key(&Denials::KIND)).await
    }

    /// The registered intermediates of all roots and replicas, expired ones too until they are
    /// cleared away.
    ///
    /// # Errors
    /// [`StateError`] if they cannot be read.
    pub async fn intermediates(&self) -> Result<Vec<Intermediate>, StateError> {
        self.list(&Intermediate::KIND).await
    }

    /// Everything that was ever published, oldest first.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be read.
    pub async fn published(&self) -> Result<Vec<Published>, StateError> {
        let mut all: Vec<Published> = self.list(&Published::KIND).await?;
        all.sort_by_key(|published| published.sequence);
        Ok(all)
    }

    /// What is stored of each replica that has ever started, by name.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be read.
    pub async fn replicas(&self) -> Result<Vec<(String, ReplicaDocument)>, StateError> {
        let named = self.entries(&ReplicaDocument::KIND).await?;
        Ok(named
            .into_iter()
            .filter_map(|(key, document)| Some((key.name()?.as_str().to_owned(), document)))
            .collect())
    }

    /// Notice of changes to documents of this kind, by whatever process.
    pub(crate) fn changes(&self, kind: &Segment) -> Changes {
        self.0
            .store
            .changes(&Prefix::kind(&self.0.trust_domain, kind))
    }

    /// Where the one document of this kind is.
    #[must_use]
    pub fn key(&self, kind: &Segment) -> Key {
        Key::new(&self.0.trust_domain, kind)
    }

    pub(crate) fn key_under(&self, kind: &Segment, issuer: KeyId) -> Key {
        self.key(kind).of_issuer(issuer)
    }

    pub(crate) fn software(&self) -> &str {
        &self.0.software
    }

    /// An older generation of this document than `generation` will not be taken.
    pub(crate) fn expect(&self, key: &Key, generation: u64) {
        if generation > 0 {
            let mut seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let highest = seen.entry(key.clone()).or_default();
            *highest = generation.max(*highest);
        }
    }

    fn expected(&self, key: &Key) -> u64 {
        let seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(key).copied().unwrap_or_default()
    }

    pub(crate) async fn load<T: Document>(
        &self,
        key: &Key,
    ) -> Result<Option<Loaded<T>>, StateError> {
        let found = self.read(key).await?;
        found.map(|found| self.parse(key, &found)).transpose()
    }

    fn parse<T: Document>(&self, key: &Key, found: &Found) -> Result<Loaded<T>, StateError> {
        let value = T::decode(&found.opened.value).map_err(|detail| StateError::Unreadable {
            key: key.to_string(),
            detail,
        })?;
        Ok(Loaded {
            value,
            generation: found.opened.generation,
        })
    }

    async fn read(&self, key: &Key) -> Result<Option<Found>, StateError> {
        let mut reads = 1;
        loop {
            let entry = self.0.store.get(key).await?;
            let found = match entry {
                Some(entry) => {
                    let opened = self.0.seal.open(key, &entry.value)?;
                    Some(Found {
                        stored: entry.value,
                        version: entry.version,
                        opened,
                    })
                }
                None => None,
            };
            let generation = found.as_ref().map_or(0, |found| found.opened.generation);
            let expected = self.expected(key);
            if generation >= expected {
                self.expect(key, generation);
                return Ok(found);
            }
            if reads == READS {
                let key = key.to_string();
                return Err(match found {
                    Some(_) => SealError::Generation {
                        key,
                        found: generation,
                        expected,
                    }
                    .into(),
                    None => StateError::Gone { key },
                });
            }
            reads += 1;
            tokio::task::yield_now().await;
        }
    }

    /// Changes the document at `key` by what `decide` makes of its content. It is asked again
    /// whenever another writer was faster, so it must not act by itself; and it may see its own
    /// earlier answer as the content.
    ///
    /// # Errors
    /// Whatever `decide` answers, and [`StateError`] if the store cannot be read or written.
    pub async fn update<T, R, E, F>(&self, key: &Key, mut decide: F) -> Result<R, E>
    where
        T: Document,
        E: From<StateError>,
        F: FnMut(Option<Loaded<T>>) -> Result<Decision<T, R>, E>,
    {
        // Writes of which nobody knows what became of them.
        let mut attempts: Vec<(Bytes, u64, R)> = Vec::new();
        let mut unknown = None;
        for _ in 0..ROUNDS {
            let found = match self.read(key).await {
                Ok(found) => found,
                Err(_) if !attempts.is_empty() => break,
                Err(error) => return Err(error.into()),
            };
            if let Some(at) = found.as_ref().and_then(|found| {
                attempts
                    .iter()
                    .position(|(bytes, ..)| *bytes == found.stored)
            }) {
                return Ok(attempts.swap_remove(at).2);
            }
            let version = found.as_ref().map(|found| found.version.clone());
            let loaded = found.map(|found| self.parse(key, &found)).transpose()?;
            let generation = loaded
                .as_ref()
                .map_or(0, |loaded: &Loaded<T>| loaded.generation)
                + 1;
            let (value, answer) = match decide(loaded)? {
                Decision::Keep(answer) => return Ok(answer),
                Decision::Write(value, answer) => (value, answer),
            };
            let stored = Bytes::from(self.0.seal.seal(key, generation, &value.encode()));
            match self
                .0
                .store
                .compare_and_swap(key, version.as_ref(), stored.clone())
                .await
            {
                Ok(_) => {
                    self.expect(key, generation);
                    return Ok(answer);
                }
                Err(CasError::Conflict { .. }) => {}
                Err(error @ CasError::Unknown { .. }) => {
                    attempts.push((stored, generation, answer));
                    unknown = Some(error);
                }
                Err(CasError::Store(error)) if attempts.is_empty() => {
                    return Err(StateError::from(error).into());
                }
                // An earlier attempt may still arrive, so "nothing was changed" would be a lie.
                Err(CasError::Store(_)) => break,
            }
            tokio::task::yield_now().await;
        }
        let key = key.to_string();
        let error = unknown.unwrap_or(CasError::Conflict { key });
        Err(StateError::Cas(error).into())
    }

    /// Writes a document that never changes. Answers what stands there in the end: `value`, or
    /// what was there already.
    pub(crate) async fn create<T: Document + Clone>(
        &self,
        key: &Key,
        value: &T,
    ) -> Result<T, StateError> {
        self.update(key, |found: Option<Loaded<T>>| {
            Ok::<_, StateError>(match found {
                Some(found) => Decision::Keep(found.value),
                None => Decision::Write(value.clone(), value.clone()),
            })
        })
        .await
    }

    /// Removes a document of a kind that may go.
    pub(crate) async fn remove(&self, key: &Key) -> Result<(), StateError> {
        let Some(entry) = self.0.store.get(key).await? else {
            return Ok(());
        };
        self.0
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key);
        match self.0.store.delete(key, &entry.version).await {
            // Somebody else has removed it.
            Ok(()) | Err(CasError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn list<T: Document>(&self, kind: &Segment) -> Result<Vec<T>, StateError> {
        let entries = self.entries(kind).await?;
        Ok(entries.into_iter().map(|(_, value)| value).collect())
    }

    async fn entries<T: Document>(&self, kind: &Segment) -> Result<Vec<(Key, T)>, StateError> {
        let prefix = Prefix::kind(&self.0.trust_domain, kind);
        let entries = list_all(&*self.0.store, &prefix).await?;
        entries
            .into_iter()
            .map(|entry| {
                let opened = self.0.seal.open(&entry.key, &entry.value)?;
                let found = Found {
                    stored: entry.value,
                    version: entry.version,
                    opened,
                };
                let value = self.parse(&entry.key, &found)?.value;
                Ok((entry.key, value))
            })
            .collect()
    }
}

struct Found {
    stored: Bytes,
    version: crate::store::Version,
    opened: crate::seal::Opened,
}

#[cfg(test)]
mod tests;
