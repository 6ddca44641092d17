//! An index without segments below it.

use std::path::PathBuf;

use super::{Live, Place};
use crate::ledger::Record;
use crate::ledger::codec;

impl Live {
    /// An index of these records, which are kept elsewhere: everything but
    /// [`Self::page`] answers. For tests that have no ledger.
    #[doc(hidden)]
    #[must_use]
    pub fn without_files(records: impl IntoIterator<Item = Record>) -> Self {
        let live = Self::new(PathBuf::new());
        live.set_ready();
        live.note(records);
        live
    }

    /// More records of an index [`Self::without_files`].
    #[doc(hidden)]
    pub fn note(&self, records: impl IntoIterator<Item = Record>) {
        for record in records {
            let body = codec::encode(record);
            self.add(codec::outline(&body), Place::new(0, 0));
        }
    }
}
