//! Roots that are made here are replaced before they end, by a rotation that begins by itself.
//!
//! One that is under way already is as good: nothing is begun beside it. One that an operator
//! has turned round begins again when a quarter of what was then left has passed, so that they
//! have time, and the root never ends unseen.

use std::time::{Duration, SystemTime};

use arx_daemon::clock::rfc3339;

use super::terms;
use crate::ca::Ca;
use crate::refusal::{Fault, Refusal};
use crate::state::{
    Authorities, Document as _, Initiator, KeyPlace, Phase, Root, Rotations, Terms,
};

/// The clock is looked at this often, whatever is planned.
const LOOK: Duration = Duration::from_secs(60);
/// Not more often than this.
const PAUSE: Duration = Duration::from_millis(200);
/// After something failed.
const AGAIN: Duration = Duration::from_secs(10);

/// When the rotation begins that replaces a root which is due at `due` and ends at `ends`.
fn begins(due: SystemTime, ends: SystemTime, rotations: &Rotations) -> SystemTime {
    let last = rotations.all.last();
    let turned_round = last.filter(|last| last.phase == Phase::Aborted);
    turned_round.map_or(due, |last| {
        let left = ends.duration_since(last.phase_began).unwrap_or_default();
        due.max(last.phase_began + left / 4)
    })
}

impl Ca {
    /// How a rotation goes: as it is asked for, or as it is configured. A window that nobody asks
    /// for is made shorter where the root ends soon.
    #[must_use]
    pub fn terms(
        &self,
        window: Option<Duration>,
        dwell: Option<Duration>,
        patience: Option<Duration>,
    ) -> Terms {
        let rules = self.rules.get();
        let dwell = dwell.unwrap_or(rules.rotation.dwell);
        let ends = self.authority.root().not_after();
        let longest_leaf = self.authority.longest_leaf();
        let window = window.unwrap_or_else(|| {
            let usual = rules.rotation.window;
            let usual = usual.unwrap_or_else(|| rules.policy.usual_ttl() / 2);
            usual.min(terms::longest_window(
                dwell,
                longest_leaf,
                ends,
                self.clock.now(),
            ))
        });
        Terms {
            window,
            dwell,
            patience,
        }
    }

    /// Begins a rotation whenever the root is due, for as long as the process runs.
    pub async fn keep_root_renewed(&self) {
        let mut roots = self.state.changes(&Authorities::KIND);
        let mut rotations = self.state.changes(&Rotations::KIND);
        let mut jumps = self.clock.jumps();
        let mut told = String::new();
        loop {
            let wait = match self.renew_root().await {
                Ok(next) => {
                    told.clear();
                    let left = next.and_then(|at| at.duration_since(self.clock.now()).ok());
                    left.unwrap_or(LOOK).clamp(PAUSE, LOOK)
                }
                Err(refusal) => {
                    if told != refusal.message {
                        tracing::error!(
                            code = refusal.code,
                            "the root is due to be replaced, and the rotation does not begin: {}",
                            refusal.message
                        );
                        told.clone_from(&refusal.message);
                    }
                    AGAIN
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                Ok(()) = roots.changed() => {}
                Ok(()) = rotations.changed() => {}
                Ok(()) = jumps.changed() => {}
            }
        }
    }

    /// Begins a rotation if the active root is due, and none is under way. Answers when it will
    /// be, if that is known.
    ///
    /// # Errors
    /// [`Refusal`] if the state cannot be read or changed, or the rotation is refused.
    pub async fn renew_root(&self) -> Result<Option<SystemTime>, Refusal> {
        let unreadable = |error: crate::state::StateError| {
            Refusal::new(error.code(), Fault::Dependency, error.to_string())
        };
        let stored = self.state.authorities().await.map_err(unreadable)?;
        let rotations = self.state.rotations().await.map_err(unreadable)?;
        let Some(root) = stored.as_ref().and_then(|stored| stored.value.active()) else {
            return Ok(None);
        };
        let ends = root.certificate.not_after();
        let Some(due) = self.due(root) else {
            return Ok(None);
        };
        if rotations.running().is_some() {
            return Ok(None);
        }
        let at = begins(due, ends, &rotations);
        if self.clock.now() < at {
            return Ok(Some(at));
        }
        let reason = format!("root ends at {}", rfc3339(ends));
        let terms = self.terms(None, None, None);
        match self.rotate(terms, reason, Initiator::Renewal).await {
            // Somebody else has just begun one, which is as good.
            Err(refusal) if refusal.code == "ARX-ROTATION-UNDER-WAY" => Ok(None),
            begun => begun.map(|_| None),
        }
    }

    /// When `root` is to be replaced by itself, if that is done here.
    #[must_use]
    pub(crate) fn due(&self, root: &Root) -> Option<SystemTime> {
        // What follows an operator's root comes from them.
        let own = root.above.is_empty() && self.authority.looks_every().is_none();
        match root.key {
            KeyPlace::Stored(_) | KeyPlace::Pkcs11(_) | KeyPlace::Socket(_) if own => self
                .authority
                .root_due(root.added, root.certificate.not_after()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
