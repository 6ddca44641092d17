//! The operator's side of a rotation, in the words of the admin API.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arx_identity::KeyId;
use arx_proto::admin::v1 as wire;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;

use arx_daemon::clock::{rfc3339, unix_ms};

use crate::ca::Ca;
use crate::denial::Apart;
use crate::fleet::{Gate, Reason};
use crate::hex::Hex;
use crate::refusal::{Fault, Refusal};
use crate::rotation::{Obstacle, RotationError, View};
use crate::state::{Kind, LeftBehind, LeftOut, Opener, Passed, Phase, Rotation, Rotations, Terms};

/// Entries of the list of the unconfirmed in one message.
const MOST_UNCONFIRMED: usize = 1000;
/// Longest reason.
const REASON: usize = 1024;

/// What an operator asks for.
pub(super) fn terms(ca: &Ca, request: &wire::RotateRootRequest) -> Terms {
    ca.terms(
        request.window_ms.map(Duration::from_millis),
        request.dwell_ms.map(Duration::from_millis),
        request.wait_unconfirmed_ms.map(Duration::from_millis),
    )
}

/// A reason for the ledger.
pub(super) fn reason(text: String) -> Result<String, Refusal> {
    if text.len() > REASON {
        let message = format!("a reason has {REASON} bytes at most");
        return Err(Refusal::new(
            "ARX-REQUEST-MALFORMED",
            Fault::Request,
            message,
        ));
    }
    Ok(text)
}

/// A phase as operators know it: what is turned round goes through the same ones.
fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Withdraw | Phase::Restore | Phase::Held => Phase::Distribute.as_str(),
        other => other.as_str(),
    }
}

/// A phase that was left: that it was held is told of its own.
fn phase_left(left: Phase) -> &'static str {
    match left {
        Phase::Held => left.as_str(),
        other => phase(other),
    }
}

/// The root that a rotation began with, and the one that it was to bring.
fn ends(rotation: &Rotation) -> (Option<KeyId>, Option<KeyId>) {
    let exchanged = rotation.aborting && rotation.passed.iter().any(turned);
    if exchanged {
        (rotation.to, Some(rotation.from))
    } else {
        (Some(rotation.from), rotation.to)
    }
}

/// Whether the rotation was turned round where the roots are exchanged for it.
fn turned(passed: &Passed) -> bool {
    let exchanges = matches!(passed.phase, Phase::Activate | Phase::Reissue | Phase::Held);
    passed.aborted.is_some() && exchanges
}

/// Which of the phases were passed on the way back. Where the roots are exchanged, it changes;
/// what is turned round in Retire is on the way back only until it may go on.
fn ways_back(passed: &[Passed]) -> Vec<bool> {
    let mut exchanged = false;
    let back = passed.iter().map(|passed| {
        let back = matches!(passed.phase, Phase::Withdraw | Phase::Restore | Phase::Held);
        let back = back || exchanged;
        exchanged ^= turned(passed);
        back
    });
    back.collect()
}

/// The phases that were left, and which of them on the way back. What is only noted of a gate
/// before its phase is left is told of its own.
fn left(rotation: &Rotation) -> impl Iterator<Item = (&Passed, bool)> {
    let passed = &rotation.passed;
    let all = passed.iter().zip(ways_back(passed)).enumerate();
    all.filter_map(move |(at, one)| {
        let next = passed.get(at + 1);
        let goes_on = next.map_or((rotation.phase, rotation.phase_began), |next| {
            (next.phase, next.began)
        });
        (goes_on != (one.0.phase, one.0.began)).then_some(one)
    })
}

/// The phases that were left before denied holders had followed, and when.
pub(crate) fn left_without(
    rotation: &Rotation,
) -> impl Iterator<Item = (&'static str, SystemTime, &LeftOut)> {
    let left = left(rotation);
    left.filter_map(|(passed, _)| {
        Some((phase(passed.phase), passed.ended, passed.denied.as_ref()?))
    })
}

fn root(rotation: &Rotation, id: Option<KeyId>) -> Option<wire::RotationRoot> {
    let id = id?;
    let known = rotation.roots.iter().find(|root| root.key_id == id);
    Some(wire::RotationRoot {
        subject: known.map(|root| root.subject.clone()).unwrap_or_default(),
        key_id: Bytes::copy_from_slice(id.as_bytes()),
        not_after_unix_ms: known.map_or(0, |root| unix_ms(root.not_after)),
    })
}

/// How a rotation stands.
pub(crate) fn rotation(ca: &Ca, view: &View, limit: u32) -> wire::Rotation {
    let limit = match usize::try_from(limit).unwrap_or(MOST_UNCONFIRMED) {
        0 => MOST_UNCONFIRMED,
        limit => limit.min(MOST_UNCONFIRMED),
    };
    let rotation = &view.rotation;
    let dwell_ends = rotation
        .clear_since
        .map(|since| since + rotation.terms.dwell);
    let gate = match (rotation.phase, view.obstacles.is_empty()) {
        (phase, _) if phase.is_over() => "",
        (Phase::Reissue, false) => "leaves",
        (_, false) => "confirmations",
        (_, true) if dwell_ends.is_some() => "dwell",
        _ => "",
    };
    wire::Rotation {
        confirmed: view.confirmed,
        unconfirmed_total: view.obstacles.iter().map(Obstacle::count).sum(),
        unconfirmed: view.obstacles.iter().take(limit).map(unconfirmed).collect(),
        unconfirmed_digest: view
            .digest()
            .map(|digest| Bytes::copy_from_slice(&digest))
            .unwrap_or_default(),
        gate: gate.to_owned(),
        gate_opens_unix_ms: match (gate, dwell_ends) {
            ("dwell", Some(ends)) => unix_ms(ends),
            _ => 0,
        },
        message: message(view, ca.authority.outside().is_some()),
        denied: view.denied.iter().take(limit).map(left_out).collect(),
        denied_total: view.denied.len() as u64,
        ..stored(ca, rotation)
    }
}

/// How the rotation stands that is under way, without who has not confirmed.
pub(crate) fn running(ca: &Ca) -> Option<wire::Rotation> {
    let view = ca.rotator.watch().borrow().clone()?;
    if view.rotation.phase.is_over() {
        return None;
    }
    Some(wire::Rotation {
        unconfirmed: Vec::new(),
        denied: Vec::new(),
        ..rotation(ca, &view, 1)
    })
}

/// What is stored of a rotation.
pub(crate) fn stored(ca: &Ca, rotation: &Rotation) -> wire::Rotation {
    let (from, to) = ends(rotation);
    let over = rotation.phase.is_over();
    let sequence = rotation.sequence.or_else(|| {
        let mut passed = rotation.passed.iter().rev();
        passed.find_map(|passed| passed.sequence)
    });
    let sequence = sequence.unwrap_or_default();
    let mut phases: Vec<_> = left(rotation)
        .map(|(passed, aborting)| wire::EnteredPhase {
            phase: phase_left(passed.phase).to_owned(),
            aborting,
            started_unix_ms: unix_ms(passed.began),
            ended_unix_ms: unix_ms(passed.ended),
            denied: passed.denied.as_ref().map_or(0, |denied| denied.count),
        })
        .collect();
    phases.push(wire::EnteredPhase {
        phase: phase(rotation.phase).to_owned(),
        aborting: rotation.aborting,
        started_unix_ms: unix_ms(rotation.phase_began),
        ended_unix_ms: 0,
        denied: 0,
    });
    wire::Rotation {
        id: rotation.id.clone(),
        phase: phase(rotation.phase).to_owned(),
        aborting: rotation.aborting || rotation.phase == Phase::Restore,
        held: rotation.phase == Phase::Held,
        trust_domain: ca.trust_domain.as_str().to_owned(),
        from: root(rotation, from),
        to: root(rotation, to),
        bundle_epoch: sequence.epoch,
        bundle_number: sequence.number,
        started_unix_ms: unix_ms(rotation.began),
        phase_started_unix_ms: unix_ms(rotation.phase_began),
        ended_unix_ms: if over {
            unix_ms(rotation.phase_began)
        } else {
            0
        },
        forced: rotation.passed.iter().filter_map(forced).collect(),
        window_ms: millis(rotation.terms.window),
        wait_unconfirmed_ms: match rotation.kind {
            Kind::Distrust => None,
            _ => rotation.terms.patience.map(millis),
        },
        phases,
        started_by: rotation.by.as_str().to_owned(),
        reason: rotation.reason.clone(),
        kind: rotation.kind.as_str().to_owned(),
        without_successor: rotation.without_successor,
        cap_ms: match rotation.kind {
            Kind::Distrust => rotation.terms.patience.map_or(0, millis),
            _ => 0,
        },
        abort_reason: rotation
            .passed
            .iter()
            .rev()
            .find_map(|passed| passed.aborted.clone())
            .unwrap_or_default(),
        ..wire::Rotation::default()
    }
}

fn forced(passed: &Passed) -> Option<wire::ForcedGate> {
    let forced = passed.forced.as_ref()?;
    Some(wire::ForcedGate {
        phase: phase(passed.phase).to_owned(),
        unix_ms: unix_ms(passed.ended),
        reason: forced.reason.clone(),
        by: forced.by.as_str().to_owned(),
        left_behind: forced.count,
        digest: Bytes::new(),
    })
}

pub(super) fn unconfirmed(obstacle: &Obstacle) -> wire::Unconfirmed {
    wire::Unconfirmed {
        node: obstacle.node.clone(),
        process: obstacle.process.clone(),
        resource: obstacle.resource.clone(),
        reason: obstacle.reason.to_owned(),
        since_unix_ms: obstacle.since.map_or(0, unix_ms),
        workloads: obstacle.workloads.clone(),
        workload_count: obstacle.workload_count,
        last_certificate_ends_unix_ms: obstacle.last_certificate_ends.map_or(0, unix_ms),
        detail: obstacle.detail.clone(),
        advice: advice(obstacle.reason).to_owned(),
    }
}

/// A denied holder, which nobody waits for.
pub(super) fn left_out(obstacle: &Obstacle) -> wire::Unconfirmed {
    wire::Unconfirmed {
        advice: "it is denied, and left out; `arx allow` ends that".to_owned(),
        ..unconfirmed(obstacle)
    }
}

/// What to do about it.
fn advice(reason: &str) -> &'static str {
    match reason {
        "agent-away" => {
            "start its agent, or see in its log why it can't connect; it counts until the last certificate ends"
        }
        "agent-behind" => "it is connected but has not stored the roots: see its log, and its disk",
        "not-reported" => "wait a minute: its agent is about to tell; if it does not, see its log",
        "not-acked" => "the proxy has not answered: see whether it hangs or is stopped",
        "refused" => "mend what the proxy says, and restart it: its later word would not count",
        "no-bundle" => {
            "let the proxy take its roots by SDS as well (docs/envoy.md), or give it the new root by hand and force"
        }
        "waited" => "it has no means to confirm: it is waited for until its last certificate ends",
        "not-renewed" => "it is renewed within the window; `arx svid renew --all` asks at once",
        "replica-silent" => {
            "it has not said who it waits for: start it, or wait until its intermediate has ended"
        }
        "replica-waits" => "see `arx rotate status` at that replica",
        "replica-behind" => "start the replica, or wait until its intermediate has ended",
        "history-lost" => {
            "nobody knows any more who was issued what: wait until the last of it has ended"
        }
        "replica-signs" => "its intermediate under the old root has not ended: wait for it",
        "below-behind" => {
            "the authority below has not confirmed for all of its own: see the rotation there, and whether it can reach this one"
        }
        "below-signs" => {
            "something below it may be valid under the old root: see the rotation there, or wait until its certificate has ended"
        }
        "upstream-waits" => {
            "nothing is signed under the new root before the authority above does: see the rotation there"
        }
        "upstream-trusts" => {
            "the old root is kept until the authority above lets it go: see the rotation there"
        }
        "clock-doubtful" => {
            "set the authority's clock, or the agents', right: nothing counts as ended before"
        }
        "not-written" => {
            "see what it says: the rights of the authority's service account, or who else writes it (docs/operate.md)"
        }
        "delivered" => "wait: files in pods follow within publish.settle",
        "index-building" => "the authority has just started and counts: wait a moment",
        _ => "",
    }
}

/// What happens now; `outside` if keys of roots may be in other places than the state.
fn message(view: &View, outside: bool) -> String {
    if let Some((code, message)) = &view.trouble {
        return format!("the authority cannot go on: {message} ({code})");
    }
    let waits = !view.obstacles.is_empty();
    if view.rotation.kind == Kind::Distrust {
        return distrust_message(view, outside);
    }
    let published = view.rotation.sequence.is_some();
    // On the way back it is the other one that leaves.
    let (leaving, coming) = if view.rotation.aborting {
        ("the new root", "the first root")
    } else {
        ("the old root", "the new root")
    };
    match view.rotation.phase {
        Phase::Prepare => "the new root is being made".to_owned(),
        Phase::Distribute if !published => {
            "the bundle with both roots is being published".to_owned()
        }
        Phase::Distribute if waits => {
            "not everybody has confirmed the bundle with both roots".to_owned()
        }
        Phase::Distribute => "everybody has confirmed the bundle with both roots".to_owned(),
        Phase::Activate => format!("{coming} takes over signing"),
        Phase::Reissue if waits => format!("there are still certificates under {leaving}"),
        Phase::Reissue => format!("nobody holds a certificate under {leaving}"),
        Phase::Retire if !published => format!("the bundle without {leaving} is being published"),
        Phase::Retire if waits => {
            format!("not everybody has confirmed the bundle without {leaving}")
        }
        Phase::Retire => format!("everybody has confirmed the bundle without {leaving}"),
        Phase::Withdraw => "the new root is taken out of the bundle again".to_owned(),
        Phase::Restore => {
            "the bundle has both roots again, and everybody has to confirm that".to_owned()
        }
        Phase::Held => {
            "both roots are trusted again: `arx rotate continue` to go on, `arx rotate abort` to go back to the first".to_owned()
        }
        Phase::Done if outside => format!(
            "the new root has taken the place of the old one; {ERASED_HERE}"
        ),
        Phase::Done => {
            "the new root has taken the place of the old one, whose key is erased".to_owned()
        }
        Phase::Aborted => "the first root is in place as before".to_owned(),
        Phase::Unknown => "a newer version has begun this phase: use that".to_owned(),
    }
}

fn refusal(error: &RotationError) -> wire::Refusal {
    wire::Refusal {
        code: error.code().to_owned(),
        message: error.to_string(),
    }
}

/// Of a key that may be in files, in a token, or behind a signer.
const ERASED_HERE: &str = "of its key, what the state had is erased, and what files, a token or a signer have is yours to remove";

fn distrust_message(view: &View, outside: bool) -> String {
    let waits = !view.obstacles.is_empty();
    let cap = view.rotation.terms.patience.unwrap_or_default();
    if view.rotation.without_successor {
        return alone_message(&view.rotation);
    }
    let told = match view.rotation.phase {
        Phase::Prepare => "the new root is being made",
        Phase::Distribute => "everybody is given a bundle with both roots",
        Phase::Activate => "the new root takes over signing",
        Phase::Reissue if waits => "everything under the distrusted root is issued anew",
        Phase::Reissue => "nobody within reach holds a certificate under the distrusted root",
        Phase::Retire => "everybody is given a bundle without the distrusted root",
        Phase::Done => {
            let key = if outside {
                ERASED_HERE
            } else {
                "its key is erased"
            };
            return format!(
                "the distrusted root is in no bundle and never will be; {key}; connections that proxies have open survive until they close them"
            );
        }
        Phase::Unknown => "a newer version has begun this phase: use that",
        Phase::Withdraw | Phase::Restore | Phase::Held | Phase::Aborted => "it goes on",
    };
    if waits {
        format!(
            "{told}; whoever has not followed {} s after it began is left behind",
            cap.as_secs_f64()
        )
    } else {
        told.to_owned()
    }
}

/// Of a distrust that no other root follows.
fn alone_message(rotation: &Rotation) -> String {
    let told = match rotation.phase {
        Phase::Prepare => "the only root is being cut off",
        Phase::Retire => {
            "the only root is distrusted, and nothing is issued any more; everybody is given a bundle that nothing can be verified by"
        }
        Phase::Done => {
            "the only root is distrusted, its key is erased, and nothing connects: give the authority another root, start it again, and replace the bundle files of the nodes; connections that proxies have open survive until they close them"
        }
        _ => "it goes on",
    };
    told.to_owned()
}

/// What a rotation would do to a root that is there as soon as it begins.
pub(super) async fn plan_to_another(ca: &Ca, terms: &Terms, now: SystemTime) -> wire::RotationPlan {
    planned(ca, terms, false, now).await
}

/// What a rotation would do.
pub(super) async fn plan(ca: &Ca, terms: &Terms, now: SystemTime) -> wire::RotationPlan {
    planned(ca, terms, true, now).await
}

async fn planned(ca: &Ca, terms: &Terms, made_here: bool, now: SystemTime) -> wire::RotationPlan {
    let live = ca.ledger.live();
    // No sooner than everything can be issued.
    let takes = ca.reissue_takes(ca.authority.root_key_id(), now);
    let window = terms.window.max(takes);
    let from = ca.authority.root();
    let bundle = ca.trust.current();
    let holders = live.holders(now, None);
    let Gate {
        confirmed,
        unconfirmed: blockers,
    } = ca.fleet.confirmations(&bundle, &holders, now);
    let blockers: Vec<Obstacle> = blockers.into_iter().map(Obstacle::from).collect();
    let agents = holders.iter().filter(|holder| !holder.cluster.is_empty());
    let agents = agents.count() as u64;
    // An agent is one of them itself.
    let consumers = (confirmed + blockers.len() as u64).saturating_sub(agents);
    let Apart {
        waits: mut blockers,
        denied,
    } = ca.denied_apart(blockers, now).await;
    let below = ca.below_apart(ca.authority.root_key_id(), now).await;
    // Where the state can't be read, nothing begins either.
    blockers.extend(below.map(|(_, away)| away).unwrap_or_default());
    let replicas = ca.state.replicas().await.unwrap_or_default();
    blockers.extend(ca.history_lost(&replicas, now));
    let step = |phase: Phase, at_least: Duration, why: &str| wire::PlannedPhase {
        phase: phase.as_str().to_owned(),
        at_least_ms: millis(at_least),
        why: why.to_owned(),
    };
    let nothing = Duration::ZERO;
    let stored = ca.state.authorities().await.ok().flatten();
    let active = stored.as_ref().and_then(|stored| stored.value.active());
    let prepare = match active.and_then(|active| ca.without_cross(active)) {
        None => {
            "a new root is made, signs for trial, and is cross-certified by the old one".to_owned()
        }
        Some(reason) => format!(
            "a new root is made, and signs for trial; the old one does not cross-certify it: {reason}"
        ),
    };
    let mut refusals = Vec::new();
    let view = ca.rotator.watch();
    if let Err(shut) = ca.restore.is_open() {
        refusals.push(wire::Refusal {
            code: shut.code.to_owned(),
            message: shut.message,
        });
    } else if let Some(view) = &*view.borrow()
        && !view.rotation.phase.is_over()
    {
        let error = RotationError::UnderWay(view.rotation.id.clone());
        refusals.push(refusal(&error));
    } else if let Err(error) =
        crate::rotation::check(terms, ca.authority.longest_leaf(), from.not_after(), now)
    {
        refusals.push(refusal(&error));
    } else if made_here && let Err(refused) = ca.can_be_rotated().await {
        refusals.push(wire::Refusal {
            code: refused.code.to_owned(),
            message: refused.message,
        });
    }
    wire::RotationPlan {
        from: Some(wire::RotationRoot {
            subject: from.subject().to_owned(),
            key_id: Bytes::copy_from_slice(ca.authority.root_key_id().as_bytes()),
            not_after_unix_ms: unix_ms(from.not_after()),
        }),
        steps: vec![
            step(Phase::Prepare, nothing, &prepare),
            step(
                Phase::Distribute,
                terms.dwell,
                "everybody has to confirm a bundle with both roots; the gate then stays shut for handshakes that are under way",
            ),
            step(
                Phase::Activate,
                terms.dwell,
                "the authority signs and serves under the new root; with a cross-certificate in every chain, if there is one, until the old root goes",
            ),
            step(
                Phase::Reissue,
                // Who renews when is up to the agents: all may be early in the window.
                terms.dwell,
                "renewals are spread over the window, which adds to this; it takes an agent two inventories to show that the old certificates are gone",
            ),
            step(
                Phase::Retire,
                terms.dwell,
                "everybody has to confirm a bundle without the old root; its key is then erased",
            ),
        ],
        must_confirm_agents: u32::try_from(agents).unwrap_or(u32::MAX),
        must_confirm_subscribers: u32::try_from(consumers).unwrap_or(u32::MAX),
        live_certificates: live.count_under_root(&ca.authority.root_key_id(), now),
        blockers_total: blockers.len() as u64,
        denied: denied.iter().take(MOST_UNCONFIRMED).map(left_out).collect(),
        denied_total: denied.len() as u64,
        blockers: blockers
            .iter()
            .take(MOST_UNCONFIRMED)
            .map(unconfirmed)
            .collect(),
        refusals,
        window_ms: millis(window),
    }
}

/// The evidence of a rotation.
pub(super) fn report(ca: &Ca, rotation: &Rotation) -> Value {
    let wire = stored(ca, rotation);
    let root = |root: Option<wire::RotationRoot>, id: Option<KeyId>| {
        let (root, id) = (root?, id?);
        let known = rotation.roots.iter().find(|known| known.key_id == id)?;
        Some(json!({
            "subject": root.subject,
            "key_id": Hex(id.as_bytes()).to_string(),
            "not_after": rfc3339(known.not_after),
        }))
    };
    let (from, to) = ends(rotation);
    let phases = left(rotation)
        .zip(&wire.phases)
        .map(|((passed, _), entered)| {
            json!({
                "phase": entered.phase,
                "aborting": entered.aborting,
                "started": rfc3339(passed.began),
                "ended": rfc3339(passed.ended),
                "sequence": passed.sequence.map(|sequence| sequence.to_string()),
                "confirmed_count": passed.confirmed,
            })
        });
    let forced = rotation.passed.iter().filter_map(|passed| {
        let forced = passed.forced.as_ref()?;
        Some(json!({
            "phase": phase(passed.phase),
            "at": rfc3339(passed.ended),
            "by": forced.by.as_str(),
            "reason": forced.reason,
            "left_behind": forced.count,
            "names": forced.left_behind,
        }))
    });
    let denied = left(rotation).filter_map(|(passed, aborting)| {
        let denied = passed.denied.as_ref()?;
        Some(json!({
            "phase": phase(passed.phase),
            "aborting": aborting,
            "at": rfc3339(passed.ended),
            "left_out": denied.count,
            "holders": denied.holders.iter().map(holder).collect::<Vec<_>>(),
        }))
    });
    let Cut { off, away } = Cut::of(rotation);
    let outcome = match rotation.phase {
        Phase::Done => "done",
        Phase::Aborted => "aborted",
        _ => "running",
    };
    let ended = rotation
        .phase
        .is_over()
        .then(|| rfc3339(rotation.phase_began));
    json!({
        "id": rotation.id,
        "kind": rotation.kind.as_str(),
        "outcome": outcome,
        "trust_domain": ca.trust_domain.as_str(),
        "from": root(wire.from.clone(), from),
        "to": root(wire.to.clone(), to),
        "started": rfc3339(rotation.began),
        "ended": ended,
        "started_by": rotation.by.as_str(),
        "reason": rotation.reason,
        "phases": phases.collect::<Vec<_>>(),
        "forced": forced.collect::<Vec<_>>(),
        "denied": denied.collect::<Vec<_>>(),
        "without_successor": rotation.without_successor,
        "cross_certificate_until": rotation.cross_until.map(rfc3339),
        "cut_off": off,
        "to_come_back": away,
    })
}

/// Somebody who has not followed, with what it holds.
fn holder(holder: &LeftBehind) -> Value {
    json!({
        "node": holder.node,
        "process": holder.process,
        "reason": holder.reason,
        "workloads": holder.workloads,
        "workload_count": holder.count,
    })
}

/// Who was cut off by a distrust, by the last word on each.
#[derive(Default)]
struct Cut {
    /// Each with what it held.
    off: Vec<Value>,
    /// Those who were away, and join again by themselves when they come back.
    away: Vec<String>,
}

impl Cut {
    fn of(rotation: &Rotation) -> Self {
        let mut last = BTreeMap::new();
        for passed in &rotation.passed {
            let forced = passed.forced.iter().filter(|it| it.by == Opener::Distrust);
            for holder in forced.flat_map(|forced| &forced.holders) {
                last.insert((&holder.node, &holder.process), (passed, holder));
            }
        }
        let mut cut = Self::default();
        for (passed, holder) in last.into_values() {
            // Whoever was late for one gate and was there for the next has lost nothing for good.
            if passed.phase < Phase::Reissue && !rotation.without_successor {
                continue;
            }
            if holder.reason == Reason::AgentAway.as_str() {
                cut.away.push(holder.node.clone());
            }
            let mut off = self::holder(holder);
            off["in"] = phase(passed.phase).into();
            cut.off.push(off);
        }
        cut
    }
}

/// All that is remembered, newest first.
pub(crate) async fn all(ca: &Ca) -> Result<Vec<Rotation>, Refusal> {
    let stored = ca
        .state
        .rotations()
        .await
        .map_err(|error| Refusal::new(error.code(), Fault::Dependency, error.to_string()))?;
    let Rotations { mut all, .. } = stored;
    all.reverse();
    Ok(all)
}

/// The one with this name; of an empty name, the last.
pub(crate) async fn named(ca: &Ca, id: &str) -> Result<Option<Arc<View>>, Refusal> {
    let view = ca.rotator.watch().borrow().clone();
    if let Some(view) = view
        && (id.is_empty() || view.rotation.id == id)
    {
        return Ok(Some(view));
    }
    let found = all(ca)
        .await?
        .into_iter()
        .find(|rotation| id.is_empty() || rotation.id == id);
    match found {
        Some(rotation) => Ok(Some(Arc::new(View {
            rotation,
            confirmed: 0,
            obstacles: Vec::new(),
            denied: Vec::new(),
            trouble: None,
        }))),
        None if id.is_empty() => Ok(None),
        None => Err(unknown(id)),
    }
}

pub(super) fn unknown(id: &str) -> Refusal {
    let message = match id {
        "" => "there has been no rotation: begin one by `arx rotate root`".to_owned(),
        id => format!("there is no rotation {id:?}: see `arx rotate history`"),
    };
    Refusal::new("ARX-ROTATION-UNKNOWN", Fault::Request, message)
}

/// Somebody who watches a rotation.
pub(super) struct Watching {
    ca: Arc<Ca>,
    views: watch::Receiver<Option<Arc<View>>>,
    id: String,
    first: Option<Arc<View>>,
    over: bool,
}

impl Watching {
    pub(super) fn new(
        ca: Arc<Ca>,
        views: watch::Receiver<Option<Arc<View>>>,
        first: Arc<View>,
    ) -> Self {
        Self {
            ca,
            views,
            id: first.rotation.id.clone(),
            first: Some(first),
            over: false,
        }
    }

    /// How it stands, once something has changed; nothing after its end.
    pub(super) async fn next(&mut self, limit: u32) -> Option<wire::Rotation> {
        if self.over {
            return None;
        }
        let view = match self.first.take() {
            Some(first) => first,
            None => self.changed().await?,
        };
        self.over = view.rotation.phase.is_over();
        Some(rotation(&self.ca, &view, limit))
    }

    async fn changed(&mut self) -> Option<Arc<View>> {
        loop {
            tokio::select! {
                changed = self.views.changed() => changed.ok()?,
                () = self.ca.drain.requested() => return None,
            }
            let view = self.views.borrow_and_update().clone()?;
            if view.rotation.id == self.id {
                return Some(view);
            }
        }
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::{Passed, Phase, phase, phase_left, ways_back};

    fn passed(phases: &[(Phase, bool)]) -> Vec<Passed> {
        let passed = |&(phase, turned): &(Phase, bool)| Passed {
            phase,
            began: SystemTime::UNIX_EPOCH,
            ended: SystemTime::UNIX_EPOCH,
            sequence: None,
            confirmed: 0,
            forced: None,
            denied: None,
            aborted: turned.then(|| "a mistake".to_owned()),
        };
        phases.iter().map(passed).collect()
    }

    #[test]
    fn what_goes_on_after_it_was_held_is_not_on_the_way_back() {
        use Phase::{Activate, Distribute, Held, Prepare, Reissue, Restore, Retire, Withdraw};
        let forward = [(Prepare, false), (Distribute, false), (Activate, false)];
        let turned = [&forward[..], &[(Reissue, true), (Activate, false)]].concat();
        let held = [(Retire, true), (Restore, false), (Held, false)];
        let went_on = [&forward[..], &held, &[(Retire, false)]].concat();
        let went_back = [&held[..2], &[(Held, true), (Activate, false)]].concat();
        let withdrawn = [(Prepare, false), (Distribute, true), (Withdraw, false)];
        for (phases, expected) in [
            (&turned[..], &[false, false, false, false, true][..]),
            (&went_on, &[false, false, false, false, true, true, false]),
            (&went_back, &[false, true, true, true]),
            (&withdrawn, &[false, false, true]),
        ] {
            assert_eq!(ways_back(&passed(phases)), expected, "{phases:?}");
        }
    }

    #[test]
    fn a_phase_that_was_held_is_listed_as_that_and_not_as_another_distribute() {
        assert_eq!(phase_left(Phase::Restore), "distribute");
        assert_eq!(phase_left(Phase::Held), "held");
        // While it lasts it is in the place of the phase that it came from.
        assert_eq!(phase(Phase::Held), "distribute");
    }
}
