//! What was handed out last, by content.

use super::codec::{self, Content, Kind};
use super::error::Error;
use super::record::{Event, Published};
use super::segment::{self, Header};
use super::walk::{Step, Walk};
use super::{Ledger, Sequence};

impl Ledger {
    /// The record of the bundle with this sequence, if a segment that is there has one. Reads
    /// segments, the newest first, until it is found: blocks.
    ///
    /// # Errors
    /// What keeps a segment from being read.
    pub fn published(&self, sequence: Sequence) -> Result<Option<Published>, Error> {
        let directory = &self.0.directory;
        let all = self.0.commits.segments().durable();
        let wanted = (sequence.epoch, sequence.number);
        for (number, length) in all.into_iter().rev() {
            let (file, path) = match segment::open(directory, number, false) {
                Err(_) if segment::is_pruned(directory, number) => return Ok(None),
                opened => opened?,
            };
            let header = Header::read(&file, &path)?;
            let mut walk = Walk::new(file, header.length(), length);
            loop {
                match walk.step().map_err(Error::io("read", &path))? {
                    Step::Record(item) => {
                        let kind = codec::outline(item.body).kind;
                        if matches!(kind, Kind::Published { bundle } if bundle == wanted)
                            && let Content::Known(Event::Published(found)) =
                                codec::decode(item.body)
                        {
                            return Ok(Some(found));
                        }
                    }
                    // `verify` tells of damage.
                    Step::Broken { .. } => walk.skip().map_err(Error::io("read", &path))?,
                    Step::End => break,
                }
            }
        }
        Ok(None)
    }
}
