//! A CA outside as a cause of rotations: what it has certified stands under another root, which is
//! prepared and has to become the active one.
//!
//! The chain is checked and stored by the [authority](crate::authority). A process that dies
//! between that and the beginning of the rotation begins it when it starts again.

use std::sync::Arc;
use std::time::Duration;

use super::driver::{View, Wrong};
use crate::ca::Ca;
use crate::refusal::Refusal;
use crate::state::{Authorities, Document as _, Initiator, Rotations};

/// After something failed.
const AGAIN: Duration = Duration::from_secs(10);

impl Ca {
    /// Begins the rotation to the root that a CA outside has certified under, if there is one
    /// and none is under way.
    ///
    /// # Errors
    /// [`Refusal`] if it does not begin, and why.
    pub(crate) async fn follow_outside(&self, by: Initiator) -> Result<Option<Arc<View>>, Refusal> {
        let wrong = |error| Wrong::from(error).refusal();
        let next = self.authority.successor().await;
        let Some(next) = next.map_err(|error| Wrong::from(error).refusal())? else {
            return Ok(None);
        };
        if self
            .state
            .rotations()
            .await
            .map_err(wrong)?
            .running()
            .is_some()
        {
            return Ok(None);
        }
        let reason = format!("a chain under {} was installed", next.subject());
        let terms = self.terms(None, None, None);
        match self.rotate(terms, reason, by).await {
            // Somebody else has just begun it.
            Err(refusal) if refusal.code == "ARX-ROTATION-UNDER-WAY" => Ok(None),
            begun => begun.map(Some),
        }
    }

    /// Begins such rotations for as long as the process runs.
    pub async fn keep_following_outside(&self) {
        let Some(certifier) = &self.authority.options().certifier else {
            return;
        };
        let by = match certifier {
            crate::authority::Certifier::Offline => Initiator::Operator,
            crate::authority::Certifier::Upstream(_) => Initiator::Upstream,
        };
        let mut roots = self.state.changes(&Authorities::KIND);
        let mut rotations = self.state.changes(&Rotations::KIND);
        loop {
            let failed = match self.follow_outside(by).await {
                Ok(_) => false,
                Err(refusal) => {
                    tracing::error!(
                        code = refusal.code,
                        "what was certified outside stands under another root, and the rotation to it does not begin: {}",
                        refusal.message
                    );
                    true
                }
            };
            tokio::select! {
                Ok(()) = roots.changed() => {}
                Ok(()) = rotations.changed() => {}
                () = tokio::time::sleep(AGAIN), if failed => {}
                else => return,
            }
        }
    }
}
