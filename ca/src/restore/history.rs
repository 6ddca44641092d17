//! A state that was put back, beside the ledger that it belongs to, or without it: then nobody
//! knows who was issued what, and a rotation waits until the last of that has ended.

use std::time::{Duration, SystemTime};

use arx_daemon::clock::rfc3339;

use crate::ca::Ca;
use crate::ledger;
use crate::rotation::Obstacle;
use crate::state::{Decision, Document as _, Loaded, Restored, State, StateError};

/// How long after its end a certificate may still be taken for valid by a slow clock.
const SKEW: Duration = Duration::from_secs(300);

/// Notes whether the ledger is the one that the backup's replica had, the first time that this
/// starts on what was put back.
pub(crate) async fn note_history(
    state: &State,
    replica: &str,
    ledger: &ledger::Status,
) -> Result<(), StateError> {
    let Some(restored) = state.restored().await? else {
        return Ok(());
    };
    if restored.history.is_some() || restored.replica != replica {
        return Ok(());
    }
    let mark = restored.ledger;
    let is_there =
        ledger.records > mark.record || (ledger.records == mark.record && ledger.head == mark.hash);
    if !is_there {
        tracing::warn!(
            code = "ARX-RESTORE-HISTORY",
            records = ledger.records,
            expected = mark.record,
            "the ledger that this backup belongs to is not there: rotations wait until everything that it knew of has ended"
        );
    }
    let key = state.key(&Restored::KIND);
    state
        .update(&key, |found: Option<Loaded<Restored>>| {
            Ok(match found.map(|found| found.value) {
                Some(mut restored) if restored.history.is_none() => {
                    restored.history = Some(is_there);
                    Decision::Write(restored, ())
                }
                _ => Decision::Keep(()),
            })
        })
        .await
}

impl Ca {
    /// What is in the way of a rotation as long as something may be valid that no ledger knows.
    pub(crate) fn history_lost(&self, now: SystemTime) -> Option<Obstacle> {
        let restored = self.restore.get()?;
        if restored.history == Some(true) {
            return None;
        }
        let ends = restored.at + self.authority.longest_leaf() + SKEW;
        (now < ends).then(|| Obstacle {
            node: self.replica.to_string(),
            reason: "history-lost",
            detail: format!(
                "it was restored without its ledger: what was issued before may be valid until {}",
                rfc3339(ends)
            ),
            last_certificate_ends: Some(ends),
            ..Obstacle::default()
        })
    }
}
