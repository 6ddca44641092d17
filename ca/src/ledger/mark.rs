//! Telling a ledger from an older copy of it and from another one, by what it was chained to at an
//! earlier moment.

use super::Ledger;
use super::error::Error;
use super::segment::{self, Header};
use super::walk::{Step, Walk};

impl Ledger {
    /// Whether everything was chained to `hash` when there were so many `records`, those in
    /// removed segments included. Not if there are not so many, or the segments of then are gone.
    /// Reads up to one segment: blocks.
    ///
    /// # Errors
    /// What keeps a segment from being read.
    pub fn had(&self, records: u64, hash: &[u8; 32]) -> Result<bool, Error> {
        let directory = &self.0.directory;
        let all = self.0.commits.segments().durable();
        for (number, length) in all.into_iter().rev() {
            let (file, path) = match segment::open(directory, number, false) {
                Err(_) if segment::is_pruned(directory, number) => return Ok(false),
                opened => opened?,
            };
            let header = Header::read(&file, &path)?;
            if header.first > records {
                continue;
            }
            // A segment may have been begun at that moment, or not yet.
            if header.first == records && header.previous == *hash {
                return Ok(true);
            }
            let mut walk = Walk::new(file, header.length(), length);
            let mut next = header.first;
            while next < records {
                match walk.step().map_err(Error::io("read", &path))? {
                    Step::Record(item) => next = item.frame.index.saturating_add(1),
                    Step::Broken { .. } | Step::End => return Ok(false),
                }
            }
            let chain = walk.chain().map_err(Error::io("read", &path))?;
            return Ok(next == records && chain == *hash);
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    use arx_identity::TrustDomain;

    use crate::ledger::{Ledger, Operator, Options, Record};

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn open(directory: &Path) -> Result<Ledger, crate::ledger::Error> {
        let options = Options {
            directory: directory.to_owned(),
            trust_domain: TrustDomain::parse("example.org").expect("a trust domain"),
            // Every few records another segment.
            segment_bytes: 400,
            gather: Duration::ZERO,
        };
        Ok(Ledger::open(options, SystemTime::UNIX_EPOCH)?.0)
    }

    async fn note(ledger: &Ledger, detail: String) -> Outcome {
        let record = Operator {
            who: "a test".to_owned(),
            action: "note".to_owned(),
            detail,
        };
        let record = Record::new(SystemTime::UNIX_EPOCH, record);
        ledger.append(vec![record]).await?;
        Ok(())
    }

    #[tokio::test]
    async fn what_a_ledger_was_at_any_moment_is_known_to_it_and_not_to_another() -> Outcome {
        let (one, another) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let (ledger, other) = (open(one.path())?, open(another.path())?);
        let mut marks = Vec::new();
        for number in 0..20 {
            note(&ledger, format!("one {number}")).await?;
            note(&other, format!("another {number}")).await?;
            let status = ledger.status();
            marks.push((status.records, status.head));
        }
        note(&other, "it goes on".to_owned()).await?;
        assert!(ledger.status().segments > 3, "{:?}", ledger.status());
        for (records, head) in &marks {
            assert!(ledger.had(*records, head)?, "{records}");
            assert!(!other.had(*records, head)?, "{records}");
            assert!(!ledger.had(records + 1, head)?, "{records}");
        }
        // Also after a restart.
        drop(ledger);
        let ledger = open(one.path())?;
        for (records, head) in &marks {
            assert!(ledger.had(*records, head)?, "{records}");
        }
        Ok(())
    }
}
