//! Tombstones that the ledger has and a restored state has not.

use std::collections::BTreeSet;
use std::time::SystemTime;

use arx_identity::KeyId;

use super::{
    Authorities, Decision, Document as _, KeyPlace, Loaded, Phase, Root, RootState, Rotations,
    State, StateError,
};

impl State {
    /// Takes over that these roots must never be trusted again. Where the active one is among
    /// them, another one that is there takes its place, if it has ever signed; a rotation that
    /// one of them takes part in is over.
    ///
    /// # Errors
    /// [`StateError`] if the state cannot be changed.
    pub async fn bury(&self, roots: &BTreeSet<KeyId>, now: SystemTime) -> Result<(), StateError> {
        if roots.is_empty() {
            return Ok(());
        }
        let key = self.key(&Rotations::KIND);
        self.update(&key, |found: Option<Loaded<Rotations>>| {
            let mut rotations = found.map(|found| found.value).unwrap_or_default();
            let running = rotations.running().is_some_and(|running| {
                let ends = [Some(running.from), running.to];
                ends.into_iter().flatten().any(|root| roots.contains(&root))
            });
            match rotations.all.last_mut().filter(|_| running) {
                Some(last) => {
                    (last.phase, last.phase_began) = (Phase::Aborted, now);
                    Ok::<_, StateError>(Decision::Write(rotations, ()))
                }
                None => Ok(Decision::Keep(())),
            }
        })
        .await?;
        let key = self.key(&Authorities::KIND);
        self.update(&key, |found: Option<Loaded<Authorities>>| {
            let Some(mut stored) = found.map(|found| found.value) else {
                return Ok::<_, StateError>(Decision::Keep(()));
            };
            Ok(if bury(&mut stored, roots) {
                Decision::Write(stored, ())
            } else {
                Decision::Keep(())
            })
        })
        .await
    }
}

fn bury(stored: &mut Authorities, roots: &BTreeSet<KeyId>) -> bool {
    let mut changed = false;
    for root in &mut stored.roots {
        let is_one = root.key_id().is_some_and(|id| roots.contains(&id));
        if is_one && root.state != RootState::Distrusted {
            (root.state, root.key) = (RootState::Distrusted, KeyPlace::Erased);
            changed = true;
        }
    }
    if changed && stored.active().is_none() {
        stored
            .roots
            .retain(|root| root.state != RootState::Prepared);
        let mut others = stored.roots.iter_mut();
        let signs =
            |it: &&mut Root| it.state == RootState::Retiring && !matches!(it.key, KeyPlace::Erased);
        match others.find(signs) {
            Some(other) => other.state = RootState::Active,
            None => stored.anew = true,
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::{House, Outcome};

    async fn stored(state: &State) -> Result<Authorities, Box<dyn std::error::Error>> {
        let stored = state.authorities().await?;
        Ok(stored.ok_or("there are authorities")?.value)
    }

    #[tokio::test]
    async fn a_root_that_has_signed_takes_the_place_of_one_that_is_buried() -> Outcome {
        let house = House::new().await?;
        let (ca, now) = (&house.ca, house.clock.now());
        let first = ca.authority.root_key_id();
        let next = ca.authority.prepare_root(now).await?;
        let next = next.subject_key_id().ok_or("a root has one")?;
        ca.authority.activate(first, next).await?;
        ca.state.bury(&BTreeSet::from([next]), now).await?;
        let after = stored(&ca.state).await?;
        assert_eq!(after.active().and_then(Root::key_id), Some(first));
        assert!(!after.anew);
        let buried = after.root(next).ok_or("it is there")?;
        assert_eq!(buried.state, RootState::Distrusted);
        assert!(matches!(buried.key, KeyPlace::Erased));
        Ok(())
    }

    #[tokio::test]
    async fn where_none_is_left_another_may_be_made_and_a_rotation_is_over() -> Outcome {
        let house = House::new().await?;
        let (ca, now) = (&house.ca, house.clock.now());
        let first = ca.authority.root_key_id();
        let terms = ca.terms(None, None, None);
        ca.rotate(terms, String::new(), crate::state::Initiator::Operator)
            .await?;
        let later = now + Duration::from_secs(1);
        ca.state.bury(&BTreeSet::from([first]), later).await?;
        let after = stored(&ca.state).await?;
        assert!(after.active().is_none() && after.is_to_begin_anew());
        assert_eq!(after.roots.len(), 1, "what was only prepared is gone");
        let rotations = ca.state.rotations().await?;
        assert_eq!(
            rotations.all.last().map(|it| it.phase),
            Some(Phase::Aborted)
        );
        // Nothing happens twice.
        ca.state.bury(&BTreeSet::from([first]), later).await?;
        Ok(())
    }
}
