//! A root that must not be trusted any more: the same machine in the same order, and every gate
//! is passed when its time is up.
//!
//! Where a planned rotation is under way already, it becomes the distrust of one of its roots:
//! of the one that leaves, and it goes on from where it stands; of the one that comes, and it
//! goes the other way, entered where nothing is lost that could be kept.

use std::sync::Arc;
use std::time::SystemTime;

use arx_identity::KeyId;
use serde_json::json;

use super::driver::{Looked, TRIES, View, Wrong, outrun, refused};
use super::facts::Facts;
use super::step::{Event, RotationError, Step, begin_cut_off, begin_distrust, pass};
use crate::ca::Ca;
use crate::ledger;
use crate::refusal::{Fault, Refusal};
use crate::state::{Initiator, Kind, Phase, Rotation, Terms};

/// What follows for a rotation that is under way when `root` must not be trusted any more.
pub(super) fn step(
    rotation: &Rotation,
    root: KeyId,
    terms: Terms,
    reason: &str,
    facts: &Facts,
    now: SystemTime,
) -> Result<Step, RotationError> {
    if rotation.kind == Kind::Distrust {
        return if rotation.from == root {
            Ok(Step::default())
        } else {
            Err(RotationError::Distrusting(rotation.id.clone()))
        };
    }
    let to = rotation.to.or(facts.prepared);
    let known = |root: KeyId| facts.roots.contains(&root);
    let (phase, to) = match (rotation.phase, to) {
        _ if !known(root) => return Err(RotationError::NoSuchRoot(root)),
        (phase, to) if root == rotation.from => match (phase, to) {
            // What was being taken back is needed after all.
            (Phase::Withdraw, Some(to)) if known(to) => (Phase::Distribute, Some(to)),
            (Phase::Withdraw, _) => (Phase::Prepare, None),
            // Everything stands under the other already.
            (Phase::Restore | Phase::Held, to) => (Phase::Retire, to),
            (phase, _) => (phase, rotation.to),
        },
        (phase, Some(to)) if root == to => match phase {
            // It never signed.
            Phase::Prepare | Phase::Distribute | Phase::Withdraw => {
                (Phase::Retire, Some(rotation.from))
            }
            // Everybody trusts both.
            Phase::Activate | Phase::Reissue | Phase::Held => {
                (Phase::Activate, Some(rotation.from))
            }
            _ if known(rotation.from) => (Phase::Distribute, Some(rotation.from)),
            // It is the only one.
            _ => (Phase::Prepare, None),
        },
        _ => return Err(RotationError::NoSuchRoot(root)),
    };
    let mut step = pass(rotation, phase, facts, now, None, None);
    if let Some(next) = &mut step.next {
        next.kind = Kind::Distrust;
        next.from = root;
        next.to = to;
        next.aborting = false;
        next.terms = terms;
        reason.clone_into(&mut next.reason);
    }
    Ok(step)
}

/// Whether the time of a gate is up. It begins when it is known who has to confirm, so that an
/// authority which was away leaves nobody behind whom it has not looked for; and renewals have
/// their window besides.
pub(super) fn is_over(rotation: &Rotation, facts: &Facts, now: SystemTime) -> bool {
    let began = match rotation.phase {
        Phase::Reissue => rotation.phase_began + rotation.terms.window,
        _ => rotation.phase_began,
    };
    let patience = rotation.terms.patience.unwrap_or_default();
    let known = facts.counting_for.is_some_and(|long| long >= patience);
    known && now >= began + patience
}

impl Ca {
    /// Begins the distrust of a root, or makes it of the rotation that is under way; with
    /// `nothing_will_connect`, also where no other can take its place.
    pub(crate) async fn distrust(
        &self,
        root: KeyId,
        terms: Terms,
        reason: String,
        nothing_will_connect: bool,
    ) -> Result<Arc<View>, Refusal> {
        let mut hints = self.rotator.turn.lock().await;
        let mut running = String::new();
        for _ in 0..TRIES {
            let stored = self.state.rotations().await?;
            let view = if let Some(rotation) = stored.running() {
                rotation.id.clone_into(&mut running);
                let event = if nothing_will_connect && is_stuck(rotation, root) {
                    Event::Alone
                } else {
                    Event::Distrust(root, terms, reason.clone())
                };
                let looked = self.look(&event, &mut hints).await;
                if let Looked::Outrun = looked.map_err(Wrong::refusal)? {
                    continue;
                }
                self.current_view()?
            } else if self.is_active(root).await.map_err(Wrong::refusal)? {
                let by = Initiator::Operator;
                let alone = self.cannot_distrust(root).await?.is_some();
                let begin = if alone { begin_cut_off } else { begin_distrust };
                self.begin(begin, terms, reason, by, &mut hints).await?
            } else {
                return Err(refused(&RotationError::NoSuchRoot(root)));
            };
            self.rotator.wake.notify_one();
            return Ok(view);
        }
        Err(outrun(&running))
    }

    async fn is_active(&self, root: KeyId) -> Result<bool, Wrong> {
        Ok(self.active_root().await?.key_id() == Some(root))
    }

    /// Puts into the ledger that a root never comes again: there it outlives a state that is
    /// restored from before.
    pub(super) async fn record_distrusted(
        &self,
        rotation: &Rotation,
        root: KeyId,
    ) -> Result<(), Wrong> {
        let record = ledger::Rotation {
            rotation: rotation.id.clone(),
            step: ledger::DISTRUSTED.to_owned(),
            detail: json!({ "root": root.to_string() }).to_string(),
        };
        let record = ledger::Record::new(self.clock.now(), record);
        let appended = self.ledger.append(vec![record]).await;
        appended.map(drop).map_err(|error| {
            Wrong::Refused(Refusal::new(
                error.code(),
                Fault::Dependency,
                error.to_string(),
            ))
        })
    }
}

/// Whether this is the distrust of `root`, and the one that is to follow can't be made.
fn is_stuck(running: &Rotation, root: KeyId) -> bool {
    running.kind == Kind::Distrust
        && running.from == root
        && running.phase == Phase::Prepare
        && running.to.is_none()
}

#[cfg(test)]
mod tests;
