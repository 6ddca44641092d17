//! Removing old segments. Never one that a valid certificate stands in, and never the
//! newest; what remains says from which hash on it verifies.

use std::time::{Duration, SystemTime};

use super::error::Error;
use super::record::{Pruned, Record, to_millis};
use super::segment::{self, Header};
use super::{Ledger, index, open};

/// How long after its end a certificate may still be taken for valid by a slow clock.
pub(super) const SKEW_MS: u64 = 3600 * 1000;

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Segments.
    pub segments: u32,
}

impl Ledger {
    /// Removes the oldest segments whose records are all older than `retention` and whose
    /// certificates have all ended. Records that first. Blocks.
    ///
    /// # Errors
    /// What keeps a segment from being read or removed, or the record from being made.
    pub fn prune(&self, now: SystemTime, retention: Duration) -> Result<Removed, Error> {
        let keep_since =
            to_millis(now).saturating_sub(u64::try_from(retention.as_millis()).unwrap_or(u64::MAX));
        let (sealed, active) = {
            let segments = self.0.commits.segments();
            (segments.sealed.clone(), segments.active)
        };
        let mut old = 0;
        for (number, length) in &sealed {
            let path = segment::path(&self.0.directory, *number);
            let summary = open::summary_of(&path, *length, true)?;
            let recent = summary.times.is_some_and(|(_, last)| last >= keep_since);
            let lives = summary.ends_ms.saturating_add(SKEW_MS) >= to_millis(now);
            if recent || lives {
                break;
            }
            old += 1;
        }
        if old == 0 {
            return Ok(Removed::default());
        }
        let first = sealed.get(old).map_or(active, |(number, _)| *number);
        let (file, path) = segment::open(&self.0.directory, first, false)?;
        let header = Header::read(&file, &path)?;
        let record = Pruned {
            first_segment: first,
            first_record: header.first,
            hash: header.previous,
        };
        self.0
            .commits
            .append_blocking(vec![Record::new(now, record)])?;
        for (number, _) in &sealed[..old] {
            let path = segment::path(&self.0.directory, *number);
            // The index first: one that is left behind would stay for ever.
            let _none = std::fs::remove_file(index::path(&path));
            std::fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            // One after the other also after a power cut: there must not be a gap.
            segment::sync_directory(&self.0.directory)?;
            self.0
                .commits
                .segments()
                .sealed
                .retain(|(kept, _)| kept != number);
        }
        Ok(Removed {
            segments: u32::try_from(old).unwrap_or(u32::MAX),
        })
    }
}
