//! A state that was put back, beside the ledger that it belongs to, or without it.

use super::Said;
use crate::checkpoint::{self, CompareError};
use crate::ledger::Ledger;
use crate::state::{Decision, Document as _, Loaded, Restored, State};

/// Notes whether the ledger is the one that the backup's replica had, the first time that this
/// starts on what was put back.
///
/// # Errors
/// [`CompareError`] if the state or the ledger cannot be read.
pub(crate) async fn note_history(
    state: &State,
    replica: &str,
    ledger: &Ledger,
) -> Result<(), CompareError> {
    let Some(restored) = state.restored().await? else {
        return Ok(());
    };
    if restored.history.is_some() || restored.replica != replica {
        return Ok(());
    }
    // Another ledger may have as many records, and an older copy may have gone on.
    let is_there = checkpoint::had(ledger, restored.ledger).await?;
    if !is_there {
        tracing::warn!(
            code = "ARX-RESTORE-HISTORY",
            records = ledger.status().records,
            expected = restored.ledger.record,
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
        .map_err(CompareError::State)
}

/// What the ledger says to have been handed out last, if that is more than the state knows.
///
/// # Errors
/// [`CompareError`] if the state or the ledger cannot be read.
pub(crate) async fn ledgers_word(
    state: &State,
    ledger: &Ledger,
) -> Result<Option<Said>, CompareError> {
    let is_shut = state.restored().await?.is_some_and(|it| it.is_shut());
    let Some(last) = ledger.last_sequence().filter(|_| is_shut) else {
        return Ok(None);
    };
    let head = state.published().await?.last().map(|head| head.sequence);
    if Some(last) <= head {
        return Ok(None);
    }
    let reading = ledger.clone();
    let record = tokio::task::spawn_blocking(move || reading.published(last)).await??;
    Ok(Some(Said::of_ledger(last, record)))
}
