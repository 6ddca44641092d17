//! Reading a segment from front to back, a piece at a time, with every hash checked.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::frame::{self, CHAIN, Chain, Frame, MARK, Read};

/// How much is read at once.
const PIECE: usize = 256 * 1024;

/// A position in a segment, between two records.
pub(super) struct Walk {
    file: File,
    /// File bytes from `start` on.
    buffer: Vec<u8>,
    start: u64,
    /// Where in `buffer` the chain value before the next record begins.
    at: usize,
    /// What lies behind this offset is none of our business.
    end: u64,
}

/// What comes next in a segment.
#[derive(Debug)]
pub(super) enum Step<'w> {
    Record(Item<'w>),
    /// Something that is no record.
    Broken {
        offset: u64,
        what: &'static str,
    },
    End,
}

/// One record where it lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item<'w> {
    /// Where its frame begins.
    pub(super) offset: u64,
    pub(super) frame: Frame,
    pub(super) body: &'w [u8],
}

impl Item<'_> {
    /// Where the commit begins that wrote this record: all before it was acknowledged.
    pub(super) fn commit(&self) -> u64 {
        self.offset.saturating_sub(u64::from(self.frame.back))
    }
}

impl Walk {
    /// Begins at the frame at `offset`, which has a chain value before it.
    pub(super) fn new(file: File, offset: u64, end: u64) -> Self {
        Self {
            file,
            buffer: Vec::new(),
            start: offset - CHAIN as u64,
            at: 0,
            end,
        }
    }

    /// The next record. After something broken it stays there: see [`Walk::skip`].
    pub(super) fn step(&mut self) -> io::Result<Step<'_>> {
        let offset = self.offset();
        if offset >= self.end {
            return Ok(Step::End);
        }
        match self.look()? {
            Read::Whole(frame) => {
                let bytes = &self.buffer[self.at..];
                self.at += frame.length();
                let body = frame.body(bytes);
                Ok(Step::Record(Item {
                    offset,
                    frame,
                    body,
                }))
            }
            Read::Broken(what) => Ok(Step::Broken { offset, what }),
            Read::Short(_) => {
                let what = "the record is cut off";
                Ok(Step::Broken { offset, what })
            }
        }
    }

    /// Where the next frame begins.
    pub(super) fn offset(&self) -> u64 {
        self.start + (self.at + CHAIN) as u64
    }

    /// Goes back to the frame at `offset`.
    pub(super) fn rewind(&mut self, offset: u64) {
        self.buffer.clear();
        self.start = offset - CHAIN as u64;
        self.at = 0;
    }

    /// The chain value at the current position.
    pub(super) fn chain(&mut self) -> io::Result<Chain> {
        if !self.fill(CHAIN)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut chain = [0; CHAIN];
        chain.copy_from_slice(&self.buffer[self.at..self.at + CHAIN]);
        Ok(chain)
    }

    /// Goes on to the next place behind the current one where a whole record lies, or to
    /// the end.
    pub(super) fn skip(&mut self) -> io::Result<()> {
        self.at += 1;
        while self.fill(CHAIN + MARK)? {
            let Some(ahead) = frame::find_mark(&self.buffer[self.at + CHAIN..]) else {
                // the last bytes may be the beginning of a mark
                self.at = self.buffer.len() - CHAIN - (MARK - 1);
                continue;
            };
            self.at += ahead;
            if let Read::Whole(_) = self.look()? {
                return Ok(());
            }
            self.at += 1;
        }
        self.start = self.end - CHAIN as u64;
        self.at = 0;
        self.buffer.clear();
        Ok(())
    }

    /// Reads the frame at the current position. It is short only if the segment is.
    fn look(&mut self) -> io::Result<Read> {
        let mut wanted = CHAIN + MARK;
        while self.fill(wanted)? {
            match frame::read(&self.buffer[self.at..]) {
                Read::Short(needed) => wanted = needed,
                read => return Ok(read),
            }
        }
        Ok(Read::Short(wanted))
    }

    /// Sees to it that `wanted` bytes from `at` are in the buffer; false if the segment
    /// ends before.
    fn fill(&mut self, wanted: usize) -> io::Result<bool> {
        if self.buffer.len() >= self.at + wanted {
            return Ok(true);
        }
        let have = self.buffer.len().saturating_sub(self.at);
        self.buffer.drain(..self.at.min(self.buffer.len()));
        self.start += self.at as u64;
        self.at = 0;
        let from = self.start + have as u64;
        let left = usize::try_from(self.end.saturating_sub(from)).unwrap_or(usize::MAX);
        let mut more = left.min(wanted.saturating_sub(have).max(PIECE));
        self.buffer.resize(have + more, 0);
        let mut filled = have;
        while more > 0 {
            match self
                .file
                .read_at(&mut self.buffer[filled..], self.start + filled as u64)
            {
                Ok(0) => break,
                Ok(read) => {
                    filled += read;
                    more -= read;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.buffer.truncate(filled);
        Ok(filled >= wanted)
    }
}

/// Whether something broken at `offset`, where `walk` stands, was acknowledged once. A
/// commit is written only after the one before is durable: so it was, if a whole record of
/// a later commit follows.
pub(super) fn acknowledged_after(walk: &mut Walk, offset: u64) -> io::Result<bool> {
    loop {
        walk.skip()?;
        match walk.step()? {
            Step::Record(item) if item.commit() > offset => return Ok(true),
            Step::Record(_) | Step::Broken { .. } => {}
            Step::End => return Ok(false),
        }
    }
}
