//! Where in a segment a serial number or an identity stands: pairs of a short hash and an
//! offset, sorted. The newest segment's pairs are in memory; each sealed segment has them
//! in a file of its own beside it, which is made again when it is missing or damaged.
//!
//! A hash can be shared, so whoever searches looks at the record itself.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use arx_daemon::files::write_atomically;
use arx_identity::crypto::sha256;

use super::codec::{Kind, Outline};
use super::error::Error;

const MAGIC: [u8; 8] = *b"ARXLIDX1";
/// `magic | length of the segment u64 | first and last time u64 | latest end u64 |
/// epoch u64 | number u64 | pairs u64`, little-endian; then the pairs, then a hash of it all.
const HEAD: usize = 64;
const PAIR: usize = 12;
const HASH: usize = 32;
/// Pairs that are read at once where many are wanted.
const PIECE: usize = 340;

/// What is known of a segment without reading it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    /// Time of its first and its last record, ms.
    pub(super) times: Option<(u64, u64)>,
    /// When the last certificate ends that was issued or released in it, ms; 0 if none was.
    pub(super) ends_ms: u64,
    /// The highest bundle sequence that it names.
    pub(super) sequence: (u64, u64),
}

/// The pairs of a segment that is being written, and its summary.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    pairs: Vec<(u64, u32)>,
    pub(super) summary: Summary,
}

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Term<'a> {
    Serial(&'a [u8]),
    Identity(&'a str),
}

impl Term<'_> {
    fn hash(self) -> u64 {
        let (kind, bytes) = match self {
            Self::Serial(serial) => (b's', serial),
            Self::Identity(identity) => (b'i', identity.as_bytes()),
        };
        let mut keyed = Vec::with_capacity(1 + bytes.len());
        keyed.push(kind);
        keyed.extend_from_slice(bytes);
        let hash = sha256(&keyed);
        u64::from_le_bytes(*hash.first_chunk().expect("a hash has 32 bytes"))
    }
}

impl Pairs {
    /// Takes the record at `offset` into account.
    pub(super) fn add(&mut self, outline: &Outline<'_>, offset: u64) {
        let time = outline.time_ms;
        let (first, last) = self.summary.times.unwrap_or((time, time));
        self.summary.times = Some((first.min(time), last.max(time)));
        match &outline.kind {
            Kind::Issued(leaf) => {
                self.put(Term::Serial(leaf.serial), offset);
                self.put(Term::Identity(leaf.spiffe_id), offset);
                self.summary.ends_ms = self.summary.ends_ms.max(leaf.not_after_ms);
                self.summary.sequence = self.summary.sequence.max(leaf.bundle);
            }
            Kind::Refused { who } if !who.is_empty() => self.put(Term::Identity(who), offset),
            Kind::Intermediate { serial } => self.put(Term::Serial(serial), offset),
            Kind::Released {
                serial,
                not_after_ms,
            } => {
                self.put(Term::Serial(serial), offset);
                // Skipping this segment while the certificate lives would revive it.
                self.summary.ends_ms = self.summary.ends_ms.max(*not_after_ms);
            }
            Kind::Published { bundle } => {
                self.summary.sequence = self.summary.sequence.max(*bundle);
            }
            Kind::Refused { .. } | Kind::Other | Kind::Unknown => {}
        }
    }

    fn put(&mut self, term: Term<'_>, offset: u64) {
        // A segment ends soon after its limit, which is far below 4 GiB.
        self.pairs
            .push((term.hash(), u32::try_from(offset).unwrap_or(u32::MAX)));
    }

    /// Where `term` may stand, newest first.
    pub(super) fn find(&self, term: Term<'_>) -> Vec<u32> {
        let hash = term.hash();
        let found = self.pairs.iter().rev().filter(|(other, _)| *other == hash);
        found.map(|(_, offset)| *offset).collect()
    }

    /// Writes the index of a segment that is `length` long.
    pub(super) fn seal(mut self, segment: &Path, length: u64) -> Result<(), Error> {
        self.pairs.sort_unstable();
        let mut bytes = Vec::with_capacity(HEAD + self.pairs.len() * PAIR + HASH);
        bytes.extend_from_slice(&MAGIC);
        let (first, last) = self.summary.times.unwrap_or_default();
        let (epoch, number) = self.summary.sequence;
        for word in [
            length,
            first,
            last,
            self.summary.ends_ms,
            epoch,
            number,
            self.pairs.len() as u64,
        ] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        for (hash, offset) in &self.pairs {
            bytes.extend_from_slice(&hash.to_le_bytes());
            bytes.extend_from_slice(&offset.to_le_bytes());
        }
        bytes.extend_from_slice(&sha256(&bytes));
        let path = path(segment);
        write_atomically(&path, &bytes, 0o600).map_err(Error::io("write", &path))
    }
}

/// Writes the index of a sealed segment, or says why not.
pub(super) fn write(pairs: Pairs, segment: &Path, length: u64) {
    if let Err(error) = pairs.seal(segment, length) {
        tracing::warn!(code = "ARX-LEDGER-INDEX", %error, "the index of a segment could not be written: it is made again when it is needed");
    }
}

/// Where the index of a segment lies.
pub(super) fn path(segment: &Path) -> PathBuf {
    segment.with_extension("idx")
}

/// The index of a sealed segment.
#[derive(Debug)]
pub(super) struct Index {
    file: File,
    pairs: u64,
    pub(super) summary: Summary,
}

impl Index {
    /// Opens the index of `segment`, which is `length` long; `None` if there is none that
    /// belongs to it. With `whole`, every byte of it is verified.
    pub(super) fn open(segment: &Path, length: u64, whole: bool) -> Option<Self> {
        let file = File::open(path(segment)).ok()?;
        let size = file.metadata().ok()?.len();
        let mut head = [0; HEAD];
        file.read_exact_at(&mut head, 0).ok()?;
        let words = head.strip_prefix(&MAGIC)?.chunks_exact(8);
        let words: Vec<u64> = words
            .filter_map(|word| Some(u64::from_le_bytes(*word.first_chunk()?)))
            .collect();
        let [of, first, last, ends_ms, epoch, number, pairs] = words[..] else {
            return None;
        };
        let expected = pairs
            .checked_mul(PAIR as u64)?
            .checked_add((HEAD + HASH) as u64)?;
        if of != length || size != expected {
            return None;
        }
        if whole {
            let mut bytes = vec![0; usize::try_from(size).ok()?];
            file.read_exact_at(&mut bytes, 0).ok()?;
            let (content, hash) = bytes.split_at(bytes.len() - HASH);
            if sha256(content) != hash {
                return None;
            }
        }
        let times = (first != 0 || last != 0).then_some((first, last));
        Some(Self {
            file,
            pairs,
            summary: Summary {
                times,
                ends_ms,
                sequence: (epoch, number),
            },
        })
    }

    /// Where `term` may stand, newest first.
    pub(super) fn find(&self, term: Term<'_>) -> io::Result<Vec<u32>> {
        let hash = term.hash();
        let (mut low, mut high) = (0, self.pairs);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.pair(middle)?.0 < hash {
                low = middle + 1
            } else {
                high = middle
            }
        }
        let mut found = Vec::new();
        'pieces: while low < self.pairs {
            // An identity may have as many as the segment has records.
            let piece = usize::try_from(self.pairs - low).map_or(PIECE, |left| left.min(PIECE));
            let mut bytes = vec![0; piece * PAIR];
            self.file.read_exact_at(&mut bytes, place(low))?;
            for bytes in bytes.chunks_exact(PAIR) {
                let (other, offset) = pair(bytes.first_chunk().unwrap_or(&[0; PAIR]));
                if other != hash {
                    break 'pieces;
                }
                found.push(offset);
            }
            low += piece as u64;
        }
        found.reverse();
        Ok(found)
    }

    fn pair(&self, number: u64) -> io::Result<(u64, u32)> {
        let mut bytes = [0; PAIR];
        self.file.read_exact_at(&mut bytes, place(number))?;
        Ok(pair(&bytes))
    }
}

/// Where a pair lies in the file.
fn place(number: u64) -> u64 {
    HEAD as u64 + number * PAIR as u64
}

fn pair(bytes: &[u8; PAIR]) -> (u64, u32) {
    let [h0, h1, h2, h3, h4, h5, h6, h7, offset @ ..] = *bytes;
    (
        u64::from_le_bytes([h0, h1, h2, h3, h4, h5, h6, h7]),
        u32::from_le_bytes(offset),
    )
}
