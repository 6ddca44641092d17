//! Whether everybody on one node has confirmed a bundle.

use std::time::SystemTime;

use arx_identity::TrustBundle;
use arx_proto::node::v1 as wire;

use super::{Gate, NEVER_SEEN, Names, Reason, Unconfirmed};
use crate::fleet::agent::Agent;
use crate::fleet::holdings::is_over;
use crate::fleet::subscribers::{HolderId, Kind, Known, Stand};
use crate::ledger::Holder;

pub(super) fn agent(
    gate: &mut Gate,
    agent: &Agent,
    published: &TrustBundle,
    holder: Option<&Holder>,
    now: SystemTime,
) {
    let about = |reason, since, detail: &str| {
        let names = holder.map_or_else(|| Names::of_leaves(agent.holdings.live(now)), Names::of);
        let about = Unconfirmed::new(agent.name(), reason, names);
        about.since(since).detail(detail)
    };
    if !agent.is_connected() {
        if holder.is_some() || agent.holdings.live(now).next().is_some() {
            let away = agent.away_since();
            let detail = away.map_or(NEVER_SEEN, |_| "");
            gate.wait(about(Reason::AgentAway, away, detail));
        }
        return;
    }
    match agent.trust {
        Some(at) if at == (published.sequence(), published.sha256()) => {}
        at => {
            let detail = match at {
                Some((at, _)) => format!("it has stored bundle {at}, not {}", published.sequence()),
                None => "it has stored no bundle".to_owned(),
            };
            gate.wait(about(Reason::AgentBehind, agent.since(), &detail));
            return;
        }
    }
    if !agent.subscribers.is_complete() {
        let detail = "its report on all consumers has not come since it connected";
        gate.wait(about(Reason::NotReported, agent.since(), detail));
        return;
    }
    gate.confirmed += 1;
    for (id, known) in agent.subscribers.by_holder(now) {
        process(gate, agent, published, id, &known, now);
    }
}

/// All subscribers of one process or pod.
fn process(
    gate: &mut Gate,
    agent: &Agent,
    published: &TrustBundle,
    id: &HolderId,
    known: &[&Known],
    now: SystemTime,
) {
    let names = || Names::of_process(known, &agent.holdings);
    let mut roots = known
        .iter()
        .filter(|one| one.kind() == Kind::Roots)
        .peekable();
    if roots.peek().is_none() {
        let certificates = known.iter().filter(|one| one.kind() == Kind::Certificate);
        let mut valid = certificates.filter(|one| holds_valid(one, agent, now));
        if let Some(one) = valid.next() {
            let about = Unconfirmed::new(agent.name(), Reason::NoBundle, names()).consumer(one);
            let about = about.detail("no consumer of roots is known in this process");
            gate.wait(Unconfirmed {
                resource: None,
                ..about
            });
        }
        return;
    }
    for one in roots {
        let reason = match agent.subscribers.stand(id, &one.state, published) {
            Stand::Confirmed => {
                gate.confirmed += 1;
                continue;
            }
            Stand::Refused => Reason::Refused,
            Stand::Open if waits(one) => Reason::Waited,
            Stand::Open => Reason::NotAcked,
        };
        let names = names();
        // Whoever can't answer is done when nothing is valid any more that it was given.
        if reason == Reason::Waited && names.ends().is_some_and(|ends| is_over(ends, now)) {
            gate.confirmed += 1;
            continue;
        }
        let detail = match &one.state.nack {
            Some(nack) => nack.detail.as_str(),
            None if reason == Reason::Refused => "it has refused the same roots before",
            None => "",
        };
        let about = Unconfirmed::new(agent.name(), reason, names);
        gate.wait(about.consumer(one).detail(detail));
    }
}

fn waits(known: &Known) -> bool {
    let subscriber = known.state.subscriber.as_ref();
    subscriber.is_some_and(|subscriber| subscriber.grade() == wire::Grade::Waited)
}

/// Whether any of its certificates may still be valid.
fn holds_valid(known: &Known, agent: &Agent, now: SystemTime) -> bool {
    let mut leaves = known.serials().map(|serial| agent.holdings.get(serial));
    leaves.any(|leaf| leaf.is_none_or(|leaf| leaf.lives(now)))
}
