//! A store that fails on demand, around one that does not.
//!
//! What a network does to a store, in the order in which a test asks for it or by the dice of
//! a seed: the code above must come through all of it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::{
    CasError, Changes, Cursor, Entry, Key, Page, Prefix, Shared, Store, StoreError, Version,
};

/// Something that goes wrong once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A write conflicts, as if another writer had been faster.
    Conflict,
    /// A write or read is not done, and says so.
    Unavailable,
    /// A write is done, and its answer is lost.
    LostAnswer,
    /// A write is not done, and its answer is lost.
    LostRequest,
    /// A write's answer is lost, and it is done only just before the next call.
    Late,
    /// A read by key answers what was there before the last write through this store.
    StaleRead,
}

const WRITE_FAULTS: [Fault; 5] = [
    Fault::Conflict,
    Fault::Unavailable,
    Fault::LostAnswer,
    Fault::LostRequest,
    Fault::Late,
];
const READ_FAULTS: [Fault; 2] = [Fault::Unavailable, Fault::StaleRead];

/// A store with faults.
#[derive(Debug)]
pub struct Faulty {
    inner: Shared,
    state: Mutex<State>,
    /// Whether the watch is.
    whole: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    script: VecDeque<Fault>,
    dice: Option<Dice>,
    late: Option<Write>,
    cut: Option<Cut>,
    /// What each key held before the last write through here.
    before: HashMap<Key, Option<Entry>>,
}

/// Where a process loses the store for good.
#[derive(Clone, Copy, Debug)]
struct Cut {
    writes_left: usize,
    fault: Option<Fault>,
}

#[derive(Clone, Debug)]
struct Write {
    key: Key,
    expected: Option<Version>,
    value: Option<Bytes>,
}

#[derive(Debug)]
struct Dice {
    state: u64,
    percent: u64,
}

impl Faulty {
    /// Without faults until told.
    #[must_use]
    pub fn new(inner: Shared) -> Self {
        Self {
            inner,
            state: Mutex::default(),
            whole: watch::Sender::new(true),
        }
    }

    /// With a fault in `percent` of all calls, the same ones for the same seed and calls.
    #[must_use]
    pub fn seeded(inner: Shared, seed: u64, percent: u8) -> Self {
        let this = Self::new(inner);
        this.roll(seed, percent);
        this
    }

    /// From now on.
    pub fn roll(&self, seed: u64, percent: u8) {
        // xorshift stands still at zero.
        self.state().dice = Some(Dice {
            state: seed | 1 << 63,
            percent: percent.into(),
        });
    }

    /// The next call that `fault` can happen to gets it, after those asked for earlier.
    pub fn next(&self, fault: Fault) {
        self.state().script.push_back(fault);
    }

    /// After `writes` more writes, the next one gets `fault`, and from then on nothing is done:
    /// what a process meets that dies there.
    pub fn cut_after(&self, writes: usize, fault: Fault) {
        self.state().cut = Some(Cut {
            writes_left: writes,
            fault: Some(fault),
        });
    }

    /// From now on no change is told, until [`Faulty::heal`] tells of all of them at once.
    pub fn break_watch(&self) {
        self.whole.send_replace(false);
    }

    /// Whether everything that was asked for has happened.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        let state = self.state();
        let cut = state.cut.is_some_and(|cut| cut.fault.is_some());
        state.script.is_empty() && state.late.is_none() && !cut
    }

    /// Ends the faults; a write that is late is done now.
    pub async fn heal(&self) {
        {
            let mut state = self.state();
            state.script.clear();
            state.dice = None;
            state.cut = None;
        }
        self.whole.send_replace(true);
        self.catch_up().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, possible: &[Fault]) -> Option<Fault> {
        let mut state = self.state();
        if let Some(cut) = &mut state.cut {
            let is_write = *possible == WRITE_FAULTS;
            return match cut.fault {
                None => Some(Fault::Unavailable),
                Some(_) if is_write && cut.writes_left == 0 => cut.fault.take(),
                Some(_) => {
                    cut.writes_left -= usize::from(is_write);
                    None
                }
            };
        }
        if let Some(next) = state.script.front()
            && possible.contains(next)
        {
            return state.script.pop_front();
        }
        let dice = state.dice.as_mut()?;
        if dice.roll() % 100 >= dice.percent {
            return None;
        }
        let which = usize::try_from(dice.roll() % possible.len() as u64).ok()?;
        possible.get(which).copied()
    }

    async fn catch_up(&self) {
        let late = self.state().late.take();
        if let Some(write) = late {
            // Whether it still fits is the store's affair.
            let _ = self.perform(write).await;
        }
    }

    async fn perform(&self, write: Write) -> Result<Option<Version>, CasError> {
        let Write {
            key,
            expected,
            value,
        } = write;
        let before = self.inner.get(&key).await?;
        let version = match (value, expected) {
            (Some(value), expected) => Some(
                self.inner
                    .compare_and_swap(&key, expected.as_ref(), value)
                    .await?,
            ),
            (None, Some(expected)) => {
                self.inner.delete(&key, &expected).await?;
                None
            }
            (None, None) => return Err(CasError::conflict(&key)),
        };
        self.state().before.insert(key, before);
        Ok(version)
    }

    async fn write(&self, write: Write) -> Result<Option<Version>, CasError> {
        self.catch_up().await;
        let key = write.key.clone();
        match self.fault(&WRITE_FAULTS) {
            None => self.perform(write).await,
            Some(Fault::Conflict) => Err(CasError::conflict(&key)),
            Some(Fault::LostAnswer) => {
                let _ = self.perform(write).await;
                Err(CasError::unknown(&key, "the answer was lost"))
            }
            Some(Fault::LostRequest) => Err(CasError::unknown(&key, "the request was lost")),
            Some(Fault::Late) => {
                self.state().late = Some(write);
                Err(CasError::unknown(&key, "the request is late"))
            }
            Some(Fault::Unavailable | Fault::StaleRead) => Err(unavailable().into()),
        }
    }
}

impl Dice {
    fn roll(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state >> 16
    }
}

fn unavailable() -> StoreError {
    StoreError::Unavailable {
        place: "the store".to_owned(),
        detail: "a fault".to_owned(),
    }
}

impl Store for Faulty {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        async move {
            self.catch_up().await;
            match self.fault(&READ_FAULTS) {
                Some(Fault::StaleRead) => {
                    let before = self.state().before.get(key).cloned();
                    match before {
                        Some(before) => Ok(before),
                        None => self.inner.get(key).await,
                    }
                }
                Some(_) => Err(unavailable()),
                None => self.inner.get(key).await,
            }
        }
        .boxed()
    }

    fn compare_and_swap<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
        value: Bytes,
    ) -> BoxFuture<'a, Result<Version, CasError>> {
        let write = Write {
            key: key.clone(),
            expected: expected.cloned(),
            value: Some(value),
        };
        async move {
            let version = self.write(write).await?;
            version.ok_or_else(|| CasError::unknown(key, "the store gave no version"))
        }
        .boxed()
    }

    fn delete<'a>(
        &'a self,
        key: &'a Key,
        expected: &'a Version,
    ) -> BoxFuture<'a, Result<(), CasError>> {
        let write = Write {
            key: key.clone(),
            expected: Some(expected.clone()),
            value: None,
        };
        async move { self.write(write).await.map(drop) }.boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a Prefix,
        from: Option<&'a Cursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, StoreError>> {
        async move {
            self.catch_up().await;
            match self.fault(&[Fault::Unavailable]) {
                Some(_) => Err(unavailable()),
                None => self.inner.list(prefix, from, limit).await,
            }
        }
        .boxed()
    }

    fn changes(&self, prefix: &Prefix) -> Changes {
        self.inner.changes(prefix).gated(self.whole.subscribe())
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.probe()
    }
}

impl From<Faulty> for Shared {
    fn from(faulty: Faulty) -> Self {
        Arc::new(faulty)
    }
}

#[cfg(test)]
mod tests;
