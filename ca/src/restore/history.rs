//! A state that was put back, beside the ledger that it belongs to, or without it: then nobody
//! knows who was issued what, and a rotation waits until the last of that has ended.

use std::time::{Duration, SystemTime};

use arx_daemon::clock::rfc3339;

use super::Said;
use crate::ca::Ca;
use crate::ledger::{self, Ledger};
use crate::rotation::Obstacle;
use crate::state::{Decision, Document as _, LedgerMark, Loaded, Restored, State, StateError};

/// How long after its end a certificate may still be taken for valid by a slow clock.
const SKEW: Duration = Duration::from_secs(300);

/// What belongs to a backup could not be looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HistoryError {
    /// The state.
    #[error(transparent)]
    State(#[from] StateError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    /// The process ends.
    #[error(transparent)]
    Ended(#[from] tokio::task::JoinError),
}

/// Notes whether the ledger is the one that the backup's replica had, the first time that this
/// starts on what was put back.
///
/// # Errors
/// [`HistoryError`] if the state or the ledger cannot be read.
pub(crate) async fn note_history(
    state: &State,
    replica: &str,
    ledger: &Ledger,
) -> Result<(), HistoryError> {
    let Some(restored) = state.restored().await? else {
        return Ok(());
    };
    if restored.history.is_some() || restored.replica != replica {
        return Ok(());
    }
    let LedgerMark { record, hash } = restored.ledger;
    let reading = ledger.clone();
    // Another ledger may have as many records, and an older copy may have gone on.
    let is_there = blocking(move || reading.had(record, &hash)).await?;
    if !is_there {
        tracing::warn!(
            code = "ARX-RESTORE-HISTORY",
            records = ledger.status().records,
            expected = record,
            "the ledger that this backup belongs to is not there (there is none, an older copy or another one): rotations wait until everything that it knew of has ended"
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
        .map_err(HistoryError::State)
}

/// What the ledger says to have been handed out last, if that is more than the state knows.
///
/// # Errors
/// [`HistoryError`] if the state or the ledger cannot be read.
pub(crate) async fn ledgers_word(
    state: &State,
    ledger: &Ledger,
) -> Result<Option<Said>, HistoryError> {
    let is_shut = state.restored().await?.is_some_and(|it| it.is_shut());
    let Some(last) = ledger.last_sequence().filter(|_| is_shut) else {
        return Ok(None);
    };
    let head = state.published().await?.last().map(|head| head.sequence);
    if Some(last) <= head {
        return Ok(None);
    }
    let reading = ledger.clone();
    let record = blocking(move || reading.published(last)).await?;
    Ok(Some(Said::of_ledger(last, record)))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ledger::Error> + Send + 'static,
) -> Result<T, HistoryError> {
    Ok(tokio::task::spawn_blocking(work).await??)
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
