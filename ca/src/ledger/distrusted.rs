//! The roots that must never be trusted again, as the ledger has them: it outlives a state
//! that is restored from an earlier backup.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use arx_identity::KeyId;
use serde::Deserialize;

use super::Ledger;
use super::error::Error;
use crate::hex;

/// The step of a rotation by which a root is distrusted for good.
pub const DISTRUSTED: &str = "distrusted";

#[derive(Deserialize)]
struct Line {
    #[serde(default)]
    step: String,
    #[serde(default)]
    detail: String,
}

#[derive(Deserialize)]
struct Detail {
    root: String,
}

impl Ledger {
    /// Every root that the ledger says to be distrusted, as far as the segments that are there
    /// tell. Reads all of them: blocks, and takes long.
    ///
    /// # Errors
    /// What keeps a segment from being read.
    pub fn distrusted(&self, now: SystemTime) -> Result<BTreeSet<KeyId>, Error> {
        let mut roots = BTreeSet::new();
        let mut export = self.export(UNIX_EPOCH, now)?;
        while let Some(lines) = export.next_chunk()? {
            for line in lines.split(|byte| *byte == b'\n') {
                let line: Line = match serde_json::from_slice(line) {
                    Ok(line) => line,
                    Err(_) => continue,
                };
                if line.step != DISTRUSTED {
                    continue;
                }
                if let Ok(Detail { root }) = serde_json::from_str(&line.detail) {
                    roots.extend(hex::key_id(&root));
                }
            }
        }
        Ok(roots)
    }
}
