//! Opening a ledger: who may, what is whole, and what a crash has left.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arx_identity::Sequence;
use rustix::fs::{FlockOperation, flock};

use super::codec::{self, Kind};
use super::commit::{Commits, Segments, Writer};
use super::error::{Error, Problem};
use super::frame::Chain;
use super::index::{self, Index, Pairs, Summary};
use super::live::{Live, Place};
use super::prune::SKEW_MS;
use super::record::to_millis;
use super::segment::{self, Header};
use super::walk::{Step, Walk, acknowledged_after};
use super::{Inner, Ledger, Options};

/// Offsets have 32 bits, and a segment ends only after its limit.
const MAX_SEGMENT: u64 = 2 * 1024 * 1024 * 1024;

/// What opening has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Records that are there, those in removed segments counted.
    pub records: u64,
    /// What was cut.
    pub torn: Option<Torn>,
}

/// The end of the newest segment was not a whole record: a crash came between writing it
/// and acknowledging it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// The segment.
    pub file: PathBuf,
    /// Where it was cut.
    pub offset: u64,
    /// How many bytes were cut.
    pub bytes: u64,
}

impl fmt::Display for Torn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes of {} from byte {} on",
            self.bytes,
            self.file.display(),
            self.offset
        )
    }
}

pub(super) fn open(options: Options, now: SystemTime) -> Result<(Ledger, Recovery), Error> {
    let directory = &options.directory;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(Error::io("make", directory))?;
    let lock = lock(directory)?;
    let domain = options.trust_domain.as_str();
    let mut numbers = segment::list(directory)?;
    let live = Live::new(directory.clone());
    let Some(newest) = numbers.pop() else {
        let header = Header {
            number: 1,
            first: 0,
            previous: [0; 32],
            trust_domain: domain.to_owned(),
        };
        let (file, head) = segment::create(directory, &header)?;
        if let Some(above) = directory.parent().filter(|above| *above != Path::new("")) {
            segment::sync_directory(above)?;
        }
        let segments = Segments {
            directory: directory.clone(),
            trust_domain: domain.to_owned(),
            sealed: Vec::new(),
            active: 1,
            length: header.length(),
            pairs: Pairs::default(),
            records: 0,
            head,
            sequence: (0, 0),
        };
        live.set_ready();
        return start(options, lock, segments, file, live, Recovery::default());
    };

    let (file, path) = segment::open(directory, newest, true)?;
    let header = header(&file, &path, domain)?;
    let found = newest_segment(&file, &path, &header)?;
    let torn = found.torn.map(|bytes| Torn {
        file: path.clone(),
        offset: found.length,
        bytes,
    });
    if torn.is_some() {
        file.set_len(found.length)
            .map_err(Error::io("cut", &path))?;
    }
    // A process that was killed may have left whole records that are not durable, and what
    // comes next is chained to them.
    file.sync_all().map_err(Error::io("sync", &path))?;
    let (sealed, sequence) = sealed_segments(directory, &numbers, &found.pairs.summary)?;
    let recovery = Recovery {
        records: found.records,
        torn,
    };
    let segments = Segments {
        directory: directory.clone(),
        trust_domain: domain.to_owned(),
        sealed: sealed.clone(),
        active: newest,
        length: found.length,
        pairs: found.pairs,
        records: found.records,
        head: found.head,
        sequence,
    };
    let older = (directory.clone(), live.clone(), to_millis(now));
    let newest = (newest, found.length);
    let read = move || read_all(&older.0, &sealed, newest, &older.1, older.2);
    std::thread::Builder::new()
        .name("ledger reader".to_owned())
        .spawn(read)
        .map_err(Error::io("start a thread for", directory))?;
    start(options, lock, segments, file, live, recovery)
}

/// Number and length of the sealed segments, and the highest sequence that they name.
type Sealed = (Vec<(u32, u64)>, (u64, u64));

fn sealed_segments(directory: &Path, numbers: &[u32], newest: &Summary) -> Result<Sealed, Error> {
    let mut sealed = Vec::with_capacity(numbers.len());
    let mut sequence = newest.sequence;
    for number in numbers.iter().rev() {
        let (file, path) = segment::open(directory, *number, false)?;
        let length = segment::length(&file, &path)?;
        sealed.push((*number, length));
        if let Some(index) = Index::open(&path, length, false) {
            sequence = sequence.max(index.summary.sequence);
        } else if sequence == (0, 0) {
            // Sequences only grow, so one without index matters if nothing newer tells.
            sequence = summary_of(&path, length, false)?.sequence;
        }
    }
    sealed.reverse();
    Ok((sealed, sequence))
}

fn start(
    options: Options,
    lock: File,
    segments: Segments,
    file: File,
    live: Live,
    recovery: Recovery,
) -> Result<(Ledger, Recovery), Error> {
    let writer = Writer {
        file,
        live: live.clone(),
        segment_bytes: options.segment_bytes.min(MAX_SEGMENT),
        gather: options.gather,
    };
    let commits = Commits::start(segments, writer)
        .map_err(Error::io("start a thread for", &options.directory))?;
    let inner = Inner {
        directory: options.directory,
        commits,
        live,
        _lock: lock,
    };
    Ok((Ledger(Arc::new(inner)), recovery))
}

/// Keeps other processes out until the file is closed.
fn lock(directory: &Path) -> Result<File, Error> {
    let path = directory.join("lock");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&path).map_err(Error::io("open", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Locked(directory.to_owned())),
        Err(error) => Err(Error::io("lock", &path)(error.into())),
    }
}

/// The header of a segment that has to be of this trust domain.
pub(super) fn header(file: &File, path: &Path, trust_domain: &str) -> Result<Header, Error> {
    let header = Header::read(file, path)?;
    if header.trust_domain != trust_domain {
        return Err(Error::Foreign {
            file: path.to_owned(),
            found: header.trust_domain,
            expected: trust_domain.to_owned(),
        });
    }
    Ok(header)
}

struct Found {
    length: u64,
    records: u64,
    head: Chain,
    pairs: Pairs,
    torn: Option<u64>,
}

/// Reads the newest segment: what is whole at its beginning stays.
fn newest_segment(file: &File, path: &Path, header: &Header) -> Result<Found, Error> {
    let length = segment::length(file, path)?;
    let own = file.try_clone().map_err(Error::io("read", path))?;
    let mut walk = Walk::new(own, header.length(), length);
    let mut pairs = Pairs::default();
    let mut records = header.first;
    let damaged = |offset, what: &str| {
        Error::Damaged(Problem {
            file: path.to_owned(),
            offset,
            what: what.to_owned(),
        })
    };
    loop {
        match walk.step().map_err(Error::io("read", path))? {
            Step::Record(item) => {
                if item.frame.index != records {
                    return Err(damaged(item.offset, "a record is missing before this one"));
                }
                records += 1;
                pairs.add(&codec::outline(item.body), item.offset);
            }
            Step::End => {
                let head = walk.chain().map_err(Error::io("read", path))?;
                return Ok(Found {
                    length,
                    records,
                    head,
                    pairs,
                    torn: None,
                });
            }
            Step::Broken { offset, what } => {
                let head = walk.chain().map_err(Error::io("read", path))?;
                if acknowledged_after(&mut walk, offset).map_err(Error::io("read", path))? {
                    return Err(damaged(offset, what));
                }
                return Ok(Found {
                    length: offset,
                    records,
                    head,
                    pairs,
                    torn: Some(length - offset),
                });
            }
        }
    }
}

/// The pairs of a sealed segment, read from the segment itself.
pub(super) fn pairs_of(path: &Path, length: u64) -> Result<Pairs, Error> {
    let mut pairs = Pairs::default();
    each_record(path, length, |outline, offset| pairs.add(&outline, offset))?;
    Ok(pairs)
}

/// The summary of a sealed segment. Makes its index again if that is missing or damaged.
pub(super) fn summary_of(path: &Path, length: u64, whole: bool) -> Result<Summary, Error> {
    if let Some(index) = Index::open(path, length, whole) {
        return Ok(index.summary);
    }
    let pairs = pairs_of(path, length)?;
    let summary = pairs.summary;
    index::write(pairs, path, length);
    Ok(summary)
}

/// Takes what is whole, and answers whether all of it was.
fn each_record(
    path: &Path,
    length: u64,
    mut take: impl FnMut(codec::Outline<'_>, u64),
) -> Result<bool, Error> {
    let mut whole = true;
    let file = File::open(path).map_err(Error::io("open", path))?;
    let header = Header::read(&file, path)?;
    let mut walk = Walk::new(file, header.length(), length);
    loop {
        match walk.step().map_err(Error::io("read", path))? {
            Step::Record(item) => take(codec::outline(item.body), item.offset),
            Step::End => return Ok(whole),
            Step::Broken { offset, what } => {
                whole = false;
                // `verify` tells the rest.
                tracing::error!(code = "ARX-LEDGER-DAMAGED", file = %path.display(), offset, what, "a segment is damaged");
                walk.skip().map_err(Error::io("read", path))?;
            }
        }
    }
}

/// The highest bundle sequence that the newest segments of a directory name; nothing is
/// written. Blocks.
///
/// # Errors
/// What keeps a segment from being read.
pub(super) fn peek_sequence(directory: &Path) -> Result<Option<Sequence>, Error> {
    if !directory.exists() {
        return Ok(None);
    }
    for number in segment::list(directory)?.into_iter().rev() {
        let (file, path) = segment::open(directory, number, false)?;
        let length = segment::length(&file, &path)?;
        let (epoch, number) = pairs_of(&path, length)?.summary.sequence;
        if epoch > 0 {
            return Ok(Some(Sequence { epoch, number }));
        }
    }
    Ok(None)
}

/// Fills the index of valid certificates, from the newest segment as it was at the start
/// back to the first. Nothing that is issued waits for it.
fn read_all(directory: &Path, sealed: &[(u32, u64)], newest: (u32, u64), live: &Live, now_ms: u64) {
    // The clock may be ahead, and be put right.
    let since_ms = now_ms.saturating_sub(SKEW_MS);
    for (number, length) in sealed.iter().chain(std::iter::once(&newest)).rev() {
        let path = segment::path(directory, *number);
        let ended = if *number == newest.0 {
            Ok(false)
        } else {
            summary_of(&path, *length, true).map(|summary| summary.ends_ms < since_ms)
        };
        let read = ended.and_then(|ended| {
            if ended {
                return Ok(true);
            }
            each_record(&path, *length, |outline, offset| {
                let ended =
                    matches!(&outline.kind, Kind::Issued(leaf) if leaf.not_after_ms < since_ms);
                if !ended {
                    live.add(outline, Place::new(*number, offset));
                }
            })
        });
        // In both cases the count of valid certificates would be too low, and gates rely
        // on it.
        match read {
            Ok(true) => {}
            Err(_) if segment::is_pruned(directory, *number) => {}
            Ok(false) => {
                live.set_failed(format!("{} is damaged", path.display()));
                tracing::error!(code = "ARX-LEDGER-DAMAGED", file = %path.display(), "the index of valid certificates is not complete: put back an undamaged copy and restart");
                return;
            }
            Err(error) => {
                live.set_failed(error.to_string());
                tracing::error!(code = error.code(), %error, "the index of valid certificates is not complete");
                return;
            }
        }
    }
    live.set_ready();
}
