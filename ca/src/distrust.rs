//! Distrusting an authority whose key is in somebody else's hands: a root, by a rotation that
//! waits for nobody for long; or an intermediate, by issuing everything under it anew.

mod blast;
mod intermediate;
mod named;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arx_identity::KeyId;

pub use self::blast::{Blast, Fails};
pub use self::intermediate::Reissued;
pub use self::named::Named;
use crate::ca::Ca;
use crate::refusal::{Fault, Refusal};
use crate::rotation::View;
use crate::state::{StateError, Terms};

/// How long each gate is waited for, where nobody says otherwise: whoever answers at all does
/// so sooner.
pub const CAP: Duration = Duration::from_secs(5);
/// How long each gate stays shut after its last confirmation, for handshakes that are under
/// way.
pub const DWELL: Duration = Duration::from_secs(1);

/// How fast a distrust goes, as far as an operator has said.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// How long each gate is waited for.
    pub cap: Option<Duration>,
    /// How long it stays shut after its last confirmation.
    pub dwell: Option<Duration>,
}

impl Ca {
    /// Distrusts a root. A rotation that is under way becomes its distrust. Where no other root
    /// can take its place, that is refused, unless `nothing_will_connect` says that this is
    /// understood: then it goes at once.
    ///
    /// # Errors
    /// [`Refusal`] if it is trusted no more, no other root can take its place, or the distrust
    /// of another is under way.
    pub async fn distrust_root(
        &self,
        root: KeyId,
        pace: Pace,
        reason: String,
        nothing_will_connect: bool,
    ) -> Result<Arc<View>, Refusal> {
        let refusal = self.cannot_distrust(root).await?;
        if let Some(refusal) = refusal.filter(|_| !nothing_will_connect) {
            return Err(refusal);
        }
        let terms = self.distrust_terms(root, pace, self.clock.now());
        self.distrust(root, terms, reason, nothing_will_connect)
            .await
    }

    /// How fast it goes: renewals are asked for at once, or over as long as this authority
    /// needs for them by what it signs now.
    pub(crate) fn distrust_terms(&self, root: KeyId, pace: Pace, now: SystemTime) -> Terms {
        Terms {
            window: self.reissue_takes(root, now),
            dwell: pace.dwell.unwrap_or(DWELL),
            patience: Some(pace.cap.unwrap_or(CAP)),
        }
    }

    /// Why `root` can't be distrusted, if it can't.
    pub(crate) async fn cannot_distrust(&self, root: KeyId) -> Result<Option<Refusal>, StateError> {
        let Some(stored) = self.state.authorities().await? else {
            return Ok(None);
        };
        let running = self.rotator.watch().borrow().clone();
        let running = running.is_some_and(|view| !view.rotation.phase.is_over());
        let active = stored.value.active().filter(|it| it.key_id() == Some(root));
        // While a rotation is under way there is another.
        let Some(active) = active.filter(|_| !running) else {
            return Ok(None);
        };
        if self.authority.can_be_followed(active) {
            return Ok(None);
        }
        Ok(Some(Refusal::new(
            "ARX-DISTRUST-ONLY-ROOT",
            Fault::Request,
            format!(
                "{} is the only root, and no other can be made here, because its key is in the {}: put a new root in its place there, and distrust this one while that rotation is under way; --i-understand-nothing-will-connect cuts it off at once without another",
                active.certificate.subject(),
                active.key
            ),
        )))
    }
}
