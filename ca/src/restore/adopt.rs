//! Going on from a root that the fleet has, whose key was lost with the state that knew it: it is
//! trusted again, everybody gets certificates under the root that is here, and then it leaves.

use std::sync::Arc;

use arx_identity::{Certificate, KeyId, TrustBundle};
use serde_json::Map;

use super::open::nothing_to_open;
use crate::ca::Ca;
use crate::refusal::{Fault, Refusal};
use crate::rotation::begin_adoption;
use crate::state::{
    Adopts, Authorities, Decision, Document as _, KeyPlace, Kind, Loaded, Opened, Phase, Restored,
    Root, RootState, Rotations,
};

impl Ca {
    /// Takes over the one root that agents hold and this state does not know; `roots` is the
    /// fleet's bundle, PEM, by an operator's word. Nothing is issued before everybody has that
    /// root and the one that signs here.
    ///
    /// # Errors
    /// [`Refusal`] if there is no such root, or more than one, or it is not in `roots`, or must
    /// not be trusted; or it could not be stored.
    pub(crate) async fn adopt_root(
        &self,
        roots: &str,
        reason: String,
    ) -> Result<Restored, Refusal> {
        let restored = self.restore.get().filter(|it| it.is_shut());
        let restored = restored.ok_or_else(nothing_to_open)?;
        let now = self.clock.now();
        let root = self.missing_root(&restored, roots)?;
        let id = root
            .subject_key_id()
            .ok_or_else(|| wrong("it has no key identifier"))?;
        if root.not_after() <= now {
            return Err(wrong(
                "the missing root has ended, so nothing is valid under it",
            ));
        }
        // Nothing is trusted that was not first looked at by the rules for any root.
        let bundle = TrustBundle::new(
            self.trust_domain.clone(),
            self.trust.current().sequence(),
            vec![root.clone()],
        );
        bundle.map_err(|error| wrong(&error.to_string()))?;
        let detail = format!(
            "root {id} of the fleet beside backup {}: {reason}",
            restored.backup
        );
        self.record_opening("admin socket", "adopt-root", detail, now)
            .await?;
        let active = self.trust_root(&root, id).await?;
        let key = self.state.key(&Rotations::KIND);
        let terms = self.terms(None, None, None);
        let rotation = self
            .state
            .update(&key, |found: Option<Loaded<Rotations>>| {
                let mut rotations = found.map(|found| found.value).unwrap_or_default();
                let why = format!("a restored state without it: {reason}");
                let begun = begin_adoption(&mut rotations, (id, active), terms, why, now);
                let mut begun =
                    begun.map_err(|error| refused("ARX-ROTATION-UNDER-WAY", &error.to_string()))?;
                self.replica.as_ref().clone_into(&mut begun.replica);
                if let Some(last) = rotations.all.last_mut() {
                    *last = begun.clone();
                }
                Ok::<_, Refusal>(Decision::Write(rotations, begun))
            })
            .await?;
        tracing::warn!(root = %id, rotation = %rotation.id, "a root of the fleet's is trusted again, and is rotated away from");
        let adopts = Adopts {
            root: id,
            rotation: rotation.id,
            reason,
            has_begun: false,
        };
        let decided = self
            .change_restored(|restored| {
                restored.adopts = Some(adopts.clone());
                Ok(())
            })
            .await?;
        self.begin_adoption(&decided, &root).await
    }

    /// Publishes both roots in an epoch of their own; before that the rotation does not go on.
    async fn begin_adoption(
        &self,
        decided: &Restored,
        root: &Certificate,
    ) -> Result<Restored, Refusal> {
        let now = self.clock.now();
        let known = decided.highest().max(self.ledger.last_sequence());
        let active = self.authority.root();
        let begun = self
            .trust
            .begin_epoch(known, &active, Some(root), now)
            .await;
        begun.map_err(|error| Refusal::new(error.code(), Fault::Dependency, error.to_string()))?;
        let restored = self
            .change_restored(|restored| {
                if let Some(adopts) = &mut restored.adopts {
                    adopts.has_begun = true;
                }
                Ok(())
            })
            .await?;
        self.rotator.wake();
        Ok(restored)
    }

    /// The root that agents hold and this state does not know, as it is in the fleet's bundle.
    fn missing_root(&self, restored: &Restored, roots: &str) -> Result<Certificate, Refusal> {
        let ahead = restored.ahead();
        let mut missing: Vec<KeyId> = ahead
            .iter()
            .flat_map(|ahead| ahead.missing.iter().copied())
            .collect();
        missing.sort_by(|one, other| one.as_bytes().cmp(other.as_bytes()));
        missing.dedup();
        let [id] = missing[..] else {
            return Err(refused(
                "ARX-RESTORE-ADOPT",
                &format!(
                    "{} roots are missing here, and one can be taken over: see `arx restore status`",
                    missing.len()
                ),
            ));
        };
        let found = Certificate::list_from_pem(roots).map_err(|error| wrong(&error.to_string()))?;
        let mut found = found.into_iter();
        found
            .find(|root| root.subject_key_id() == Some(id))
            .ok_or_else(|| {
                wrong(&format!(
                    "the root that is missing here, {id}, is not among them"
                ))
            })
    }

    /// Puts it among the roots, as one that signs nothing; answers the one that does.
    async fn trust_root(&self, root: &Certificate, id: KeyId) -> Result<KeyId, Refusal> {
        let now = self.clock.now();
        let key = self.state.key(&Authorities::KIND);
        self.state
            .update(&key, |found: Option<Loaded<Authorities>>| {
                let mut stored = found.map(|found| found.value).unwrap_or_default();
                if let Some(tombstone) = stored.tombstone(root) {
                    let subject = tombstone.certificate.subject();
                    return Err(wrong(&format!("{subject} was distrusted, and stays so")));
                }
                let active = stored.active().and_then(Root::key_id);
                let active = active.ok_or_else(|| wrong("no root signs here"))?;
                if stored.root(id).is_some() {
                    return Ok(Decision::Keep(active));
                }
                stored.roots.push(Root {
                    certificate: root.clone(),
                    state: RootState::Retiring,
                    key: KeyPlace::Erased,
                    above: Vec::new(),
                    cross: None,
                    added: now,
                    extra: Map::new(),
                });
                Ok::<_, Refusal>(Decision::Write(stored, active))
            })
            .await
    }

    /// Opens when everybody has the fleet's root and the one that signs here: when the rotation
    /// away from it has left Distribute.
    pub(super) async fn follow_adoption(&self, restored: &Arc<Restored>) -> Result<(), Refusal> {
        let Some(adopts) = &restored.adopts else {
            return Ok(());
        };
        if !adopts.has_begun {
            let stored = self.state.authorities().await.map_err(Refusal::from)?;
            let stored = stored.map(|stored| stored.value).unwrap_or_default();
            let root = stored
                .root(adopts.root)
                .ok_or_else(|| wrong("its root is gone"))?;
            self.begin_adoption(restored, &root.certificate).await?;
            return Ok(());
        }
        let rotations = self.state.rotations().await.map_err(Refusal::from)?;
        let mut all = rotations.all.iter();
        // One that is not there, or is not understood here, proves nothing.
        let is_confirmed = all.any(|it| {
            it.id == adopts.rotation
                && it.kind != Kind::Unknown
                && !matches!(
                    it.phase,
                    Phase::Prepare | Phase::Distribute | Phase::Unknown
                )
        });
        if !is_confirmed {
            return Ok(());
        }
        let opened = Opened {
            at: self.clock.now(),
            agents: None,
            reason: adopts.reason.clone(),
        };
        self.change_restored(|restored| {
            restored.opened = Some(opened.clone());
            Ok(())
        })
        .await?;
        tracing::warn!(rotation = %adopts.rotation, "a restored state is open: everybody has the root that signs here");
        Ok(())
    }
}

fn refused(code: &'static str, message: &str) -> Refusal {
    Refusal::new(code, Fault::Request, message)
}

fn wrong(what: &str) -> Refusal {
    refused(
        "ARX-RESTORE-ADOPT",
        &format!("nothing was taken over: {what}"),
    )
}
