//! Records one after the other from a place on, as they become durable: for whoever gathers them
//! elsewhere.

use std::fmt;

use super::Ledger;
use super::error::{Error, Problem};
use super::json::Entry;
use super::segment::{self, Header};
use super::walk::{Step, Walk};

/// Size of a piece, about.
const PIECE: usize = 64 * 1024;

/// A reader that comes back for more.
pub struct Follow {
    ledger: Ledger,
    /// The next record that is wanted.
    next: u64,
    /// Where that begins, if it was looked for.
    at: Option<(u32, u64)>,
}

/// Some records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Whole lines, one JSON object each.
    pub lines: Vec<u8>,
    /// The record that follows them.
    pub next: u64,
    /// Records before them that were removed before they were read.
    pub missed: u64,
}

impl Ledger {
    /// Follows from this record on.
    #[must_use]
    pub fn follow(&self, next: u64) -> Follow {
        Follow {
            ledger: self.clone(),
            next,
            at: None,
        }
    }
}

impl Follow {
    /// What comes next; `None` while there is nothing more. Blocks.
    ///
    /// # Errors
    /// What keeps a segment from being read, or where one is damaged. It may be asked again.
    pub fn next_piece(&mut self) -> Result<Option<Piece>, Error> {
        let directory = self.ledger.0.directory.clone();
        let segments = {
            let segments = self.ledger.0.commits.segments();
            let newest = (segments.active, segments.length);
            let sealed = segments.sealed.iter().copied();
            sealed.chain([newest]).collect::<Vec<_>>()
        };
        let wanted = self.next;
        let mut piece = Piece {
            lines: Vec::new(),
            next: wanted,
            missed: 0,
        };
        let (mut number, mut offset) = match self.at {
            Some(at) => at,
            None => self.find(&segments)?,
        };
        for (known, length) in segments {
            if known < number {
                continue;
            }
            let (file, path) = match segment::open(&directory, known, false) {
                Err(_) if segment::is_pruned(&directory, known) => continue,
                opened => opened?,
            };
            let header = Header::read(&file, &path)?;
            if known > number || offset == 0 {
                (number, offset) = (known, header.length());
            }
            let mut walk = Walk::new(file, offset, length);
            while piece.lines.len() < PIECE {
                match walk.step().map_err(Error::io("read", &path))? {
                    Step::Record(item) if item.frame.index < piece.next => {}
                    Step::Record(item) => {
                        piece.missed += item.frame.index - piece.next;
                        piece.next = item.frame.index + 1;
                        let entry = Entry::decode(item.frame.index, item.body);
                        piece.lines.extend_from_slice(entry.to_json().as_bytes());
                        piece.lines.push(b'\n');
                    }
                    Step::End => break,
                    Step::Broken { offset, what } => {
                        return Err(Error::Damaged(Problem {
                            file: path,
                            offset,
                            what: what.to_owned(),
                        }));
                    }
                }
            }
            offset = walk.offset();
            if piece.lines.len() >= PIECE {
                break;
            }
        }
        self.at = Some((number, offset));
        self.next = piece.next;
        Ok((!piece.lines.is_empty()).then_some(piece))
    }

    /// The segment in which the wanted record is, or the first that is left; read from its front.
    fn find(&self, segments: &[(u32, u64)]) -> Result<(u32, u64), Error> {
        let mut found = segments.first().map_or(0, |(number, _)| *number);
        for (number, _) in segments {
            let (file, path) = match segment::open(&self.ledger.0.directory, *number, false) {
                Err(_) if segment::is_pruned(&self.ledger.0.directory, *number) => continue,
                opened => opened?,
            };
            if Header::read(&file, &path)?.first > self.next {
                break;
            }
            found = *number;
        }
        Ok((found, 0))
    }
}

impl fmt::Debug for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Follow from {}", self.next)
    }
}
