//! The newest records, without reading all that stands before them.

use super::Ledger;
use super::error::{Error, Problem};
use super::json::Entry;
use super::segment::{self, Header};
use super::walk::{Step, Walk};

/// How much of a segment's end is read: a record has some 400 bytes.
const PIECE: u64 = 256 * 1024;

impl Ledger {
    /// At most `most` of the newest records, newest first, as far back as the last 256 KiB of
    /// the newest segments reach. Blocks.
    ///
    /// # Errors
    /// What keeps a segment from being read, or where one is damaged.
    pub fn tail(&self, most: usize) -> Result<Vec<Entry>, Error> {
        let (newest, before) = {
            let segments = self.0.commits.segments();
            let newest = (segments.active, segments.length);
            (newest, segments.sealed.last().copied())
        };
        let mut tail = Vec::new();
        for (number, length) in std::iter::once(newest).chain(before) {
            if tail.len() >= most {
                break;
            }
            let entries = match self.end_of(number, length) {
                Err(_) if segment::is_pruned(&self.0.directory, number) => continue,
                entries => entries?,
            };
            tail.extend(entries.into_iter().rev());
        }
        tail.truncate(most);
        Ok(tail)
    }

    /// The last records of a segment, in their order.
    fn end_of(&self, number: u32, length: u64) -> Result<Vec<Entry>, Error> {
        let (file, path) = segment::open(&self.0.directory, number, false)?;
        let first = Header::read(&file, &path)?.length();
        let begin = length.saturating_sub(PIECE).max(first);
        let mut walk = Walk::new(file, begin, length);
        if begin > first {
            // Most likely that is in the middle of a record.
            walk.skip().map_err(Error::io("read", &path))?;
        }
        let mut entries = Vec::new();
        loop {
            match walk.step().map_err(Error::io("read", &path))? {
                Step::Record(item) => entries.push(Entry::decode(item.frame.index, item.body)),
                Step::End => return Ok(entries),
                Step::Broken { offset, what } => {
                    return Err(Error::Damaged(Problem {
                        file: path,
                        offset,
                        what: what.to_owned(),
                    }));
                }
            }
        }
    }
}
