//! What a store holds, in memory: the whole of [`Memory`](super::Memory), and the part of
//! [`Redb`](super::Redb) that answers reads.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::{CasError, Cursor, Entry, Key, MAX_VALUE, Page, Prefix, StoreError, Version};

/// Entries by the text of their keys, and the number of the last write to any of them.
///
/// That one number serves all keys, so a key that is deleted and made again never meets a
/// version of its earlier life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) revision: u64,
    entries: BTreeMap<String, Row>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    key: Key,
    revision: u64,
    value: Bytes,
}

/// One write that has been found to be in order.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) key: Key,
    pub(super) revision: u64,
    /// `None` removes the entry.
    pub(super) value: Option<Bytes>,
}

impl Table {
    pub(super) fn get(&self, key: &Key) -> Option<Entry> {
        self.entries.get(&key.to_string()).map(Row::entry)
    }

    /// The change that writes `value` over `expected`.
    pub(super) fn prepare(
        &self,
        key: &Key,
        expected: Option<&Version>,
        value: Option<Bytes>,
    ) -> Result<Change, CasError> {
        let size = value.as_ref().map_or(0, Bytes::len);
        if size > MAX_VALUE {
            return Err(StoreError::too_large(key, size).into());
        }
        let stored = self
            .entries
            .get(&key.to_string())
            .map(|row| Version::from(row.revision));
        if stored.as_ref() != expected {
            return Err(CasError::conflict(key));
        }
        Ok(Change {
            key: key.clone(),
            revision: self.revision + 1,
            value,
        })
    }

    pub(super) fn apply(&mut self, change: Change) {
        let Change {
            key,
            revision,
            value,
        } = change;
        self.revision = revision;
        match value {
            Some(value) => self.insert(key, revision, value),
            None => {
                self.entries.remove(&key.to_string());
            }
        }
    }

    pub(super) fn insert(&mut self, key: Key, revision: u64, value: Bytes) {
        self.entries.insert(
            key.to_string(),
            Row {
                key,
                revision,
                value,
            },
        );
    }

    pub(super) fn list(&self, prefix: &Prefix, from: Option<&Cursor>, limit: usize) -> Page {
        let prefix = prefix.to_string();
        let start = match from {
            Some(Cursor(last)) => Bound::Excluded(last.as_str()),
            None => Bound::Included(prefix.as_str()),
        };
        let mut below = self
            .entries
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(text, _)| text.starts_with(&prefix));
        let mut last = None;
        let entries = below
            .by_ref()
            .take(limit.max(1))
            .map(|(text, row)| {
                last = Some(text);
                row.entry()
            })
            .collect();
        let next = match (below.next(), last) {
            (Some(_), Some(last)) => Some(Cursor(last.clone())),
            _ => None,
        };
        Page { entries, next }
    }

    /// Every entry: the key's text, its revision and its value.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&str, u64, &[u8])> {
        self.entries
            .iter()
            .map(|(text, row)| (text.as_str(), row.revision, &row.value[..]))
    }
}

impl Row {
    fn entry(&self) -> Entry {
        Entry {
            key: self.key.clone(),
            version: Version::from(self.revision),
            value: self.value.clone(),
        }
    }
}
