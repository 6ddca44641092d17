//! Driving a rotation: look, decide, store the decision, act; and telling how it stands.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arx_identity::{Certificate, KeyId, Sequence};
use serde_json::json;
use tokio::sync::{Notify, watch};

use super::facts::{Facts, Obstacle, digest};
use super::hints::Hints;
use super::reports::{self, Heard, Told};
use super::shown::Shown;
use super::step::{Effect, Event, RotationError, begin, step};
use super::terms;
use super::time::{BelievedTime, Doubt, moved_ms};
use crate::authority::at_step;
use crate::ca::Ca;
use crate::ledger;
use crate::refusal::{Fault, Refusal};
use crate::state::{
    Decision, Document as _, Gate, Initiator, KeyPlace, Kind, Loaded, Phase, ReplicaDocument,
    Report, Root, RootName, RootState, Rotation, Rotations, StateError, Terms,
};
use crate::trust::TrustError;

/// A rotation that is under way is looked at this often, whatever happens.
const LOOK: Duration = Duration::from_secs(1);
/// After something failed.
const AGAIN: Duration = Duration::from_secs(2);
/// So often a wish is tried that another replica's steps come before.
pub(super) const TRIES: usize = 16;

/// How a rotation stands.
#[derive(Clone, Debug)]
pub struct View {
    /// What is stored of it.
    pub rotation: Rotation,
    /// Who has done what the phase waits for.
    pub confirmed: u64,
    /// Who has not: all of them, most blocking first.
    pub obstacles: Vec<Obstacle>,
    /// Denied holders who have not, and are not waited for.
    pub denied: Vec<Obstacle>,
    /// Code and message, if something keeps the authority itself from going on.
    pub trouble: Option<(&'static str, String)>,
}

/// Drives the rotation of an authority's root.
#[derive(Debug, Default)]
pub struct Rotator {
    view: watch::Sender<Option<Arc<View>>>,
    pub(super) wake: Notify,
    /// One look at a time.
    pub(super) turn: tokio::sync::Mutex<Hints>,
    shown: Shown,
    /// The time that counts, and when this process began.
    time: Mutex<(BelievedTime, Option<(SystemTime, Instant)>)>,
    /// When it was first known who holds what.
    counting: OnceLock<Instant>,
    /// What the other replicas were told last,
    told: Mutex<Option<Told>>,
    /// and when they have told something.
    heard: Mutex<Heard>,
    /// Since when nobody is in the way of this gate, as far as this process has looked.
    clear: Mutex<Option<(Passage, Instant)>>,
    /// The gate at which it was last noted how far the ledger is, and what was signed under then.
    marked: Mutex<Option<(Gate, KeyId)>>,
}

/// A phase of one rotation, and whether that is turned round.
type Passage = (String, Phase, bool);

/// What makes a rotation.
pub(super) type Begin =
    fn(&mut Rotations, KeyId, Terms, String, SystemTime) -> Result<Rotation, RotationError>;

/// When a wish may be done.
enum May<'a> {
    Always,
    /// If everybody who is in the way is on the list of this digest, which was shown.
    Shown(&'a [u8]),
    /// If nobody else has turned it round since it was first looked at, and there is a way back.
    TurnRound {
        by_operator: bool,
        turned: OnceLock<usize>,
    },
}

impl View {
    /// The digest of the list of who is in the way.
    #[must_use]
    pub fn digest(&self) -> Option<[u8; 32]> {
        digest(&self.rotation, &self.obstacles)
    }
}

impl Rotator {
    /// How the rotation stands that is under way, or that was last.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<Arc<View>>> {
        self.view.subscribe()
    }

    pub(super) fn told(&self) -> Option<Told> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.clone()
    }

    pub(super) fn has_told(&self, told: Told) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
    }

    pub(super) fn has_marked(&self, gate: &(Gate, KeyId)) -> bool {
        let marked = self.marked.lock().unwrap_or_else(PoisonError::into_inner);
        marked.as_ref() == Some(gate)
    }

    pub(super) fn mark(&self, gate: (Gate, KeyId)) {
        *self.marked.lock().unwrap_or_else(PoisonError::into_inner) = Some(gate);
    }

    /// How long it has been seen, which it is again at `now`, that nobody is in the way.
    pub(super) fn clear_for(&self, rotation: &Rotation, is_clear: bool, now: Instant) -> Duration {
        let mut clear = self.clear.lock().unwrap_or_else(PoisonError::into_inner);
        let passage = (rotation.id.clone(), rotation.phase, rotation.aborting);
        if !is_clear {
            *clear = None;
            return Duration::ZERO;
        }
        match &*clear {
            Some((same, since)) if *same == passage => now.saturating_duration_since(*since),
            _ => {
                *clear = Some((passage, now));
                Duration::ZERO
            }
        }
    }

    /// The replicas whose word about a node counts at a gate of this dwell.
    pub(super) fn alive<'a>(
        &self,
        reports: impl Iterator<Item = (&'a String, &'a Report)>,
        dwell: Duration,
        now: Instant,
    ) -> BTreeSet<&'a str> {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        reports::alive(&mut heard, reports, dwell, now)
    }

    /// Until the next look at what is under way, whatever happens.
    fn pause(&self) -> Duration {
        let view = self.view.borrow();
        let dwell = view.as_ref().map(|view| view.rotation.terms.dwell);
        dwell.map_or(LOOK, |dwell| LOOK.min(reports::beat(dwell)))
    }

    /// Has the rotation looked at.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// How long it has been known who holds what, which it is at `now`.
    pub(super) fn counting_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(*self.counting.get_or_init(|| now))
    }

    fn publish(&self, view: View) -> Arc<View> {
        let view = Arc::new(view);
        self.shown.note(&view);
        self.view.send_replace(Some(Arc::clone(&view)));
        view
    }
}

impl Ca {
    /// Begins a rotation of the root.
    ///
    /// # Errors
    /// [`Refusal`] if one is under way, the terms leave no time for it, or the state cannot be
    /// changed.
    pub async fn rotate(
        &self,
        terms: Terms,
        reason: String,
        by: Initiator,
    ) -> Result<Arc<View>, Refusal> {
        let mut hints = self.rotator.turn.lock().await;
        let running = self.state.rotations().await;
        if running.is_ok_and(|all| all.running().is_none()) {
            let root = self.active_root().await.map_err(Wrong::refusal)?;
            let (longest_leaf, now) = (self.authority.longest_leaf(), self.clock.now());
            terms::check(&terms, longest_leaf, root.certificate.not_after(), now)
                .map_err(|error| refused(&error))?;
            self.successor(&root).await?;
        }
        self.begin(begin, terms, reason, by, &mut hints).await
    }

    /// The root that signs. What is stored counts: another replica may have exchanged the
    /// roots.
    pub(super) async fn active_root(&self) -> Result<Root, Wrong> {
        let stored = self.state.authorities().await?.map(|stored| stored.value);
        let stored = stored.unwrap_or_default();
        if let Some(nothing) = self.authority.nothing_trusted(&stored) {
            return Err(nothing.into());
        }
        let mut roots = stored.roots.into_iter();
        roots
            .find(|root| root.state == RootState::Active)
            .ok_or_else(|| Wrong::gone("the active root"))
    }

    /// The root that follows this one, which is active, if that is there already; none, if it
    /// is made here.
    async fn successor(&self, active: &Root) -> Result<Option<Certificate>, Refusal> {
        let next = self.authority.successor().await;
        let next = next.map_err(|error| Wrong::from(error).refusal())?;
        if next.is_none() && !self.authority.can_be_followed(active) {
            return Err(no_successor(active));
        }
        Ok(next)
    }

    /// Whether a root can follow the one that is active.
    ///
    /// # Errors
    /// [`Refusal`] that says why none can.
    pub(crate) async fn can_be_rotated(&self) -> Result<(), Refusal> {
        let active = self.active_root().await.map_err(Wrong::refusal)?;
        self.successor(&active).await.map(drop)
    }

    /// Begins the rotation that `begin` makes.
    pub(super) async fn begin(
        &self,
        begin: Begin,
        terms: Terms,
        reason: String,
        by: Initiator,
        hints: &mut Hints,
    ) -> Result<Arc<View>, Refusal> {
        self.restore.is_open()?;
        let now = self.clock.now();
        let active = self.active_root().await.map_err(Wrong::refusal)?;
        let mut names = vec![name(&active.certificate)];
        let from = names[0].key_id;
        // Whether there may be none is for whoever begins it.
        if let Some(next) = self
            .authority
            .successor()
            .await
            .map_err(|error| Wrong::from(error).refusal())?
        {
            names.push(name(&next));
        }
        let key = self.state.key(&Rotations::KIND);
        let rotation = self
            .state
            .update(&key, |found: Option<Loaded<Rotations>>| {
                let mut rotations = found.map(|found| found.value).unwrap_or_default();
                let mut rotation = begin(&mut rotations, from, terms, reason.clone(), now)
                    .map_err(|error| Wrong::Refused(refused(&error)))?;
                rotation.roots.clone_from(&names);
                rotation.by = by;
                self.replica.as_ref().clone_into(&mut rotation.replica);
                if let Some(last) = rotations.all.last_mut() {
                    *last = rotation.clone();
                }
                Ok::<_, Wrong>(Decision::Write(rotations, rotation))
            })
            .await
            .map_err(Wrong::refusal)?;
        tracing::info!(rotation = %rotation.id, kind = rotation.kind.as_str(), from = %from, "a rotation of the root begins");
        self.record_step(
            &rotation,
            "begin",
            json!({ "kind": rotation.kind.as_str(), "from": from.to_string(), "reason": reason, "by": by.as_str(), "without_successor": rotation.without_successor }),
        )
        .await;
        // It has begun, and goes on as soon as it can.
        if let Err(wrong) = self.look(&Event::Looked, hints).await {
            self.in_trouble(&wrong.refusal()).await;
        }
        self.rotator.wake.notify_one();
        self.current_view()
    }

    /// Turns the rotation round that is under way.
    ///
    /// # Errors
    /// [`Refusal`] if there is none, or it cannot be turned round.
    pub async fn abort_rotation(&self, id: &str, reason: String) -> Result<Arc<View>, Refusal> {
        self.turn(id, reason, true).await
    }

    /// The same, whoever wishes it.
    pub(super) async fn turn_round(&self, id: &str, reason: String) -> Result<Arc<View>, Refusal> {
        self.turn(id, reason, false).await
    }

    async fn turn(
        &self,
        id: &str,
        reason: String,
        by_operator: bool,
    ) -> Result<Arc<View>, Refusal> {
        let may = May::TurnRound {
            by_operator,
            turned: OnceLock::new(),
        };
        self.wish(id, &Event::Abort(reason), &may).await
    }

    /// Where the roots are exchanged again, the one that it began with has to sign.
    async fn has_way_back(&self, rotation: &Rotation, active: KeyId) -> Result<(), Refusal> {
        let exchanges = [Phase::Activate, Phase::Reissue, Phase::Held];
        if !exchanges.contains(&rotation.phase) || active == rotation.from {
            return Ok(());
        }
        let signs = self.authority.can_sign(rotation.from).await;
        signs.map_err(|reason| {
            refused(&RotationError::NoWayBack {
                id: rotation.id.clone(),
                reason: reason.to_string(),
            })
        })
    }

    /// Lets a rotation go on that waits for the operator; or, forced, past a gate that is
    /// shut: `force` is the reason, and the digest of the list that the operator was shown.
    ///
    /// # Errors
    /// [`Refusal`] if there is nothing to go on from, or somebody else is in the way than the
    /// operator was shown.
    pub async fn continue_rotation(
        &self,
        id: &str,
        force: Option<(String, &[u8])>,
    ) -> Result<Arc<View>, Refusal> {
        let Some((reason, digest)) = force else {
            return self.wish(id, &Event::Continue, &May::Always).await;
        };
        let event = Event::Force(reason);
        self.wish(id, &event, &May::Shown(digest)).await
    }

    /// One look, for tests that drive by themselves.
    #[cfg(test)]
    pub(crate) async fn look_again(&self) -> Result<(), Refusal> {
        let mut hints = self.rotator.turn.lock().await;
        let looked = self.look(&Event::Looked, &mut hints).await;
        looked.map(|_| ()).map_err(Wrong::refusal)
    }

    pub(super) fn current_view(&self) -> Result<Arc<View>, Refusal> {
        let view = self.rotator.view.borrow().clone();
        view.ok_or_else(|| refused(&RotationError::None))
    }

    /// Does what an operator wishes of the rotation `id`, if it `may` be by what is there when it
    /// is done: it has happened, or is refused.
    async fn wish(&self, id: &str, event: &Event, may: &May<'_>) -> Result<Arc<View>, Refusal> {
        let mut hints = self.rotator.turn.lock().await;
        for _ in 0..TRIES {
            let looked = self.look_if(event, &mut hints, Some((id, may))).await;
            if !matches!(looked.map_err(Wrong::refusal)?, Looked::Outrun) {
                self.rotator.wake.notify_one();
                return self.current_view();
            }
        }
        Err(outrun(id))
    }

    /// Whether what is wished may be done to `rotation`, of which `facts` are seen.
    async fn may(
        &self,
        (id, may): (&str, &May<'_>),
        rotation: &Rotation,
        facts: &Facts,
    ) -> Result<(), Refusal> {
        if !id.is_empty() && rotation.id != id {
            return Err(refused(&RotationError::None));
        }
        match may {
            May::Always => Ok(()),
            May::Shown(digest) => {
                if self
                    .rotator
                    .shown
                    .has_all(digest, rotation, &facts.obstacles)
                {
                    return Ok(());
                }
                Err(Refusal::new(
                    "ARX-ROTATION-LIST-CHANGED",
                    Fault::Changed,
                    "somebody is in the way who was not on the list that you were shown: look at `arx rotate status` again",
                ))
            }
            // Nothing is turned round, which is said by whoever would have to.
            May::TurnRound { .. } if rotation.phase.is_over() => Ok(()),
            May::TurnRound {
                by_operator,
                turned,
            } => {
                // What somebody else has turned round meanwhile is not turned back.
                let turns = rotation.passed.iter().filter(|it| it.aborted.is_some());
                let turns = turns.count();
                if *turned.get_or_init(|| turns) != turns {
                    return Err(outrun(&rotation.id));
                }
                if *by_operator {
                    self.may_turn_round(rotation, facts.active)?;
                }
                self.has_way_back(rotation, facts.active).await
            }
        }
    }

    /// Drives whatever rotation there is, for as long as the process runs.
    pub async fn keep_rotating(&self) {
        let mut fleet = self.fleet.changed();
        let mut issuing = self.authority.watch();
        let mut store = self.state.changes(&Rotations::KIND);
        let mut replicas = self.state.changes(&ReplicaDocument::KIND);
        let mut leads = self.leading.watch();
        let mut jumps = self.clock.jumps();
        loop {
            let wait = {
                let mut hints = self.rotator.turn.lock().await;
                match self.look(&Event::Looked, &mut hints).await {
                    Ok(Looked::Again | Looked::Outrun) => continue,
                    Ok(Looked::Waiting) => self.rotator.pause(),
                    Ok(Looked::Idle) => Duration::MAX,
                    Err(wrong) => {
                        self.in_trouble(&wrong.refusal()).await;
                        AGAIN
                    }
                }
            };
            tokio::select! {
                () = self.rotator.wake.notified() => {}
                _ = store.changed() => {}
                Ok(()) = leads.changed() => {}
                _ = replicas.changed(), if wait < Duration::MAX => {}
                Ok(()) = jumps.changed() => {}
                Ok(()) = issuing.changed(), if wait < Duration::MAX => {}
                Ok(()) = fleet.changed(), if wait < Duration::MAX => {
                    // What many report at once is looked at once.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                () = tokio::time::sleep(wait), if wait < Duration::MAX => {}
            }
        }
    }

    /// The time that the rotation may draw conclusions from.
    fn believed_time(&self, rotation: &Rotation) -> (SystemTime, Option<Doubt>) {
        let now = (self.clock.now(), self.clock.monotonic());
        let mut time = (self.rotator.time.lock()).unwrap_or_else(PoisonError::into_inner);
        let (believed, began) = &mut *time;
        let moved = moved_ms(*began.get_or_insert(now), now);
        let mut offsets = self.fleet.clock_offsets_ms(moved);
        let stored = rotation
            .phase_began
            .max(rotation.clear_since.unwrap_or(rotation.began));
        believed.at(stored, now.0, now.1, &mut offsets)
    }

    /// Tells of what keeps the authority from going on with the rotation that is stored, also
    /// where that was never looked at.
    async fn in_trouble(&self, refusal: &Refusal) {
        let (code, message) = (refusal.code, refusal.message.as_str());
        tracing::error!(code, "the rotation cannot go on: {message}");
        let told = self.current_view().ok();
        let stored = self.state.rotations().await.ok();
        let stored = stored.and_then(|mut stored| stored.all.pop());
        let same = |view: &Arc<View>| {
            let other = stored.as_ref().filter(|it| it.id != view.rotation.id);
            other.is_none()
        };
        let view = match (told.filter(same), stored) {
            (Some(told), _) => (*told).clone(),
            (None, Some(rotation)) => View {
                rotation,
                confirmed: 0,
                obstacles: Vec::new(),
                denied: Vec::new(),
                trouble: None,
            },
            (None, None) => return,
        };
        self.rotator.publish(View {
            trouble: Some((code, message.to_owned())),
            ..view
        });
    }

    /// Looks once, decides, stores what was decided, and does it.
    pub(super) async fn look(&self, event: &Event, hints: &mut Hints) -> Result<Looked, Wrong> {
        self.look_if(event, hints, None).await
    }

    /// The same, if it may be what is wished of a rotation, by what is seen: what is stored has to be
    /// what was seen, or it is looked at anew.
    async fn look_if(
        &self,
        event: &Event,
        hints: &mut Hints,
        wished: Option<(&str, &May<'_>)>,
    ) -> Result<Looked, Wrong> {
        match (self.restore.lets_rotate(), event) {
            (Ok(()), _) => {}
            // Whoever opens it wakes us.
            (Err(_), Event::Looked) => return Ok(Looked::Idle),
            (Err(shut), _) => return Err(Wrong::Refused(shut)),
        }
        let key = self.state.key(&Rotations::KIND);
        let stored = self.state.load::<Rotations>(&key).await?;
        let generation = stored.as_ref().map_or(0, |stored| stored.generation);
        let Some(rotation) = stored.and_then(|stored| stored.value.all.last().cloned()) else {
            return match event {
                Event::Looked => Ok(Looked::Idle),
                _ => Err(Wrong::Refused(refused(&RotationError::None))),
            };
        };
        let (now, doubt) = self.believed_time(&rotation);
        let facts = self.facts(&rotation, now, doubt).await?;
        if let Some(wished) = wished {
            let may = self.may(wished, &rotation, &facts).await;
            may.map_err(Wrong::Refused)?;
        }
        let step =
            step(&rotation, event, &facts, now).map_err(|error| Wrong::Refused(refused(&error)))?;
        // Whoever is asked by an operator acts; what only is looked at is the leader's.
        let leads = self.is_leader() || !matches!(event, Event::Looked);
        let step = match leads {
            true => step,
            false => step.of_each(),
        };
        let moved = step.next.is_some();
        let (rotation, generation) = match step.next {
            Some(next) => match self.store(&rotation, next, &facts).await? {
                Some(stored) => (stored, generation + 1),
                None => return Ok(Looked::Outrun),
            },
            None => (rotation, generation),
        };
        let acts = !step.effects.is_empty();
        let hints_only = matches!(step.effects[..], [Effect::Renew(..)]);
        for effect in step.effects {
            let act = self.act(&rotation, effect, facts.sequence, now, hints);
            at_step(generation, act).await?;
        }
        let over = rotation.phase.is_over();
        let distrusted = (rotation.kind == Kind::Distrust && !over).then_some(rotation.from);
        self.authority.follow_cross(distrusted).await?;
        let trouble = None;
        let Facts {
            confirmed,
            obstacles,
            denied,
            ..
        } = if moved {
            self.facts(&rotation, now, doubt).await?
        } else {
            facts
        };
        self.rotator.publish(View {
            rotation,
            confirmed,
            obstacles,
            denied,
            trouble,
        });
        Ok(match (moved, acts && !hints_only, over) {
            (true, _, false) => Looked::Again,
            // What was done is seen at the next look.
            (false, true, _) => Looked::Waiting,
            (_, _, true) => Looked::Idle,
            (false, false, false) => Looked::Waiting,
        })
    }

    /// Takes the only root out of use and out of the bundle. The ledger has it first.
    async fn cut_off(
        &self,
        rotation: &Rotation,
        root: KeyId,
        now: SystemTime,
    ) -> Result<(), Wrong> {
        self.record_distrusted(rotation, root).await?;
        let placeholder = self.authority.cut_off(root, now).await?;
        let mut bundle = self.trust.refresh().await?;
        let mut roots = bundle.roots().iter();
        if roots.any(|it| it.subject_key_id() == Some(root)) {
            let after = bundle.sequence();
            bundle = self.trust.publish_nothing(after, placeholder, now).await?;
        }
        tracing::warn!(rotation = %rotation.id, %root, bundle = %bundle.sequence(), "the only root is distrusted for good: nothing is issued, and nothing connects, until the authority begins anew with another one");
        Ok(())
    }

    /// Stores `next` in place of `before`; nothing if that is not there any more.
    async fn store(
        &self,
        before: &Rotation,
        mut next: Rotation,
        facts: &Facts,
    ) -> Result<Option<Rotation>, Wrong> {
        if let Some(stored) = self.state.authorities().await? {
            for id in [Some(next.from), next.to].into_iter().flatten() {
                let known = next.roots.iter().any(|root| root.key_id == id);
                if let (false, Some(root)) = (known, stored.value.root(id)) {
                    next.roots.push(name(&root.certificate));
                }
            }
            let to = next.to.and_then(|to| stored.value.root(to));
            let cross = to.and_then(|to| to.cross.as_ref());
            next.cross_until = next.cross_until.or(cross.map(Certificate::not_after));
        }
        let key = self.state.key(&Rotations::KIND);
        let stored = self
            .state
            .update(&key, |found: Option<Loaded<Rotations>>| {
                let mut rotations = found.map(|found| found.value).unwrap_or_default();
                let Some(last) = rotations.all.last_mut().filter(|last| *last == before) else {
                    return Ok::<_, StateError>(Decision::Keep(false));
                };
                *last = next.clone();
                Ok(Decision::Write(rotations, true))
            })
            .await?;
        if !stored {
            return Ok(None);
        }
        if next.passed.len() > before.passed.len()
            && let Some(passed) = next.passed.last()
        {
            tracing::info!(
                rotation = %next.id,
                phase = next.phase.as_str(),
                passed = passed.phase.as_str(),
                confirmed = passed.confirmed,
                forced = passed.forced.is_some(),
                "the rotation goes on"
            );
            let detail = json!({
                "kind": next.kind.as_str(),
                "passed": passed,
                "aborting": next.aborting,
                "unconfirmed": facts.obstacles.len(),
                "digest": digest(before, &facts.obstacles).map(|hash| crate::hex::Hex(&hash).to_string()),
            });
            self.record_step(&next, next.phase.as_str(), detail).await;
        }
        Ok(Some(next))
    }

    pub(super) async fn record_step(
        &self,
        rotation: &Rotation,
        step: &str,
        detail: serde_json::Value,
    ) {
        let record = ledger::Rotation {
            rotation: rotation.id.clone(),
            step: step.to_owned(),
            detail: detail.to_string(),
        };
        let record = ledger::Record::new(self.clock.now(), record);
        // The document has it; the ledger is the evidence beside it.
        if let Err(error) = self.ledger.append(vec![record]).await {
            tracing::error!(code = error.code(), rotation = %rotation.id, step, "a step of the rotation is not in the ledger: {error}");
        }
    }

    async fn act(
        &self,
        rotation: &Rotation,
        effect: Effect,
        after: Sequence,
        now: SystemTime,
        hints: &mut Hints,
    ) -> Result<(), Wrong> {
        match effect {
            Effect::MakeRoot if self.crosses(rotation) => {
                let (_, crossing) = self.authority.prepare_crossed_root(now).await?;
                self.record_crossing(rotation, &crossing).await;
            }
            Effect::MakeRoot => drop(self.authority.prepare_root(now).await?),
            Effect::DropRoot(root) => self.authority.drop_prepared(root).await?,
            Effect::Publish(roots) => {
                let stored = self.state.authorities().await?;
                let stored = stored.ok_or_else(|| Wrong::gone("the authorities"))?;
                let certificates = roots
                    .iter()
                    .map(|id| stored.value.root(*id).map(|root| root.certificate.clone()))
                    .collect::<Option<Vec<_>>>()
                    .ok_or_else(|| Wrong::gone("a root of the rotation"))?;
                // What follows that which was looked at, and nothing else: whoever was stopped
                // meanwhile finds its place taken, and looks again.
                let bundle = match self.trust.publish(after, certificates, now).await {
                    Err(TrustError::Moved { .. }) => {
                        self.trust.refresh().await?;
                        return Ok(());
                    }
                    published => published?,
                };
                tracing::info!(rotation = %rotation.id, bundle = %bundle.sequence(), roots = bundle.roots().len(), "a bundle is published");
            }
            Effect::Activate(from, to) => self.authority.activate(from, to).await?,
            Effect::TakeOver => drop(self.authority.follow_active().await?),
            Effect::Renew(root, by) => hints.tell(&self.fleet, rotation, root, by),
            Effect::Retire(root) => {
                let stored = self.state.authorities().await?;
                let state = stored.as_ref().and_then(|stored| stored.value.root(root));
                // Turned round before it had become active.
                if state.is_some_and(|root| root.state == RootState::Prepared) {
                    self.authority.drop_prepared(root).await?;
                } else {
                    self.authority.retire(root).await?;
                }
            }
            Effect::Distrust(root) => {
                self.record_distrusted(rotation, root).await?;
                self.authority.distrust(root).await?;
                tracing::warn!(rotation = %rotation.id, %root, "a root is distrusted for good");
                self.tell_vouched(rotation, root, now).await?;
            }
            Effect::CutOff(root) => self.cut_off(rotation, root, now).await?,
            Effect::StopSigning => self.authority.stop_signing(),
        }
        Ok(())
    }
}

/// What came of a look.
pub(super) enum Looked {
    /// Something has changed: look again at once.
    Again,
    /// Somebody else took a step, and nothing was done.
    Outrun,
    /// Look again soon.
    Waiting,
    /// Nothing is under way.
    Idle,
}

/// What went wrong.
pub(super) enum Wrong {
    Refused(Refusal),
    State(StateError),
    Authority(crate::authority::AuthorityError),
    Trust(crate::trust::TrustError),
}

impl Wrong {
    pub(super) fn gone(what: &str) -> Self {
        Self::Refused(Refusal::new(
            "ARX-ROTATION-STATE",
            Fault::Internal,
            format!("{what} is not in the state any more: restore a backup"),
        ))
    }

    pub(super) fn refusal(self) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            Self::State(error) => Refusal::new(error.code(), Fault::Dependency, error.to_string()),
            Self::Authority(error) => {
                Refusal::new(error.code(), Fault::Dependency, error.to_string())
            }
            Self::Trust(error) => Refusal::new(error.code(), Fault::Dependency, error.to_string()),
        }
    }
}

impl From<StateError> for Wrong {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

impl From<crate::authority::AuthorityError> for Wrong {
    fn from(error: crate::authority::AuthorityError) -> Self {
        Self::Authority(error)
    }
}

impl From<crate::trust::TrustError> for Wrong {
    fn from(error: crate::trust::TrustError) -> Self {
        Self::Trust(error)
    }
}

/// Others were faster.
pub(super) fn outrun(id: &str) -> Refusal {
    Refusal::new(
        "ARX-ROTATION-OUTRUN",
        Fault::Changed,
        format!(
            "the rotation {id} was changed from elsewhere at the same moment: look at `arx rotate status`, and ask again if it is still wanted"
        ),
    )
}

pub(super) fn refused(error: &RotationError) -> Refusal {
    Refusal::new(error.code(), Fault::Request, error.to_string())
}

fn no_successor(active: &Root) -> Refusal {
    if !matches!(active.key, KeyPlace::Files) {
        return Refusal::new(
            "ARX-AUTHORITY-ROOT-OUTSIDE",
            Fault::Request,
            format!(
                "the key of the root {} is not here, and no root is made to follow it: the next one is of whoever has that key",
                active.certificate.subject()
            ),
        );
    }
    Refusal::new(
        "ARX-ROTATION-FILES",
        Fault::Request,
        "the root is the operator's, and so is the one that follows it: put that, with its chain and its key, in place of authority.certificate_file and key_file; the rotation to it begins by itself",
    )
}

fn name(root: &Certificate) -> RootName {
    RootName {
        key_id: root
            .subject_key_id()
            .unwrap_or_else(|| root.public_key().key_id()),
        subject: root.subject().to_owned(),
        not_after: root.not_after(),
    }
}

#[cfg(test)]
mod tests;
