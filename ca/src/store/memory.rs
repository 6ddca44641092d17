//! A store that lasts as long as the process: for tests, simulation, and a look at a state file.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};

use super::changes::Hub;
use super::table::Table;
use super::{CasError, Changes, Cursor, Entry, Key, Page, Prefix, Store, StoreError, Version};

/// An empty store in memory.
#[derive(Debug, Default)]
pub struct Memory {
    table: Mutex<Table>,
    hub: Hub,
}

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn holding(table: Table) -> Self {
        Self {
            table: Mutex::new(table),
            hub: Hub::default(),
        }
    }

    fn with<R>(&self, act: impl FnOnce(&mut Table) -> R) -> R {
        // A panic between two changes leaves the table as it was after one of them.
        act(&mut self.table.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(
        &self,
        key: &Key,
        expected: Option<&Version>,
        value: Option<Bytes>,
    ) -> Result<Version, CasError> {
        let version = self.with(|table| {
            let change = table.prepare(key, expected, value)?;
            let version = Version::from(change.revision);
            table.apply(change);
            Ok::<_, CasError>(version)
        })?;
        self.hub.notify(key);
        Ok(version)
    }
}

impl Store for Memory {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        ready(Ok(self.with(|table| table.get(key)))).boxed()
    }

    fn compare_and_swap<'a>(
        &'a self,
        key: &'a Key,
        expected: Option<&'a Version>,
        value: Bytes,
    ) -> BoxFuture<'a, Result<Version, CasError>> {
        async move { self.write(key, expected, Some(value)) }.boxed()
    }

    fn delete<'a>(
        &'a self,
        key: &'a Key,
        expected: &'a Version,
    ) -> BoxFuture<'a, Result<(), CasError>> {
        async move { self.write(key, Some(expected), None).map(drop) }.boxed()
    }

    fn list<'a>(
        &'a self,
        prefix: &'a Prefix,
        from: Option<&'a Cursor>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Page, StoreError>> {
        async move { Ok(self.with(|table| table.list(prefix, from, limit))) }.boxed()
    }

    fn changes(&self, prefix: &Prefix) -> Changes {
        self.hub.subscribe(prefix)
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        ready(Ok(())).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::store_conformance!(|| async { Memory::new() });
}
