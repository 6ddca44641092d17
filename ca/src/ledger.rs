//! The record of everything that was decided: append-only segments in a directory, made
//! durable in groups, each record chained to the one before by its hash.
//!
//! An answer may leave the house only after [`Ledger::append`] has returned for its
//! records. What is here is never changed; old segments are removed by policy, and the
//! chain verifies from the first that remains.
//!
//! Appending waits for the disk without blocking. Everything else that reads segments
//! blocks, and says so.

mod codec;
mod commit;
mod distrusted;
mod error;
mod export;
mod follow;
mod frame;
mod index;
mod json;
mod live;
mod mark;
mod open;
mod prune;
mod published;
mod record;
mod search;
mod segment;
mod tail;
mod verify;
mod walk;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arx_identity::{Sequence, TrustDomain};
use tokio::sync::watch;

pub use codec::Content;
pub use commit::{Announced, Prepared, Receipt};
pub use distrusted::DISTRUSTED;
pub use error::{AppendError, Cause, Error, Pause, Problem};
pub use export::Export;
pub use follow::{Follow, Piece};
pub use json::Entry;
pub use live::{Ending, Holder, Live, LiveFilter, LiveLeaf, LivePage, NodeLine};
pub use open::{Recovery, Torn};
pub use prune::Removed;
pub use record::{
    Event, IntermediateRegistered, Issued, KeyId, MAX_KEY_ID, MAX_SERIAL, Operator, Pruned,
    Published, Record, Refused, Released, Rotation, Validity,
};
pub use search::{Found, Page, Place, Query};
pub use verify::Report;

use commit::Commits;

/// Longest record, encoded, in bytes.
pub const MAX_RECORD: usize = frame::MAX_BODY;

/// How a ledger is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where its segments lie. One ledger per directory; made if it is not there.
    pub directory: PathBuf,
    /// Whose ledger it is.
    pub trust_domain: TrustDomain,
    /// A segment that has reached this size, or 2 GiB, is sealed, and another one begun.
    pub segment_bytes: u64,
    /// How long a commit waits for records that were announced.
    pub gather: Duration,
}

/// A ledger that is open for appending. Clones are the same ledger.
#[derive(Clone)]
pub struct Ledger(Arc<Inner>);

struct Inner {
    directory: PathBuf,
    commits: Commits,
    live: Live,
    /// Held as long as the ledger is open.
    _lock: std::fs::File,
}

/// A ledger in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Records that are durable, those in removed segments included.
    pub records: u64,
    /// Segments that are there.
    pub segments: u32,
    /// Bytes of all segments that are there.
    pub bytes: u64,
    /// The hash that everything up to now is chained to.
    pub head: [u8; 32],
}

impl Ledger {
    /// Opens the ledger, or begins it, and starts its thread. A record that was torn by a
    /// crash is cut. Blocks on the disk for as long as it takes to read the newest segment.
    ///
    /// # Errors
    /// [`Error`] if another process has it, or it is damaged, of a newer version or another
    /// trust domain's; then nothing was changed.
    pub fn open(options: Options, now: SystemTime) -> Result<(Self, Recovery), Error> {
        open::open(options, now)
    }

    /// Says that a record is about to come: a commit waits for it, but not longer than
    /// [`Options::gather`]. Drop it after [`Ledger::append`] was called.
    #[must_use]
    pub fn announce(&self) -> Announced {
        self.0.commits.announce()
    }

    /// Appends all of `records`, of which there are at most 20,000, in one commit. They are queued when this returns; they are
    /// durable when the future has returned.
    ///
    /// # Errors
    /// [`AppendError`]: then none of them counts as recorded.
    pub fn append(
        &self,
        records: Vec<Record>,
    ) -> impl Future<Output = Result<Receipt, AppendError>> + Send + use<> {
        let queued = commit::prepare(records).and_then(|records| self.0.commits.queue(records));
        async move { queued?.await }
    }

    /// The same for records that were [prepared](Record::prepare).
    ///
    /// # Errors
    /// [`AppendError`]: then none of them counts as recorded.
    pub fn append_prepared(
        &self,
        records: Vec<Prepared>,
    ) -> impl Future<Output = Result<Receipt, AppendError>> + Send + use<> {
        let queued = self.0.commits.queue(records);
        async move { queued?.await }
    }

    /// Why nothing can be appended, as long as that is so.
    #[must_use]
    pub fn paused(&self) -> watch::Receiver<Option<Pause>> {
        self.0.commits.paused()
    }

    /// The ledger in numbers.
    #[must_use]
    pub fn status(&self) -> Status {
        self.0.commits.status()
    }

    /// The highest bundle sequence that was handed out, or that any certificate was issued under,
    /// as far as the segments that are there tell.
    #[must_use]
    pub fn last_sequence(&self) -> Option<Sequence> {
        self.0.commits.sequence()
    }

    /// The same of a directory that may be open elsewhere. Writes nothing. Blocks.
    ///
    /// # Errors
    /// What keeps a segment from being read.
    pub fn peek_sequence(directory: &Path) -> Result<Option<Sequence>, Error> {
        open::peek_sequence(directory)
    }

    /// The certificates that are valid.
    #[must_use]
    pub fn live(&self) -> Live {
        self.0.live.clone()
    }

    /// Commits what is queued and ends the thread. Blocks until that is done.
    pub fn close(&self) {
        self.0.commits.close();
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ledger({})", self.0.directory.display())
    }
}

#[cfg(test)]
mod tests;
