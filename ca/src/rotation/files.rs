//! The operator's files as a cause of rotations: another root in them is rotated to, and the first
//! one back in them turns that round.
//!
//! What lies in the files is taken over by the [authority](crate::authority); here it is
//! decided what follows from its root.

use arx_identity::KeyId;

use super::driver::Wrong;
use crate::ca::Ca;
use crate::state::{Initiator, Phase, Rotation, Rotations};

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wish {
    /// All is as it should be, or on the way there.
    Nothing,
    /// A rotation to the root in the files begins.
    Begin,
    /// The one that is under way is turned round.
    Abort,
    /// Somebody has to know, by code and message.
    Tell(&'static str, String),
}

/// What follows where `found` lies in the files of `replica`, and `active` signs.
fn wish(found: KeyId, active: KeyId, rotations: &Rotations, replica: &str) -> Wish {
    match rotations.running() {
        Some(running) => during(found, running, replica),
        None if found == active => Wish::Nothing,
        None => match rotations.all.last() {
            Some(last) if last.phase == Phase::Aborted && names(last, found) => Wish::Tell(
                "ARX-AUTHORITY-FILES-ABORTED",
                format!(
                    "authority.certificate_file holds the root that rotation {} was turned round \
                     from, and another one signs: put the files of that back, or begin again \
                     with `arx rotate root`",
                    last.id
                ),
            ),
            _ => Wish::Begin,
        },
    }
}

fn during(found: KeyId, running: &Rotation, replica: &str) -> Wish {
    let third = || {
        Wish::Tell(
            "ARX-AUTHORITY-FILES-THIRD",
            format!(
                "authority.certificate_file holds a root that is neither of those of rotation {}: \
                 that is finished first, and then this one is rotated to; if that was not meant, \
                 put the files of the root that it leads to back",
                running.id
            ),
        )
    };
    if running.to == Some(found) {
        return Wish::Nothing;
    }
    if running.from != found {
        // Named when it began, and not in the state yet.
        let coming = running.to.is_none() && names(running, found);
        return if coming { Wish::Nothing } else { third() };
    }
    if running.aborting || running.phase == Phase::Restore {
        return Wish::Nothing;
    }
    // Whoever has never held the other one has not gone back.
    if running.replica == replica {
        return Wish::Abort;
    }
    Wish::Tell(
        "ARX-AUTHORITY-FILES-BEHIND",
        format!(
            "rotation {} leads away from the root in authority.certificate_file: put the files of \
             the root that it leads to here too",
            running.id
        ),
    )
}

fn names(rotation: &Rotation, root: KeyId) -> bool {
    rotation.roots.iter().any(|known| known.key_id == root)
}

impl Ca {
    /// Looks at the operator's files again and again, for as long as the process runs.
    pub async fn keep_files(&self) {
        let Some(every) = self.authority.looks_every() else {
            return;
        };
        let mut told = None;
        loop {
            let trouble = match self.look_at_files().await {
                Ok(told) => told,
                Err(wrong) => {
                    let refusal = wrong.refusal();
                    Some((refusal.code, refusal.message))
                }
            };
            if told != trouble {
                match &trouble {
                    // Told of already, by whoever has read them.
                    Some(_) if trouble == self.authority.files_refused() => {}
                    Some((code, message)) => tracing::warn!(code, "{message}"),
                    None => tracing::info!("the operator's files are in use as they are"),
                }
                self.overview.tell_of_files(trouble.clone());
                told = trouble;
            }
            tokio::time::sleep(every).await;
        }
    }

    /// Looks at them once, and does what follows. Answers what somebody should know.
    pub(super) async fn look_at_files(&self) -> Result<Option<(&'static str, String)>, Wrong> {
        let Some(found) = self.authority.look_at_files(self.clock.now()).await? else {
            return Ok(self.authority.files_refused());
        };
        let refused = self.authority.files_refused();
        let stored = self.state.authorities().await?;
        let stored = stored.ok_or_else(|| Wrong::gone("the authorities"))?.value;
        if let Some(nothing) = self.authority.nothing_trusted(&stored) {
            return Ok(Some((nothing.code(), nothing.to_string())));
        }
        let active = stored
            .active()
            .ok_or_else(|| Wrong::gone("the active root"))?;
        let (Some(root), Some(active)) = (found.subject_key_id(), active.key_id()) else {
            return Ok(refused);
        };
        let rotations = self.state.rotations().await?;
        let told = match wish(root, active, &rotations, &self.replica) {
            Wish::Nothing => None,
            Wish::Tell(code, message) => Some((code, message)),
            Wish::Begin => {
                let reason = format!("the operator's files hold {}", found.subject());
                let terms = self.terms(None, None, None);
                let begun = self.rotate(terms, reason, Initiator::Files).await;
                begun.map_err(Wrong::Refused)?;
                None
            }
            Wish::Abort => {
                let id = rotations.running().map(|running| running.id.clone());
                let reason = "the operator's files hold the first root again".to_owned();
                let turned = self.abort_rotation(&id.unwrap_or_default(), reason).await;
                turned.map_err(Wrong::Refused)?;
                None
            }
        };
        Ok(refused.or(told))
    }
}

#[cfg(test)]
mod tests;
