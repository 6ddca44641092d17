//! Finding what was recorded of a serial number or an identity, newest first. The indexes
//! say where to look, the records whether it is there.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::codec::{self, Kind};
use super::error::{Error, Problem};
use super::frame::{self, CHAIN, Read};
use super::index::{Index, Term};
use super::json::Entry;
use super::{Ledger, index, open, segment};

/// What is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// A serial number: big-endian, without leading zeros.
    Serial(Vec<u8>),
    /// A SPIFFE id, whole.
    Identity(String),
}

/// A part of what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Newest first.
    pub records: Vec<Entry>,
    /// Where the next page begins; `None` if this is the last.
    pub next: Option<String>,
}

impl Query {
    fn term(&self) -> Term<'_> {
        match self {
            Self::Serial(serial) => Term::Serial(serial),
            Self::Identity(identity) => Term::Identity(identity),
        }
    }

    fn fits(&self, body: &[u8]) -> bool {
        match (self, codec::outline(body).kind) {
            (Self::Serial(wanted), Kind::Issued(leaf)) => leaf.serial == *wanted,
            (
                Self::Serial(wanted),
                Kind::Intermediate { serial } | Kind::Released { serial, .. },
            ) => serial == *wanted,
            (Self::Identity(wanted), Kind::Issued(leaf)) => leaf.spiffe_id == *wanted,
            (Self::Identity(wanted), Kind::Refused { who }) => who == *wanted,
            _ => false,
        }
    }
}

impl Ledger {
    /// At most `size` records that are about `query`, going on from `token`. Blocks.
    ///
    /// # Errors
    /// [`Error::Token`] if the token is none of a search, and what keeps a segment from
    /// being read.
    pub fn search(&self, query: &Query, size: usize, token: &str) -> Result<Page, Error> {
        let from = decode_token(token)?;
        let (active, in_active, sealed) = {
            // Together: a segment that is sealed in between would be searched twice.
            let segments = self.0.commits.segments();
            let in_active = segments.pairs.find(query.term());
            (segments.active, in_active, segments.sealed.clone())
        };
        let mut records = Vec::new();
        let mut last = None;
        let segments = std::iter::once((active, None)).chain(
            sealed
                .into_iter()
                .rev()
                .map(|(number, length)| (number, Some(length))),
        );
        for (number, length) in segments {
            if from.is_some_and(|(last, _)| number > last) {
                continue;
            }
            let path = segment::path(&self.0.directory, number);
            let offsets = match length {
                None => Ok(in_active.clone()),
                Some(length) => find(&path, length, query.term()),
            };
            let opened = offsets.and_then(|offsets| {
                let file = File::open(&path).map_err(Error::io("open", &path))?;
                Ok((offsets, file))
            });
            let (offsets, file) = match opened {
                Err(_) if segment::is_pruned(&self.0.directory, number) => continue,
                opened => opened?,
            };
            for offset in offsets {
                if from.is_some_and(|last| (number, offset) >= last) {
                    continue;
                }
                let (index, body) = body_at(&file, &path, offset)?;
                if !query.fits(&body) {
                    continue;
                }
                if records.len() == size.max(1) {
                    return Ok(Page {
                        records,
                        next: last,
                    });
                }
                records.push(Entry::decode(index, &body));
                last = Some(format!("{number}.{offset}"));
            }
        }
        Ok(Page {
            records,
            next: None,
        })
    }
}

/// Where `term` may stand in a sealed segment, newest first.
fn find(path: &Path, length: u64, term: Term<'_>) -> Result<Vec<u32>, Error> {
    if let Some(index) = Index::open(path, length, false)
        && let Ok(found) = index.find(term)
    {
        return Ok(found);
    }
    let pairs = open::pairs_of(path, length)?;
    let found = pairs.find(term);
    index::write(pairs, path, length);
    Ok(found)
}

/// The record whose frame begins at `offset`.
pub(super) fn read_at(file: &File, path: &Path, offset: u32) -> Result<Entry, Error> {
    let (index, body) = body_at(file, path, offset)?;
    Ok(Entry::decode(index, &body))
}

fn body_at(file: &File, path: &Path, offset: u32) -> Result<(u64, Vec<u8>), Error> {
    let start = u64::from(offset).saturating_sub(CHAIN as u64);
    let mut wanted = 1024;
    loop {
        let mut bytes = vec![0; wanted];
        let filled = fill(file, &mut bytes, start).map_err(Error::io("read", path))?;
        match frame::read(&bytes[..filled]) {
            Read::Whole(frame) => return Ok((frame.index, frame.body(&bytes).to_vec())),
            Read::Short(needed) if needed > wanted => wanted = needed,
            Read::Short(_) => return Err(damaged(path, offset, "the record is cut off")),
            Read::Broken(what) => return Err(damaged(path, offset, what)),
        }
    }
}

fn fill(file: &File, bytes: &mut [u8], start: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], start + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn damaged(path: &Path, offset: u32, what: &str) -> Error {
    Error::Damaged(Problem {
        file: path.to_owned(),
        offset: offset.into(),
        what: what.to_owned(),
    })
}

fn decode_token(token: &str) -> Result<Option<(u32, u32)>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    let (segment, offset) = token.split_once('.').ok_or(Error::Token)?;
    let parse = |text: &str| text.parse().map_err(|_| Error::Token);
    Ok(Some((parse(segment)?, parse(offset)?)))
}
