//! The machine: what follows from where a rotation stands and what was seen.

use std::time::{Duration, SystemTime};

use arx_daemon::clock::rfc3339;
use arx_daemon::config::Span;
use arx_identity::KeyId;
use serde_json::Map;

use super::facts::{Facts, Obstacle};
use super::terms::last_call;
use super::{alone, distrust, reports};
use crate::state::{
    Forced, Initiator, Kind, LeftBehind, LeftOut, Opener, Passed, Phase, Rotation, Rotations, Terms,
};

/// Rotations that are remembered.
const REMEMBERED: usize = 32;
/// Names that a record of a forced gate has at most.
const NAMED: usize = 1000;
/// Identities of those who were cut off, or are denied, that such a record has at most, and of each of them.
const CUT_OFF: usize = 1000;
/// Why the gates of a distrust are passed.
pub(super) const DISTRUST: &str = "distrust";

/// What a rotation has to deal with.
#[derive(Clone, Debug)]
pub enum Event {
    /// Somebody has looked.
    Looked,
    /// The operator turns it round, and why.
    Abort(String),
    /// The operator lets it go on after it was turned round in Retire.
    Continue,
    /// The operator passes a shut gate, and why.
    Force(String),
    /// The operator must not trust one of its roots any more: how fast it has to go, and why.
    Distrust(KeyId, Terms, String),
    /// No other root can be had, and the one that leaves goes all the same.
    Alone,
}

/// What is to be done. All of it can be done twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A root is made that signs nothing yet.
    MakeRoot,
    /// A prepared root is forgotten.
    DropRoot(KeyId),
    /// A bundle of these roots is published.
    Publish(Vec<KeyId>),
    /// The second becomes the root that signs, in place of the first.
    Activate(KeyId, KeyId),
    /// This replica signs and serves under the root that is active.
    TakeOver,
    /// Whoever holds something under this root is told to renew it by then.
    Renew(KeyId, SystemTime),
    /// A root and its key go for good.
    Retire(KeyId),
    /// A root's key goes for good, and what is left of the root says that it never comes again.
    Distrust(KeyId),
    /// The only root goes for good, and out of the bundle at once, in which a placeholder takes
    /// its place that nothing can be signed by.
    CutOff(KeyId),
    /// This replica signs nothing more.
    StopSigning,
}

/// What follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Where the rotation stands then, if that changes: to be stored before anything is done.
    pub next: Option<Rotation>,
    /// What is to be done.
    pub effects: Vec<Effect>,
}

/// Why an operator's wish is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RotationError {
    /// One at a time.
    #[error("rotation {0} is under way: see `arx rotate status`, or `arx rotate abort` it first")]
    UnderWay(String),
    /// None is.
    #[error("no rotation is under way: begin one by `arx rotate root`")]
    None,
    /// The last one has ended.
    #[error(
        "rotation {0} has ended, and nothing of it can be changed: `arx rotate report {0}` tells how it went, and `arx rotate root` begins another"
    )]
    Over(String),
    /// It is of a newer version.
    #[error("rotation {0} is in a phase that this version does not know: use the newer one")]
    Newer(String),
    /// There is nothing to turn round.
    #[error("rotation {0} is being withdrawn already")]
    Withdrawing(String),
    /// The old root is gone.
    #[error(
        "rotation {0} cannot be turned round any more: the root that it began with is gone; rotate again"
    )]
    TooLate(String),
    /// The key of the root that it began with is not at hand.
    #[error(
        "rotation {id} cannot be turned round: the root that it began with can't sign here ({reason}); put its certificate and key back as authority.certificate_file and key_file, which turns it round, or name them as previous_certificate_file and previous_key_file and restart"
    )]
    NoWayBack {
        /// Which.
        id: String,
        /// Why it can't.
        reason: String,
    },
    /// It is the one of the authority above, as far as this one goes.
    #[error(
        "rotation {id} follows that of the authority above at {address}, which counts upon it: turn that round, and this one turns round by itself"
    )]
    Follows {
        /// Which.
        id: String,
        /// Where the authority above is.
        address: String,
    },
    /// Nothing waits for the operator.
    #[error(
        "rotation {id} does not wait for you: it is in {phase}; to pass its gate although it is shut, say --force with a --reason"
    )]
    NotHeld {
        /// Which.
        id: String,
        /// Where it is.
        phase: &'static str,
    },
    /// There is no gate to pass.
    #[error("rotation {id} is in {phase}, and that is no gate that could be forced")]
    NoGate {
        /// Which.
        id: String,
        /// Where it is.
        phase: &'static str,
    },
    /// Longer than makes a difference.
    #[error(
        "a window of {} is longer than the longest certificate lives ({}), by when every one was renewed anyway: say --window {} at most",
        span(.window), span(.longest_leaf), span(.longest_leaf)
    )]
    Window {
        /// Over which renewals would be spread.
        window: Duration,
        /// How long the longest certificate lives.
        longest_leaf: Duration,
    },
    /// The root that leaves ends before that could be over.
    #[error(
        "the root ends at {}, which is too soon to spread renewals over {}: gates would have to open before everybody has confirmed; say --window {}",
        rfc3339(*.ends), span(.window), span(.most)
    )]
    EndsSoon {
        /// When the root ends.
        ends: SystemTime,
        /// Over which renewals would be spread.
        window: Duration,
        /// The longest that leaves time.
        most: Duration,
    },
    /// The root that leaves has ended.
    #[error(
        "the root has ended at {}, so nobody can be reached under it any more: check this machine's clock; if it is right, begin anew with another state directory",
        rfc3339(*.0)
    )]
    Ended(SystemTime),
    /// Nobody may trust it again.
    #[error("{0} is a distrust, and is not turned round: nobody may trust that root again")]
    Irrevocable(String),
    /// The other root's key is gone.
    #[error(
        "rotation {0} leads to the one root that can sign here, from one whose key was lost with an earlier state: there is no way back; `arx rotate continue --force` passes its gates"
    )]
    Adopted(String),
    /// It has to end first.
    #[error("distrust {0} of another root is under way: it ends by itself, soon; ask again then")]
    Distrusting(String),
    /// The root is not one of those that are trusted.
    #[error("{0} is none of the roots that are trusted: see `arx status`")]
    NoSuchRoot(KeyId),
    /// Another root is there, or on its way.
    #[error(
        "distrust {0} has another root to go to: it ends by itself, see `arx rotate status --watch`"
    )]
    Followed(String),
    /// No reason was given.
    #[error(
        "a gate is forced for a reason that will be found in the ledger: give one with --reason"
    )]
    NoReason,
}

impl RotationError {
    /// The stable reason code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnderWay(_) => "ARX-ROTATION-UNDER-WAY",
            Self::None | Self::Over(_) => "ARX-ROTATION-NONE",
            Self::Newer(_) => "ARX-ROTATION-NEWER",
            Self::Withdrawing(_) => "ARX-ROTATION-WITHDRAWING",
            Self::TooLate(_) => "ARX-ROTATION-TOO-LATE",
            Self::NoWayBack { .. } => "ARX-ROTATION-NO-WAY-BACK",
            Self::Follows { .. } => "ARX-ROTATION-FOLLOWS",
            Self::NotHeld { .. } => "ARX-ROTATION-NOT-HELD",
            Self::NoGate { .. } => "ARX-ROTATION-NO-GATE",
            Self::Window { .. } => "ARX-ROTATION-WINDOW",
            Self::EndsSoon { .. } => "ARX-ROTATION-ROOT-ENDS",
            Self::Ended(_) => "ARX-ROTATION-ROOT-ENDED",
            Self::Irrevocable(_) => "ARX-DISTRUST-ABORT",
            Self::Adopted(_) => "ARX-ROTATION-ADOPTED",
            Self::Distrusting(_) => "ARX-DISTRUST-UNDER-WAY",
            Self::NoSuchRoot(_) => "ARX-DISTRUST-UNKNOWN",
            Self::Followed(_) => "ARX-DISTRUST-FOLLOWED",
            Self::NoReason => "ARX-ROTATION-REASON",
        }
    }
}

/// As an operator writes it; less than a second is nothing.
fn span(duration: &Duration) -> Span {
    Span::from_secs(duration.as_secs())
}

/// Begins a rotation away from `from`.
///
/// # Errors
/// [`RotationError::UnderWay`] if there is one.
pub fn begin(
    rotations: &mut Rotations,
    from: KeyId,
    terms: Terms,
    reason: String,
    now: SystemTime,
) -> Result<Rotation, RotationError> {
    if let Some(running) = rotations.running() {
        return Err(RotationError::UnderWay(running.id.clone()));
    }
    rotations.count += 1;
    let rotation = Rotation {
        id: format!("r{}", rotations.count),
        kind: Kind::Planned,
        phase: Phase::Prepare,
        from,
        to: None,
        aborting: false,
        without_successor: false,
        terms,
        reason,
        by: Initiator::Operator,
        replica: String::new(),
        began: now,
        phase_began: now,
        sequence: None,
        clear_since: None,
        passed: Vec::new(),
        roots: Vec::new(),
        cross_until: None,
        extra: Map::new(),
    };
    if rotations.all.len() >= REMEMBERED {
        rotations.all.remove(0);
    }
    rotations.all.push(rotation.clone());
    Ok(rotation)
}

/// Begins to distrust `root`, which signs.
///
/// # Errors
/// [`RotationError::UnderWay`] if a rotation is: it gets an [`Event::Distrust`].
pub fn begin_distrust(
    rotations: &mut Rotations,
    root: KeyId,
    terms: Terms,
    reason: String,
    now: SystemTime,
) -> Result<Rotation, RotationError> {
    let begun = begin(rotations, root, terms, reason, now)?;
    let rotation = Rotation {
        kind: Kind::Distrust,
        ..begun
    };
    if let Some(last) = rotations.all.last_mut() {
        last.clone_from(&rotation);
    }
    Ok(rotation)
}

/// The same for a root that no other takes the place of.
///
/// # Errors
/// [`RotationError::UnderWay`] if a rotation is.
pub fn begin_cut_off(
    rotations: &mut Rotations,
    root: KeyId,
    terms: Terms,
    reason: String,
    now: SystemTime,
) -> Result<Rotation, RotationError> {
    let begun = begin_distrust(rotations, root, terms, reason, now)?;
    let rotation = Rotation {
        without_successor: true,
        ..begun
    };
    if let Some(last) = rotations.all.last_mut() {
        last.clone_from(&rotation);
    }
    Ok(rotation)
}

/// Begins to go from the fleet's root `from`, which can't sign here, to `to`, which does.
///
/// # Errors
/// [`RotationError::UnderWay`] if another rotation is.
pub fn begin_adoption(
    rotations: &mut Rotations,
    (from, to): (KeyId, KeyId),
    terms: Terms,
    reason: String,
    now: SystemTime,
) -> Result<Rotation, RotationError> {
    if let Some(running) = rotations.running()
        && running.kind == Kind::Adoption
        && running.from == from
    {
        return Ok(running.clone());
    }
    let begun = begin(rotations, from, terms, reason, now)?;
    let rotation = Rotation {
        kind: Kind::Adoption,
        phase: Phase::Distribute,
        to: Some(to),
        ..begun
    };
    if let Some(last) = rotations.all.last_mut() {
        last.clone_from(&rotation);
    }
    Ok(rotation)
}

/// What follows for `rotation` from `event` and from what was seen at `now`.
///
/// # Errors
/// [`RotationError`] if an operator's wish cannot be followed; what was looked at never fails.
pub fn step(
    rotation: &Rotation,
    event: &Event,
    facts: &Facts,
    now: SystemTime,
) -> Result<Step, RotationError> {
    if rotation.phase.is_over() {
        return match event {
            Event::Looked => Ok(Step::default()),
            _ => Err(RotationError::Over(rotation.id.clone())),
        };
    }
    if rotation.phase == Phase::Unknown || rotation.kind == Kind::Unknown {
        return match event {
            Event::Looked => Ok(Step::default()),
            _ => Err(RotationError::Newer(rotation.id.clone())),
        };
    }
    match event {
        Event::Looked if rotation.without_successor => Ok(alone::looked(rotation, facts, now)),
        Event::Looked => Ok(looked(rotation, facts, now)),
        Event::Alone => alone::step(rotation, facts),
        Event::Force(_) if rotation.without_successor => Err(RotationError::NoGate {
            id: rotation.id.clone(),
            phase: rotation.phase.as_str(),
        }),
        Event::Abort(_) if rotation.kind == Kind::Distrust => {
            Err(RotationError::Irrevocable(rotation.id.clone()))
        }
        Event::Abort(_) if rotation.kind == Kind::Adoption => {
            Err(RotationError::Adopted(rotation.id.clone()))
        }
        Event::Distrust(root, ..)
            if rotation.kind == Kind::Adoption && Some(*root) == rotation.to =>
        {
            Err(RotationError::Adopted(rotation.id.clone()))
        }
        Event::Abort(reason) => abort(rotation, reason, facts, now),
        Event::Continue if rotation.phase == Phase::Held => {
            Ok(moved(rotation, Phase::Retire, facts, now))
        }
        Event::Continue => Err(RotationError::NotHeld {
            id: rotation.id.clone(),
            phase: rotation.phase.as_str(),
        }),
        Event::Force(reason) => force(rotation, reason, facts, now),
        Event::Distrust(root, terms, reason) => {
            distrust::step(rotation, *root, *terms, reason, facts, now)
        }
    }
}

fn looked(rotation: &Rotation, facts: &Facts, now: SystemTime) -> Step {
    let from = rotation.from;
    let Some(to) = rotation.to else {
        return match facts.prepared {
            Some(prepared) => {
                let mut step = moved(rotation, Phase::Distribute, facts, now);
                if let Some(next) = &mut step.next {
                    next.to = Some(prepared);
                }
                step
            }
            None => Step::act(Effect::MakeRoot),
        };
    };
    match rotation.phase {
        Phase::Prepare => moved(rotation, Phase::Distribute, facts, now),
        Phase::Distribute => publish(rotation, &[from, to], facts)
            .unwrap_or_else(|| gate(rotation, Phase::Activate, facts, now)),
        Phase::Activate if facts.active != to => Step::act(Effect::Activate(from, to)),
        Phase::Activate if facts.signs_under != to || facts.serves_under != to => {
            Step::act(Effect::TakeOver)
        }
        Phase::Activate => gate(rotation, Phase::Reissue, facts, now),
        Phase::Reissue => {
            let mut step = gate(rotation, Phase::Retire, facts, now);
            if step
                .next
                .as_ref()
                .is_none_or(|next| next.phase == Phase::Reissue)
            {
                let by = rotation.phase_began + rotation.terms.window;
                step.effects.push(Effect::Renew(from, by));
            }
            step
        }
        Phase::Retire => publish(rotation, &[to], facts).unwrap_or_else(|| {
            let over = if rotation.aborting {
                Phase::Aborted
            } else {
                Phase::Done
            };
            if !facts.roots.contains(&from) {
                return moved(rotation, over, facts, now);
            }
            let step = gate(rotation, over, facts, now);
            let Some(next) = step.next.as_ref().filter(|next| next.phase.is_over()) else {
                return step;
            };
            // Who is left behind is noted first, and once.
            if let Some(passed) = next.passed.last().filter(|last| last.forced.is_some())
                && !is_noted(rotation)
            {
                let mut noted = rotation.clone();
                noted.passed.push(passed.clone());
                return Step::stand(rotation, noted);
            }
            // The root goes while this is still the phase: what is cut off here begins again.
            Step::act(match rotation.kind {
                Kind::Distrust => Effect::Distrust(from),
                _ => Effect::Retire(from),
            })
        }),
        Phase::Withdraw => publish(rotation, &[from], facts).unwrap_or_else(|| {
            if facts.roots.contains(&to) {
                Step::act(Effect::DropRoot(to))
            } else {
                moved(rotation, Phase::Aborted, facts, now)
            }
        }),
        Phase::Restore => publish(rotation, &[from, to], facts)
            .unwrap_or_else(|| gate(rotation, Phase::Held, facts, now)),
        Phase::Held | Phase::Done | Phase::Aborted | Phase::Unknown => Step::default(),
    }
}

/// Whether the phase's gate was passed by force, and that is written down.
fn is_noted(rotation: &Rotation) -> bool {
    let last = rotation.passed.last();
    last.is_some_and(|last| {
        last.phase == rotation.phase && last.began == rotation.phase_began && last.forced.is_some()
    })
}

/// What it takes for a bundle of exactly these roots to be what has to be confirmed; nothing
/// if it is.
fn publish(rotation: &Rotation, roots: &[KeyId], facts: &Facts) -> Option<Step> {
    let same =
        facts.bundle.len() == roots.len() && roots.iter().all(|root| facts.bundle.contains(root));
    if !same {
        return Some(Step::act(Effect::Publish(roots.to_vec())));
    }
    if rotation.sequence == Some(facts.sequence) {
        return None;
    }
    Some(Step {
        next: Some(Rotation {
            sequence: Some(facts.sequence),
            clear_since: None,
            ..rotation.clone()
        }),
        effects: Vec::new(),
    })
}

/// The next phase, if nothing has been in the way for long enough.
pub(super) fn gate(rotation: &Rotation, next: Phase, facts: &Facts, now: SystemTime) -> Step {
    if !facts.obstacles.is_empty() {
        if let Some((by, reason)) = out_of_patience(rotation, facts, now) {
            return pass(
                rotation,
                next,
                facts,
                now,
                Some(forced(rotation, by, reason, facts)),
                None,
            );
        }
        let waits = Rotation {
            clear_since: None,
            ..rotation.clone()
        };
        return Step::stand(rotation, waits);
    }
    let dwell = match facts.by_word {
        true => reports::dwell(rotation.terms.dwell),
        false => rotation.terms.dwell,
    };
    match rotation.clear_since {
        // A clock that went back would keep the gate shut for as long.
        Some(since) if since <= now => {
            // Whose clock that was is not known: whoever opens the gate has seen it clear for as long.
            if now < since + dwell || facts.clear_for < dwell {
                return Step::default();
            }
            moved(rotation, next, facts, now)
        }
        _ if dwell.is_zero() => moved(rotation, next, facts, now),
        _ => {
            let clear = Rotation {
                clear_since: Some(now),
                ..rotation.clone()
            };
            Step::stand(rotation, clear)
        }
    }
}

/// What passes a shut gate and why, if it is passed.
fn out_of_patience(
    rotation: &Rotation,
    facts: &Facts,
    now: SystemTime,
) -> Option<(Opener, String)> {
    if rotation.kind == Kind::Distrust {
        let over = distrust::is_over(rotation, facts, now);
        return over.then(|| (Opener::Distrust, DISTRUST.to_owned()));
    }
    if let Some(patience) = rotation.terms.patience
        && now >= rotation.phase_began + patience
    {
        let reason = format!(
            "the rotation was begun with --wait-unconfirmed {}",
            span(&patience)
        );
        return Some((Opener::WaitUnconfirmed, reason));
    }
    // What is turned round goes back to a root that may end just as soon.
    let ends = facts.from_ends?;
    let left = ends.duration_since(rotation.began).unwrap_or_default();
    let room = last_call(left) + facts.longest_leaf + rotation.terms.window;
    let reason = || format!("the root that leaves ends at {}", rfc3339(ends));
    (!rotation.aborting && now + room >= ends).then(|| (Opener::RootEnd, reason()))
}

fn abort(
    rotation: &Rotation,
    reason: &str,
    facts: &Facts,
    now: SystemTime,
) -> Result<Step, RotationError> {
    let id = || rotation.id.clone();
    let leave = |phase| pass(rotation, phase, facts, now, None, Some(reason.to_owned()));
    match (rotation.phase, rotation.to) {
        (Phase::Withdraw, _) => Err(RotationError::Withdrawing(id())),
        (_, None) => {
            // Nothing was made, or nobody knows of it.
            let mut step = leave(match facts.prepared {
                Some(_) => Phase::Withdraw,
                None => Phase::Aborted,
            });
            if let Some(next) = &mut step.next {
                next.to = facts.prepared;
                next.aborting = true;
            }
            Ok(step)
        }
        (Phase::Prepare | Phase::Distribute, Some(_)) => {
            let mut step = leave(Phase::Withdraw);
            if let Some(next) = &mut step.next {
                next.aborting = true;
            }
            Ok(step)
        }
        (Phase::Activate | Phase::Reissue | Phase::Held, Some(to)) => {
            let mut step = leave(Phase::Activate);
            if let Some(next) = &mut step.next {
                next.aborting = !rotation.aborting;
                next.from = to;
                next.to = Some(rotation.from);
            }
            Ok(step)
        }
        (Phase::Retire | Phase::Restore, Some(_)) if !facts.roots.contains(&rotation.from) => {
            Err(RotationError::TooLate(id()))
        }
        (Phase::Retire, Some(_)) => Ok(leave(Phase::Restore)),
        (Phase::Restore, Some(_)) => Err(RotationError::Withdrawing(id())),
        (Phase::Done | Phase::Aborted, Some(_)) => Err(RotationError::Over(id())),
        (Phase::Unknown, Some(_)) => Err(RotationError::Newer(id())),
    }
}

fn force(
    rotation: &Rotation,
    reason: &str,
    facts: &Facts,
    now: SystemTime,
) -> Result<Step, RotationError> {
    if reason.trim().is_empty() {
        return Err(RotationError::NoReason);
    }
    let published = rotation.sequence == Some(facts.sequence);
    let next = match rotation.phase {
        Phase::Distribute if published => Phase::Activate,
        Phase::Activate
            if facts.active == rotation.to.unwrap_or(facts.active)
                && Some(facts.signs_under) == rotation.to =>
        {
            Phase::Reissue
        }
        Phase::Reissue => Phase::Retire,
        Phase::Restore if published => Phase::Held,
        // The root has to go first; that is done by whoever looks next.
        Phase::Retire if published => {
            let terms = Terms {
                patience: Some(Duration::ZERO),
                dwell: Duration::ZERO,
                ..rotation.terms
            };
            let mut passed = rotation.passed.clone();
            passed.push(Passed {
                forced: Some(forced(rotation, Opener::Operator, reason.to_owned(), facts)),
                ..record(rotation, facts, now)
            });
            let next = Rotation {
                terms,
                passed,
                ..rotation.clone()
            };
            return Ok(Step {
                next: Some(next),
                effects: Vec::new(),
            });
        }
        _ => {
            return Err(RotationError::NoGate {
                id: rotation.id.clone(),
                phase: rotation.phase.as_str(),
            });
        }
    };
    let forced = Some(forced(rotation, Opener::Operator, reason.to_owned(), facts));
    Ok(pass(rotation, next, facts, now, forced, None))
}

pub(super) fn forced(rotation: &Rotation, by: Opener, reason: String, facts: &Facts) -> Forced {
    let named = facts.obstacles.iter().take(NAMED);
    Forced {
        by,
        reason,
        left_behind: named.map(ToString::to_string).collect(),
        count: facts.obstacles.iter().map(Obstacle::count).sum(),
        holders: match rotation.kind {
            Kind::Distrust => holders(&facts.obstacles),
            _ => Vec::new(),
        },
    }
}

/// As many of them as are named, with what they hold.
fn holders(obstacles: &[Obstacle]) -> Vec<LeftBehind> {
    let mut room = CUT_OFF;
    let holders = obstacles.iter().take(NAMED).map_while(|obstacle| {
        let workloads = obstacle.workloads.iter().take(room).cloned();
        let left = LeftBehind {
            node: obstacle.node.clone(),
            process: obstacle.process.clone(),
            reason: obstacle.reason.to_owned(),
            workloads: workloads.collect(),
            count: obstacle.workload_count,
        };
        room = room.checked_sub(left.workloads.len().max(1))?;
        Some(left)
    });
    holders.collect()
}

fn moved(rotation: &Rotation, next: Phase, facts: &Facts, now: SystemTime) -> Step {
    pass(rotation, next, facts, now, None, None)
}

fn record(rotation: &Rotation, facts: &Facts, now: SystemTime) -> Passed {
    let denied = LeftOut {
        holders: holders(&facts.denied),
        count: facts.denied.len() as u64,
    };
    Passed {
        phase: rotation.phase,
        began: rotation.phase_began,
        ended: now,
        sequence: rotation.sequence,
        confirmed: facts.confirmed,
        forced: None,
        aborted: None,
        denied: (denied.count > 0).then_some(denied),
    }
}

/// Leaves the phase for another.
pub(super) fn pass(
    rotation: &Rotation,
    next: Phase,
    facts: &Facts,
    now: SystemTime,
    forced: Option<Forced>,
    aborted: Option<String>,
) -> Step {
    let mut passed = rotation.passed.clone();
    passed.push(Passed {
        forced,
        aborted,
        ..record(rotation, facts, now)
    });
    let mut terms = rotation.terms;
    if next == Phase::Reissue {
        // Whatever was asked for: nobody is told to renew sooner than that can be done. By the
        // end of the longest certificate everybody has renewed anyway.
        let most = facts.longest_leaf.max(terms.window);
        terms.window = terms.window.max(facts.reissue_takes).min(most);
    }
    Step {
        next: Some(Rotation {
            terms,
            phase: next,
            phase_began: now,
            sequence: None,
            clear_since: None,
            passed,
            ..rotation.clone()
        }),
        effects: Vec::new(),
    }
}

impl Step {
    pub(super) fn act(effect: Effect) -> Self {
        Self {
            next: None,
            effects: vec![effect],
        }
    }

    /// What each replica does by itself, whoever leads.
    pub(super) fn of_each(self) -> Self {
        let own = |effect: &Effect| {
            matches!(
                effect,
                Effect::TakeOver | Effect::Renew(..) | Effect::StopSigning
            )
        };
        Self {
            next: None,
            effects: self.effects.into_iter().filter(own).collect(),
        }
    }

    /// Stays in the phase.
    pub(super) fn stand(before: &Rotation, after: Rotation) -> Self {
        Self {
            next: (*before != after).then_some(after),
            effects: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
