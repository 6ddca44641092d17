//! What can go wrong, by what can be done about it.

use std::io;
use std::path::{Path, PathBuf};

use super::MAX_RECORD;

/// A ledger could not be opened, read or pruned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process writes to it. Stop that one first.
    #[error("the ledger in {0} is in use by another process: stop it first")]
    Locked(PathBuf),
    /// The operating system refused: a full disk, a read-only file system, permissions.
    #[error("can't {action} {path}: {source}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Bytes that were acknowledged once are no longer what they were.
    #[error(
        "{0}; put back an undamaged copy of the file; `arx-ca --config FILE verify-ledger` lists all damage while the authority is stopped, `arx ledger verify` while it runs"
    )]
    Damaged(Problem),
    /// A newer version wrote it, in a way that this one can't read.
    #[error("{file} has format {format}, and this version reads up to {known}: upgrade first")]
    Newer {
        /// The segment.
        file: PathBuf,
        /// The oldest format that a reader has to know.
        format: u16,
        /// The newest one that this version knows.
        known: u16,
    },
    /// The directory holds the ledger of another trust domain.
    #[error("{file} belongs to trust domain {found}, not to {expected}: choose another directory")]
    Foreign {
        /// The segment.
        file: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// The file names have a gap.
    #[error("{0} is missing between others: put it back from a copy")]
    Missing(PathBuf),
    /// The page token belongs to another search, or is none.
    #[error("the page token does not belong to this search: start again without one")]
    Token,
    /// The record that has to come first could not be appended.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The ledger was closed meanwhile.
    #[error("the ledger is closed")]
    Closed,
}

impl Error {
    /// Whether the same may succeed later without anybody changing a file: the disk is full
    /// or read-only.
    #[must_use]
    pub fn passes(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                matches!(Pause::from(source).cause, Cause::DiskFull | Cause::ReadOnly)
            }
            Self::Append(error) => matches!(error, AppendError::Paused(_)),
            _ => false,
        }
    }

    /// The stable reason code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Locked(_) => "ARX-LEDGER-HELD",
            Self::Io { .. } => "ARX-LEDGER-IO",
            Self::Damaged(_) | Self::Missing(_) => "ARX-LEDGER-DAMAGED",
            Self::Newer { .. } => "ARX-LEDGER-NEWER",
            Self::Foreign { .. } => "ARX-LEDGER-FOREIGN",
            Self::Token => "ARX-PAGE-TOKEN",
            Self::Append(error) => error.code(),
            Self::Closed => "ARX-LEDGER-CLOSED",
        }
    }

    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// A place that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: at byte {offset}: {what}", file.display())]
pub struct Problem {
    /// The segment.
    pub file: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// What is wrong.
    pub what: String,
}

/// A record is not in the ledger, and whatever it was to vouch for must not happen.
///
/// Where the disk failed between writing and the confirmation, the record may be found
/// after a crash nevertheless: the ledger can show a certificate that nobody received,
/// never the other way round.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The disk does not take it. Retry later: the ledger goes on by itself when it can.
    #[error("the ledger is paused: {0}")]
    Paused(Pause),
    /// Records come faster than the disk takes them. Retry later.
    #[error("the ledger's queue is full: retry later")]
    Busy,
    /// The same again will fail again.
    #[error("{what} is {length} bytes long, at most {most} fit")]
    TooLarge {
        /// Which part.
        what: &'static str,
        /// Its length.
        length: usize,
        /// The limit.
        most: usize,
    },
    /// The process is about to end.
    #[error("the ledger is closed")]
    Closed,
}

impl AppendError {
    /// The stable reason code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Paused(_) => "ARX-LEDGER-PAUSED",
            Self::Busy => "ARX-LEDGER-BUSY",
            Self::TooLarge { .. } => "ARX-LEDGER-RECORD-TOO-LARGE",
            Self::Closed => "ARX-LEDGER-CLOSED",
        }
    }

    pub(super) fn record_too_large(length: usize) -> Self {
        Self::TooLarge {
            what: "a ledger record",
            length,
            most: MAX_RECORD,
        }
    }
}

/// Why nothing can be appended at the moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{cause}: {detail}")]
pub struct Pause {
    /// What an operator has to look at.
    pub cause: Cause,
    /// What the system said.
    pub detail: String,
}

/// What keeps a ledger from writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// No space or quota left: free some, or prune.
    #[error("the disk is full")]
    DiskFull,
    /// The file system was remounted read-only, which it does after errors.
    #[error("the file system is read-only")]
    ReadOnly,
    /// The segment was removed under the running process; what it held is lost.
    #[error("the segment was removed, restart after putting it back")]
    Removed,
    /// Anything else.
    #[error("writing failed")]
    Io,
}

impl From<&io::Error> for Pause {
    fn from(error: &io::Error) -> Self {
        use io::ErrorKind::{
            FileTooLarge, NotFound, QuotaExceeded, ReadOnlyFilesystem, StorageFull,
        };
        let cause = match error.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => Cause::DiskFull,
            ReadOnlyFilesystem => Cause::ReadOnly,
            NotFound => Cause::Removed,
            _ => Cause::Io,
        };
        Self {
            cause,
            detail: error.to_string(),
        }
    }
}
