//! What on one node keeps a root in use.

use std::time::SystemTime;

use arx_identity::KeyId;

use super::{Gate, Gone, NEVER_SEEN, Names, Reason, Unconfirmed};
use crate::fleet::agent::Agent;
use crate::fleet::holdings::Leaf;
use crate::fleet::subscribers::Known;
use crate::ledger::Holder;

pub(super) fn agent(
    gate: &mut Gate,
    agent: &Agent,
    root: &KeyId,
    holder: Option<&Holder>,
    gone: Gone,
    now: SystemTime,
) {
    // A leaf without a root that can be read may be under any.
    let is_under = |leaf: &Leaf| leaf.root.as_ref().is_none_or(|other| other == root);
    let (under, others): (Vec<_>, Vec<_>) =
        agent.holdings.live(now).partition(|leaf| is_under(leaf));
    gate.confirmed += others.len() as u64;
    let about = |reason, since, detail: &str| {
        let names = holder.map_or_else(|| Names::of_leaves(under.iter().copied()), Names::of);
        let about = Unconfirmed::new(agent.name(), reason, names);
        about.since(since).detail(detail)
    };
    if !agent.is_connected() {
        if holder.is_some() || !under.is_empty() {
            let away = agent.away_since();
            let detail = away.map_or(NEVER_SEEN, |_| "");
            gate.wait(about(Reason::AgentAway, away, detail));
        }
        return;
    }
    if !agent.holdings.is_complete() {
        let detail = "its inventory has not come since it connected";
        gate.wait(about(Reason::NotReported, agent.since(), detail));
        return;
    }
    let before = gate.unconfirmed.len();
    let mut shown = 0;
    for known in agent.subscribers.by_holder(now).into_values().flatten() {
        let mut used = known
            .serials()
            .filter_map(|serial| agent.holdings.get(serial));
        if let Some(leaf) = used.find(|leaf| is_under(leaf) && leaf.lives(now) && !leaf.current) {
            gate.wait(consumer(agent, known, leaf));
            shown += 1;
        }
    }
    let current = under.iter().copied().filter(|leaf| leaf.current);
    let current = Names::of_leaves(current);
    if current.count() > 0 || under.iter().any(|leaf| leaf.current) {
        let about = Unconfirmed::new(agent.name(), Reason::NotRenewed, current);
        gate.wait(about.since(agent.since()));
    }
    let used = under.iter().copied().filter(|leaf| !leaf.current);
    if shown == 0 && used.clone().next().is_some() {
        let about = Unconfirmed::new(agent.name(), Reason::NotAcked, Names::of_leaves(used));
        let detail = "a successor is there, and the node has not done with what it replaces";
        gate.wait(about.since(agent.since()).detail(detail));
    }
    if gone == Gone::ShownTwice && gate.unconfirmed.len() == before && holder.is_some() {
        let detail = "it has to be missing from two inventories of the node";
        gate.wait(about(Reason::NotReported, agent.since(), detail));
    }
}

/// About a consumer that has not taken the successor of `leaf`.
fn consumer(agent: &Agent, known: &Known, leaf: &Leaf) -> Unconfirmed {
    let nack = known.state.nack.as_ref();
    let reason = if nack.is_some() {
        Reason::Refused
    } else {
        Reason::NotAcked
    };
    let detail = nack.map_or("", |nack| nack.detail.as_str());
    let about = Unconfirmed::new(agent.name(), reason, Names::of_leaves([leaf]));
    about.consumer(known).detail(detail)
}
