//! Driving a rotation: look, decide, store, act; with a crash between any two of them.

use std::sync::Arc;
use std::time::Duration;

use arx_ca::rotation::{self, Effect, Event, Facts, RotationError, Seen, Sight};
use arx_ca::state::{Kind, Phase, RootState, Rotation, Terms};
use arx_identity::{Certificate, KeyId};

use super::{Authority, CLUSTER, Message, REPLICAS, TTL, bundle, message, record, trust_update};
use crate::dice::Dice;
use crate::simulation::clock::{Millis, wall};
use crate::simulation::fault::Fault;
use crate::simulation::pool::Pool;

/// A clock that is ahead by this makes everything end too soon.
const FAST: Duration = Duration::from_secs(40 * 60);

/// How fast a root goes that must not be trusted any more.
pub const DISTRUST: Terms = Terms {
    window: Duration::ZERO,
    dwell: arx_ca::distrust::DWELL,
    patience: Some(arx_ca::distrust::CAP),
};

/// What an operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Nothing.
    None,
    /// Turn round.
    Abort,
    /// Go on after it was held.
    Continue,
    /// Pass the gate.
    Force,
    /// Trust the root that leaves no more.
    Distrust,
    /// Trust the root that comes no more.
    DistrustNext,
}

/// What came of a look.
#[derive(Debug, Default)]
pub struct Looked {
    /// It is to be looked at again at once.
    pub again: bool,
    /// Who was left behind by force, by node and process.
    pub forced: Vec<(String, String)>,
    /// For the trace.
    pub said: Option<String>,
    /// The process has died.
    pub crashed: bool,
    /// A root whose distrust is over.
    pub buried: Option<KeyId>,
    /// What was wished for is refused.
    pub refused: bool,
    /// The phase has changed.
    pub moved: bool,
}

impl Authority {
    /// A rotation begins, if none is under way.
    pub fn begin(&mut self, terms: Terms, now: Millis) -> bool {
        let from = self.store.active();
        let begun = rotation::begin(
            &mut self.store.rotations,
            from,
            terms,
            String::new(),
            wall(now),
        );
        begun.is_ok()
    }

    /// The distrust of the root that signs begins, if no rotation is under way.
    pub fn begin_distrust(&mut self, terms: Terms, now: Millis) -> bool {
        let root = self.store.active();
        let all = &mut self.store.rotations;
        let begun = rotation::begin_distrust(all, root, terms, "stolen".to_owned(), wall(now));
        begun.is_ok()
    }

    /// How long its process has known who holds what.
    #[must_use]
    pub fn counting_for(&self, now: Millis) -> Option<Duration> {
        let process = self.process.as_ref()?;
        Some(Duration::from_millis(now.saturating_sub(process.began)))
    }

    /// The rotation that is under way.
    #[must_use]
    pub fn rotation(&self) -> Option<&Rotation> {
        self.store.rotations.running()
    }

    /// Looks once; `dice` says where it is cut off.
    ///
    /// # Errors
    /// What breaks a promise of the store.
    pub fn look(
        &mut self,
        pool: &mut Pool,
        wish: &Wish,
        dice: &mut Dice,
        crashes: bool,
        now: Millis,
    ) -> Result<Looked, String> {
        let mut looked = Looked::default();
        let Some(mut before) = self.rotation().cloned() else {
            return Ok(looked);
        };
        if before.phase == Phase::Unknown && self.fault == Some(Fault::UnknownPhaseStepped) {
            before.phase = Phase::Reissue;
        }
        let Some(facts) = self.facts(pool, &before, now) else {
            return Ok(looked);
        };
        let event = match wish {
            Wish::None => Event::Looked,
            Wish::Abort => Event::Abort(String::new()),
            Wish::Continue => Event::Continue,
            Wish::Force => Event::Force("a test".to_owned()),
            Wish::Distrust => stolen(before.from),
            Wish::DistrustNext => stolen(before.to.or(facts.prepared).unwrap_or(before.from)),
        };
        let mut step = match rotation::step(&before, &event, &facts, wall(now)) {
            Ok(step) => step,
            Err(RotationError::None | RotationError::Over(_)) => return Ok(looked),
            Err(error) => {
                looked.said = Some(format!("{wish:?} refused: {error}"));
                looked.refused = true;
                return Ok(looked);
            }
        };
        if self.fault == Some(Fault::AbortDropsRoot)
            && *wish == Wish::Abort
            && before.phase == Phase::Reissue
            && let Some(next) = &mut step.next
        {
            next.phase = Phase::Withdraw;
            (next.from, next.to) = (before.from, before.to);
            self.store.set(before.from, RootState::Active);
            self.store.roots.retain(|(id, _)| Some(*id) != before.to);
        }
        if self.fault == Some(Fault::DistrustWaits)
            && let Some(next) = &mut step.next
            && before.kind == Kind::Distrust
            && next.passed.last().is_some_and(|it| it.forced.is_some())
        {
            return Ok(looked);
        }
        let mut cut = || crashes && dice.one_in(60);
        if cut() {
            looked.crashed = true;
            return Ok(looked);
        }
        if let Some(next) = step.next {
            if next.phase != before.phase {
                looked.said = Some(format!(
                    "{} -> {} ({wish:?}, {} in the way)",
                    before.phase.as_str(),
                    next.phase.as_str(),
                    facts.obstacles.len()
                ));
            }
            looked.moved = next.phase != before.phase;
            let passed = next.passed.get(before.passed.len()..).unwrap_or_default();
            let forced = passed.iter().find_map(|passed| passed.forced.as_ref());
            if next.kind == Kind::Distrust {
                // Who is cut off is who is recorded.
                let holders = forced.into_iter().flat_map(|forced| &forced.holders);
                looked.forced = holders
                    .map(|one| (one.node.clone(), one.process.clone()))
                    .collect();
            } else if forced.is_some() && self.fault != Some(Fault::ForcedUnlisted) {
                let named = facts.obstacles.iter();
                looked.forced = named
                    .map(|one| (one.node.clone(), one.process.clone()))
                    .collect();
            }
            let all = &mut self.store.rotations.all;
            *all.last_mut().expect("it is under way") = next;
            looked.again = true;
        }
        for effect in step.effects {
            if cut() {
                looked.crashed = true;
                return Ok(looked);
            }
            if !matches!(effect, Effect::Renew(..)) {
                looked.again = true;
                looked.said = Some(format!("{effect:?}"));
            }
            let goes = match effect {
                Effect::Distrust(root) => Some(root),
                _ => None,
            };
            if self.act(pool, effect, &mut cut, now)? {
                looked.crashed = true;
                return Ok(looked);
            }
            looked.buried = goes.or(looked.buried);
        }
        if looked.said.is_none() && !facts.obstacles.is_empty() {
            let first = &facts.obstacles[0];
            looked.said = Some(format!("{} waits: {first}", before.phase.as_str()));
        }
        Ok(looked)
    }

    fn facts(&self, pool: &Pool, rotation: &Rotation, now: Millis) -> Option<Facts> {
        let process = self.process.as_ref()?;
        let bundle = self.bundle();
        let gate = rotation::gate(rotation);
        let reports = self.store.report.iter();
        let reports = reports
            .filter(|report| Some(&report.gate) == gate.as_ref())
            .map(|report| (REPLICAS[1].to_owned(), report));
        let seen = Sight {
            replica: REPLICAS[0],
            registrations: &self.store.registrations,
            seen: self.store.seen.clone(),
            reports: reports.collect(),
            bundle,
            live: &process.live,
            fleet: &process.fleet,
        };
        let at = if self.fault == Some(Fault::EndsByFastClock) {
            wall(now) + FAST
        } else {
            wall(now)
        };
        let Seen {
            confirmed,
            replicas: mut obstacles,
            mut waiting,
        } = seen.gate(rotation, at);
        if self.fault == Some(Fault::AbsenceConfirms) {
            waiting.retain(|one| one.reason != "agent-away");
        }
        if self.fault == Some(Fault::CrossOpensGate) && rotation.phase == Phase::Distribute {
            waiting.clear();
        }
        if self.fault == Some(Fault::SilenceConfirms) {
            waiting.retain(|one| one.reason != "waited");
        }
        let denied = |node: &str| {
            let mut denied = self.denied.iter();
            denied.any(|denied| node == format!("{CLUSTER}/n{denied}"))
        };
        let (denied, waiting) = waiting.into_iter().partition(|one| denied(&one.node));
        obstacles.extend::<Vec<_>>(waiting);
        let serves = process.serves.chain().certificates().last()?;
        let roots = self.store.roots.iter();
        Some(Facts {
            active: self.store.active(),
            prepared: self.store.prepared(),
            roots: roots
                .filter(|(_, state)| *state != RootState::Distrusted)
                .map(|(id, _)| *id)
                .collect(),
            signs_under: process.signs_under,
            serves_under: serves.authority_key_id()?,
            bundle: ids(bundle.roots()),
            sequence: bundle.sequence(),
            from_ends: Some(pool.root(pool.place(rotation.from)).not_after()),
            longest_leaf: Duration::from_millis(TTL),
            reissue_takes: Duration::ZERO,
            counting_for: self.counting_for(now),
            confirmed,
            obstacles,
            denied,
            by_word: false,
            clear_for: Duration::MAX,
        })
    }

    /// Whether it was cut off.
    fn act(
        &mut self,
        pool: &mut Pool,
        effect: Effect,
        cut: &mut dyn FnMut() -> bool,
        now: Millis,
    ) -> Result<bool, String> {
        let store = &mut self.store;
        match effect {
            Effect::MakeRoot => {
                let again = store.forgotten.take();
                let root = again.unwrap_or_else(|| pool.root_id(store.made));
                // A key that signs nothing is found out here.
                let mute = self.fault == Some(Fault::ActiveUnproved);
                if store.prepared().is_none() && (mute || !cut()) {
                    store.made += 1;
                    store.roots.push((root, RootState::Prepared));
                    store.mute.extend(mute.then_some(root));
                }
            }
            Effect::DropRoot(root) => {
                if store.active() == root {
                    return Err("the active root is dropped".to_owned());
                }
                store.roots.retain(|(id, _)| *id != root);
            }
            Effect::Publish(mut roots) => {
                if self.fault == Some(Fault::EmptyBundle) {
                    roots.clear();
                }
                if let Some(gone) = roots.iter().find(|id| !store.knows(**id)) {
                    return Err(format!("a root without a key is published: {gone}"));
                }
                let number = self.bundle().sequence().number + 1;
                let next = bundle(pool, number, &roots).map_err(|error| error.to_string())?;
                if let (Some(Fault::PushedUnfenced), Some(process)) = (self.fault, &self.process) {
                    let update = message(Message::Trust(trust_update(&next)));
                    process.fleet.tell(&Arc::new(update), |_| true);
                    let since = *self.pushed.entry(number).or_insert(now);
                    if since + 20_000 < now {
                        self.store.published.push(next);
                    }
                    return Ok(false);
                }
                self.store.published.push(next);
            }
            Effect::Activate(from, to) => {
                if self.fault != Some(Fault::TwoActiveRoots) {
                    store.set(from, RootState::Retiring);
                }
                store.set(to, RootState::Active);
            }
            Effect::TakeOver => return Ok(self.take_over(pool, cut, now)),
            Effect::Renew(root, by) => {
                if let (Some(process), Some(rotation)) =
                    (&mut self.process, self.store.rotations.all.last())
                {
                    process.hints.tell(&process.fleet, rotation, root, by);
                }
            }
            Effect::Retire(root) => {
                if store.active() == root {
                    return Err("the active root is retired".to_owned());
                }
                store.roots.retain(|(id, _)| *id != root);
            }
            Effect::Distrust(root) => {
                if store.active() == root {
                    return Err("the active root is distrusted for good".to_owned());
                }
                if self.fault == Some(Fault::TombstoneForgotten) {
                    store.roots.retain(|(id, _)| *id != root);
                    store.forgotten = Some(root);
                }
                store.set(root, RootState::Distrusted);
                store.registrations.retain(|one| one.root != root);
            }
            Effect::CutOff(root) => {
                return Err(format!(
                    "the only root is cut off, which nobody asked for: {root}"
                ));
            }
            Effect::StopSigning => return Err("it stops signing".to_owned()),
        }
        Ok(false)
    }

    /// Signs and serves under the root that is active: registered first.
    fn take_over(&mut self, pool: &mut Pool, cut: &mut dyn FnMut() -> bool, now: Millis) -> bool {
        let active = self.store.active();
        self.store.register(pool, 0, active, now);
        if cut() {
            return true;
        }
        if let Some(process) = &mut self.process {
            process.signs_under = active;
        }
        if self.store.mute.contains(&active) {
            return false;
        }
        if cut() {
            return true;
        }
        let serves = self.make((pool.place(active), 0), "/arx/ca", now, TTL * 40, pool);
        let record = record(&serves, active, 0, None, self.bundle().sequence(), now);
        self.append(vec![record]);
        if let Some(process) = &mut self.process {
            process.serves = serves;
        }
        self.release_replaced(now);
        false
    }
}

impl super::Store {
    fn knows(&self, root: KeyId) -> bool {
        let mut roots = self.roots.iter();
        roots.any(|(id, state)| *id == root && *state != RootState::Distrusted)
    }

    fn set(&mut self, root: KeyId, state: RootState) {
        for (id, known) in &mut self.roots {
            if *id == root {
                known.clone_from(&state);
            }
        }
    }
}

/// A root that somebody else has the key of. It goes as fast as where nobody says otherwise.
fn stolen(root: KeyId) -> Event {
    Event::Distrust(root, DISTRUST, "stolen".to_owned())
}

/// The subject key identifiers of roots.
fn ids(roots: &[Certificate]) -> Vec<KeyId> {
    let ids = roots.iter().filter_map(Certificate::subject_key_id);
    ids.collect()
}
