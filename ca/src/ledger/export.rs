//! All records of a span of time as JSON lines, a chunk at a time.

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;
use std::time::SystemTime;

use super::codec;
use super::error::{Error, Problem};
use super::json::Entry;
use super::record::to_millis;
use super::segment::{self, Header};
use super::walk::{Step, Walk};
use super::{Ledger, open};

/// Size of a chunk, about.
const CHUNK: usize = 64 * 1024;

/// An export under way. What is appended after its beginning is not in it.
pub struct Export {
    directory: PathBuf,
    segments: VecDeque<(u32, u64)>,
    current: Option<(PathBuf, Walk)>,
    since_ms: u64,
    until_ms: u64,
}

impl Ledger {
    /// Begins to export what was recorded from `since` on and before `until`. Blocks.
    ///
    /// # Errors
    /// What keeps a segment from being read.
    pub fn export(&self, since: SystemTime, until: SystemTime) -> Result<Export, Error> {
        let (since_ms, until_ms) = (to_millis(since), to_millis(until));
        let (sealed, newest) = {
            let segments = self.0.commits.segments();
            (segments.sealed.clone(), (segments.active, segments.length))
        };
        let mut segments = VecDeque::new();
        for (number, length) in sealed {
            let path = segment::path(&self.0.directory, number);
            let times = match open::summary_of(&path, length, false) {
                Err(_) if segment::is_pruned(&self.0.directory, number) => continue,
                summary => summary?.times,
            };
            if times.is_some_and(|(first, last)| last >= since_ms && first < until_ms) {
                segments.push_back((number, length));
            }
        }
        segments.push_back(newest);
        Ok(Export {
            directory: self.0.directory.clone(),
            segments,
            current: None,
            since_ms,
            until_ms,
        })
    }
}

impl Export {
    /// The next whole lines; `None` at the end. Blocks.
    ///
    /// # Errors
    /// What keeps a segment from being read, or where one is damaged.
    pub fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let mut lines = Vec::with_capacity(CHUNK + 4096);
        while lines.len() < CHUNK {
            let Some((path, walk)) = &mut self.current else {
                let Some((number, length)) = self.segments.pop_front() else {
                    break;
                };
                let (file, path) = match segment::open(&self.directory, number, false) {
                    Err(_) if segment::is_pruned(&self.directory, number) => continue,
                    opened => opened?,
                };
                let header = Header::read(&file, &path)?;
                self.current = Some((path, Walk::new(file, header.length(), length)));
                continue;
            };
            match walk.step().map_err(Error::io("read", path))? {
                Step::Record(item) => {
                    let time = codec::prefix(item.body).time_ms;
                    if (self.since_ms..self.until_ms).contains(&time) {
                        let entry = Entry::decode(item.frame.index, item.body);
                        lines.extend_from_slice(entry.to_json().as_bytes());
                        lines.push(b'\n');
                    }
                }
                Step::End => self.current = None,
                Step::Broken { offset, what } => {
                    return Err(Error::Damaged(Problem {
                        file: path.clone(),
                        offset,
                        what: what.to_owned(),
                    }));
                }
            }
        }
        Ok((!lines.is_empty()).then_some(lines))
    }
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Export of {}", self.directory.display())
    }
}
