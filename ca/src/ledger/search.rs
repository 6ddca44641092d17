//! Finding what was recorded of a serial number or an identity, newest first. The indexes
//! say where to look, the records whether it is there.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::str::FromStr;

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

/// Where a record stands; a later one is greater. It stays true as long as the record is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    segment: u32,
    offset: u32,
}

/// Records with their places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Newest first.
    pub records: Vec<(Place, Entry)>,
    /// There are older ones.
    pub more: bool,
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
        let after = match token {
            "" => None,
            token => Some(token.parse()?),
        };
        let found = self.find(query, size, after)?;
        let last = found.records.last().filter(|_| found.more);
        Ok(Page {
            next: last.map(|(place, _)| place.to_string()),
            records: found.records.into_iter().map(|(_, entry)| entry).collect(),
        })
    }

    /// The same with their places, going on behind one of them. Blocks.
    ///
    /// # Errors
    /// What keeps a segment from being read.
    pub fn find(&self, query: &Query, size: usize, after: Option<Place>) -> Result<Found, Error> {
        let (active, in_active, sealed) = {
            // Together: a segment that is sealed in between would be searched twice.
            let segments = self.0.commits.segments();
            let in_active = segments.pairs.find(query.term());
            (segments.active, in_active, segments.sealed.clone())
        };
        let mut found = Found::default();
        let segments = std::iter::once((active, None)).chain(
            sealed
                .into_iter()
                .rev()
                .map(|(number, length)| (number, Some(length))),
        );
        for (number, length) in segments {
            if after.is_some_and(|last| number > last.segment) {
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
                let place = Place {
                    segment: number,
                    offset,
                };
                if after.is_some_and(|last| place >= last) {
                    continue;
                }
                let (index, body) = body_at(&file, &path, offset)?;
                if !query.fits(&body) {
                    continue;
                }
                if found.records.len() == size.max(1) {
                    found.more = true;
                    return Ok(found);
                }
                let entry = Entry::decode(index, &body);
                found.records.push((place, entry));
            }
        }
        Ok(found)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.segment, self.offset)
    }
}

impl FromStr for Place {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (segment, offset) = text.split_once('.').ok_or(Error::Token)?;
        let parse = |text: &str| text.parse().map_err(|_| Error::Token);
        Ok(Self {
            segment: parse(segment)?,
            offset: parse(offset)?,
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
