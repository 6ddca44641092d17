//! How far a replica's ledger is, noted in the state: where the ledger is lost and the state is
//! not, nobody knows who was issued what, and a rotation waits until the last of that has ended.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use arx_daemon::clock::rfc3339;

use crate::ca::Ca;
use crate::ledger::{self, Ledger};
use crate::rotation::Obstacle;
use crate::state::{
    Checkpoint, LedgerLost, LedgerMark, Replica, ReplicaDocument, State, StateError,
};

/// Between notes of how far the ledger is, where nothing asks for one sooner: what a copy from
/// within this time lacks would not be missed.
const EVERY: Duration = Duration::from_secs(60);
/// The same while it is empty: all empty ledgers look the same, and the first record tells one
/// from another.
const SOON: Duration = Duration::from_secs(1);
/// How long after its end a certificate may still be taken for valid by a slow clock.
const SKEW: Duration = Duration::from_secs(300);
/// How long the end of the process waits for the last note.
const LAST: Duration = Duration::from_secs(2);

/// A ledger could not be compared with what is noted of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompareError {
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

/// Whether `ledger` was once what `mark` says.
///
/// # Errors
/// [`CompareError`] if the ledger cannot be read.
pub(crate) async fn had(ledger: &Ledger, mark: LedgerMark) -> Result<bool, CompareError> {
    let reading = ledger.clone();
    let LedgerMark { record, hash } = mark;
    let had = tokio::task::spawn_blocking(move || reading.had(record, &hash));
    Ok(had.await??)
}

/// The place where a ledger is.
pub(crate) fn mark(ledger: &Ledger) -> LedgerMark {
    let ledger::Status { records, head, .. } = ledger.status();
    LedgerMark {
        record: records,
        hash: head,
    }
}

fn checkpoint(ledger: &Ledger, longest: Duration, now: SystemTime) -> Checkpoint {
    Checkpoint {
        mark: mark(ledger),
        ends: now + longest,
        longest,
    }
}

/// Compares a ledger with what is noted of the one that `replica` had, which issues certificates
/// of a life of up to `longest`. What is still in the way of rotations because it was lost, now
/// or earlier.
///
/// # Errors
/// [`CompareError`] if the state or the ledger cannot be read.
pub(crate) async fn compare(
    state: &State,
    replica: &Replica,
    ledger: &Ledger,
    longest: Duration,
    now: SystemTime,
) -> Result<Option<LedgerLost>, CompareError> {
    let document = replica.document().await?;
    let is_there = match document.ledger {
        Some(noted) => had(ledger, noted.mark).await?,
        // It was noted nowhere before this version.
        None => ledger.status().records > 0 || !has_signed(state, replica.name()).await?,
    };
    let here = checkpoint(ledger, longest, now);
    if is_there {
        if document.ledger.is_none() {
            state.checkpoint(replica.name(), here).await?;
        }
        return Ok(document.lost.filter(|lost| now < lost.until));
    }
    let (ends, longest) = match document.ledger {
        Some(noted) => (noted.ends, noted.longest.max(longest)),
        None => (now, longest),
    };
    let until = ends.max(now + longest) + SKEW;
    let expected = document.ledger.map_or(0, |noted| noted.mark.record);
    tracing::warn!(
        code = "ARX-LEDGER-LOST",
        records = here.mark.record,
        expected,
        until = %rfc3339(until),
        "the ledger of this replica is not there (there is none, an older copy or another one): rotations wait until everything that it knew of has ended"
    );
    let lost = LedgerLost { at: now, until };
    replica.begin_ledger(lost, here).await?;
    Ok(replica.document().await?.lost)
}

/// Whether the replica of this name may have issued what is valid.
async fn has_signed(state: &State, replica: &str) -> Result<bool, StateError> {
    let stored = state.authorities().await?;
    let stored = stored.into_iter().flat_map(|it| it.value.registrations);
    Ok(stored.into_iter().any(|it| it.replica == replica))
}

impl Ca {
    /// How far the ledger is now.
    pub(crate) fn checkpoint(&self) -> Checkpoint {
        let longest = self.authority.longest_leaf();
        checkpoint(&self.ledger, longest, self.clock.now())
    }

    /// Notes how far the ledger is.
    ///
    /// # Errors
    /// [`StateError`] if it could not be stored.
    pub(crate) async fn note_checkpoint(&self) -> Result<(), StateError> {
        let checkpoint = self.checkpoint();
        self.state.checkpoint(&self.replica, checkpoint).await
    }

    /// Notes it from time to time. Never ends; drop it to stop.
    pub(crate) async fn keep_checkpoints(&self) {
        let mut noted = None;
        let mut pause = SOON;
        loop {
            tokio::time::sleep(pause).await;
            let records = self.ledger.status().records;
            pause = if records == 0 { SOON } else { EVERY };
            // Whether the state can be written is told by who looks after that.
            if noted != Some(records) && self.note_checkpoint().await.is_ok() {
                noted = Some(records);
            }
        }
    }

    /// Notes it at the end, if the state can be written.
    pub(crate) async fn note_last_checkpoint(&self) {
        let noted = tokio::time::timeout(LAST, self.note_checkpoint()).await;
        if !matches!(noted, Ok(Ok(()))) {
            tracing::debug!("how far the ledger is was not noted at the end");
        }
    }

    /// Those in the way of a rotation of whom it is not known what they have issued: each of the
    /// `replicas` that has lost its ledger, and whichever had the one of a state that was put
    /// back, as long as something of it may be valid.
    pub(crate) fn history_lost(
        &self,
        replicas: &[(String, ReplicaDocument)],
        now: SystemTime,
    ) -> Vec<Obstacle> {
        let lost = replicas.iter().filter_map(|(name, document)| {
            let LedgerLost { at, until } = document.lost?;
            let detail = format!(
                "its ledger was lost, which was found at {}: what it issued before may be valid until {}",
                rfc3339(at),
                rfc3339(until)
            );
            Some((name.clone(), detail, until))
        });
        let restored = self.restore.get().filter(|it| it.history != Some(true));
        let restored = restored.map(|restored| {
            let until = restored.at + self.authority.longest_leaf() + SKEW;
            let detail = format!(
                "it was restored without its ledger: what was issued before may be valid until {}",
                rfc3339(until)
            );
            (restored.replica.clone(), detail, until)
        });
        let mut named = BTreeSet::new();
        let all = lost.chain(restored);
        all.filter(|(.., until)| now < *until)
            .filter(|(name, ..)| named.insert(name.clone()))
            .map(|(node, detail, until)| Obstacle {
                node,
                reason: "history-lost",
                detail,
                last_certificate_ends: Some(until),
                ..Obstacle::default()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
