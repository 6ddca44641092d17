//! Hearing the authority above, for as long as the process runs.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arx_daemon::clock::rfc3339;
use arx_identity::{KeyId, Sequence};

use super::wish::{Wish, wish};
use super::{Heard, is_confirmed, is_held};
use crate::authority::{Arx, AuthorityError, Certifier, Upstream, backoff};
use crate::ca::Ca;
use crate::distrust::Pace;
use crate::refusal::{Fault, Refusal};
use crate::rotation::driver::{View, refused};
use crate::rotation::facts::Obstacle;
use crate::rotation::step::RotationError;
use crate::state::{Authorities, Root, RootState, Rotation, Rotations};

/// Between two calls, while nothing changes here: shorter than a distrust waits.
const CALM: Duration = Duration::from_secs(2);
/// And at least.
const LEAST: Duration = Duration::from_millis(250);

impl Ca {
    fn arx_above(&self) -> Option<&Arx> {
        match &self.authority.options().certifier {
            Some(Certifier::Upstream(Upstream::Arx(arx))) => Some(arx),
            _ => None,
        }
    }

    /// What keeps `rotation` from going on at the authority above, if there is one.
    pub(in crate::rotation) fn waits_for_above(&self, rotation: &Rotation) -> Option<Obstacle> {
        let arx = self.arx_above()?;
        self.above.obstacle(rotation, &arx.address)
    }

    /// Whether an operator may turn `running` round here.
    ///
    /// # Errors
    /// Unless the authority above has turned round itself.
    pub(in crate::rotation) fn may_turn_round(
        &self,
        running: &Rotation,
        active: KeyId,
    ) -> Result<(), Refusal> {
        let Some(arx) = self.arx_above() else {
            return Ok(());
        };
        let heard = self.above.heard();
        match heard.map(|heard| wish(&heard, active, true, Some(running))) {
            Some(Wish::Return(_)) => Ok(()),
            _ => Err(refused(&RotationError::Follows {
                id: running.id.clone(),
                address: arx.address.clone(),
            })),
        }
    }

    /// Hears what the authority above trusts, and follows, for as long as the process runs.
    pub async fn keep_following_above(&self) {
        let Some(arx) = self.arx_above() else {
            return;
        };
        let mut views = self.rotator.watch();
        let mut asking = Asking::default();
        loop {
            views.borrow_and_update();
            let trouble = self.follow_above(arx, &mut asking).await.err();
            let trouble = trouble.map(|refusal| (refusal.code, refusal.message));
            self.above.trouble.send_if_modified(|told| {
                let changed = *told != trouble;
                match &trouble {
                    Some((code, message)) if changed => {
                        tracing::warn!(code, "the authority above was not followed: {message}");
                    }
                    None if changed => tracing::info!("the authority above is followed again"),
                    _ => {}
                }
                told.clone_from(&trouble);
                changed
            });
            tokio::time::sleep(LEAST).await;
            tokio::select! {
                () = tokio::time::sleep(CALM) => {}
                // What was confirmed here is waited for there.
                Ok(()) = views.changed() => {}
            }
        }
    }

    async fn follow_above(&self, arx: &Arx, asking: &mut Asking) -> Result<(), Refusal> {
        let stored = self.state.authorities().await.map_err(Refusal::from)?;
        let stored = stored.map(|stored| stored.value).unwrap_or_default();
        let rotations = self.state.rotations().await.map_err(Refusal::from)?;
        let before = self.above.heard();
        let (confirmed, held) = self.said_above(before.as_ref(), &stored, &rotations);
        let heard = arx.sync(&self.state, confirmed, &held);
        let heard = heard.await.map_err(told)?;
        if let Some(before) = before.filter(|before| before.sequence > heard.sequence) {
            return Err(Refusal::new(
                "ARX-UPSTREAM-BACKWARD",
                Fault::Dependency,
                format!(
                    "the authority above at {} publishes bundle {} after {}, which is older: see whether its state was restored without --accept-loss",
                    arx.address, heard.sequence, before.sequence
                ),
            ));
        }
        if self.above.hears(&heard) {
            self.rotator.wake.notify_one();
        }
        let Some(active) = stored.active().and_then(Root::key_id) else {
            return Ok(());
        };
        let mut roots = stored.roots.iter();
        let prepared = roots.any(|root| root.state == RootState::Prepared);
        match wish(&heard, active, prepared, rotations.running()) {
            Wish::Nothing => Ok(()),
            Wish::Follow(root) => {
                let at = self.clock.monotonic();
                if let Some((_, refusal)) = asking.refused.as_ref().filter(|it| at < it.0) {
                    return Err(refusal.clone());
                }
                let now = || self.clock.now();
                let certified = self.authority.certified_under(root, now).await;
                let certified = certified.map_err(told);
                asking.answered(&certified, at);
                certified
            }
            Wish::Return(id) => {
                let reason = format!("the authority above at {} has gone back", arx.address);
                self.turn_round(&id, reason).await.map(drop)
            }
            Wish::GoOn(id) => self.continue_rotation(&id, None).await.map(drop),
            Wish::Distrust(root) => {
                let reason = format!("the authority above at {} distrusts it", arx.address);
                let distrusted = self.distrust_root(root, Pace::default(), reason, false);
                distrusted.await.map(drop)
            }
        }
    }

    /// The bundle above that everybody here has confirmed, and the roots under which something
    /// here may be valid.
    fn said_above(
        &self,
        heard: Option<&Heard>,
        stored: &Authorities,
        rotations: &Rotations,
    ) -> (Option<Sequence>, Vec<(KeyId, SystemTime)>) {
        let view: Option<Arc<View>> = self.rotator.watch().borrow().clone();
        // What was seen last may be of another rotation, or of before it was looked at.
        let view = view.filter(|view| rotations.all.last() == Some(&view.rotation));
        let is_known = view.is_some() || rotations.all.is_empty();
        let same = heard.filter(|heard| heard.has_exactly(self.trust.current().roots()));
        let confirmed = same.map(|heard| heard.sequence);
        let confirmed = confirmed.filter(|_| is_known && is_confirmed(view.as_deref()));
        let roots = stored.roots.iter();
        let held = roots.filter(|root| is_held(root, view.as_deref()));
        let held = held.filter_map(|root| Some((root.key_id()?, root.ends())));
        (confirmed, held.collect())
    }

    /// Whether the authority above has answered when it was asked last, if there is one.
    #[must_use]
    pub fn above_is_reachable(&self) -> Option<bool> {
        self.arx_above()?;
        Some(self.above.trouble.borrow().is_none())
    }

    /// Code and message, while the authority above cannot be heard or followed, with until when
    /// issuance goes on without it.
    #[must_use]
    pub fn above_is_away(&self) -> Option<(&'static str, String)> {
        let trouble = self.above.trouble.borrow();
        let (code, message) = trouble.as_ref()?;
        let until = self.authority.upper().map(|upper| rfc3339(upper.ends));
        let until = until.unwrap_or_else(|| "now".to_owned());
        Some((code, format!("{message}; issuance goes on until {until}")))
    }
}

/// How asking for a certificate goes, which costs the authority above a record each time.
#[derive(Debug, Default)]
struct Asking {
    failures: u32,
    /// What it came to, and when to ask again.
    refused: Option<(Instant, Refusal)>,
}

impl Asking {
    fn answered(&mut self, outcome: &Result<(), Refusal>, now: Instant) {
        match outcome {
            Ok(()) => *self = Self::default(),
            Err(refusal) => {
                self.failures += 1;
                // A rotation above waits for this.
                let again = now + backoff(self.failures.min(5));
                self.refused = Some((again, refusal.clone()));
            }
        }
    }
}

fn told(error: AuthorityError) -> Refusal {
    Refusal::new(error.code(), Fault::Dependency, error.to_string())
}
