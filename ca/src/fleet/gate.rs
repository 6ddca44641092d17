//! Who a rotation still waits for, and why.
//!
//! Nothing confirms but the word of whoever has to: an agent that is away, a report that has
//! not come, a consumer that says nothing all count as open.

mod confirm;
pub(super) mod names;
mod users;

use std::collections::BTreeMap;
use std::time::SystemTime;

use arx_identity::{KeyId, TrustBundle};

use super::Fleet;
use super::agent::Agent;
use crate::caller::NodeName;
use crate::ledger::Holder;
use names::Names;

/// About an agent of which only the ledger tells.
const NEVER_SEEN: &str = "it has not connected since the authority was started";

/// How a gate stands: it may open when nobody is unconfirmed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    /// How many have confirmed.
    pub confirmed: u64,
    /// Everybody who has not, those that will hardly do so by themselves first.
    pub unconfirmed: Vec<Unconfirmed>,
}

/// When a certificate that only the ledger knows counts as gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// When one inventory is without it.
    ShownOnce,
    /// When two are, so that none is on its way any more.
    ShownTwice,
}

/// Somebody who has not confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unconfirmed {
    /// Where. Without a cluster it is one of the authority's own replicas.
    pub node: NodeName,
    /// `pid 1234`, or the UID of a pod; none if it is about the whole node.
    pub process: Option<String>,
    /// The resource that it takes; none if it is about all.
    pub resource: Option<String>,
    /// Why.
    pub reason: Reason,
    /// Since when it is known (a consumer), connected (an agent), or away (an agent
    /// that is). None if it was never heard of since this process began.
    pub since: Option<SystemTime>,
    /// The first of the SPIFFE ids that depend on it, sorted; at most 20.
    pub workloads: Vec<String>,
    /// How many SPIFFE ids depend on it.
    pub workload_count: u32,
    /// When the last certificate ends that it is known to have.
    pub last_certificate_ends: Option<SystemTime>,
    /// More about it. For a refusal the consumer's own words, without control characters and
    /// cut; not to be trusted.
    pub detail: String,
}

/// Why somebody has not confirmed, in the order in which an operator should look at them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The consumer has refused it. An acknowledgement of the same content that comes later
    /// does not count.
    Refused,
    /// The process takes its certificate from us, but not the roots.
    NoBundle,
    /// The agent is not connected, and there are valid certificates on its node.
    AgentAway,
    /// The consumer can't say whether it has taken it: until its last certificate ends.
    Waited,
    /// The agent has not told everything since it connected.
    NotReported,
    /// The agent has not stored the bundle.
    AgentBehind,
    /// The certificate was not yet renewed.
    NotRenewed,
    /// It was sent to the consumer, who has not answered.
    NotAcked,
}

impl Reason {
    /// As it stands in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::NoBundle => "no-bundle",
            Self::AgentAway => "agent-away",
            Self::Waited => "waited",
            Self::NotReported => "not-reported",
            Self::AgentBehind => "agent-behind",
            Self::NotRenewed => "not-renewed",
            Self::NotAcked => "not-acked",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Fleet {
    /// Who has confirmed exactly `published` (sequence and hash): every agent that is
    /// connected, every node of `holders` (all that have valid certificates by the ledger)
    /// or whose last inventory shows one that has not ended, and there every consumer of
    /// roots and every process that was given a certificate.
    #[must_use]
    pub fn confirmations(
        &self,
        published: &TrustBundle,
        holders: &[Holder],
        now: SystemTime,
    ) -> Gate {
        // The authority's own replicas answer for themselves, elsewhere.
        let mut holders = by_node(holders.iter().filter(|holder| !holder.cluster.is_empty()));
        let mut gate = Gate::default();
        let state = self.lock();
        for (name, agent) in &state.agents {
            let holder = holders.remove(name);
            confirm::agent(&mut gate, agent, published, holder, now);
        }
        drop(state);
        for (name, holder) in holders {
            gate.wait(never_seen(name, holder));
        }
        gate.sorted()
    }

    /// Which of `wanted` are connected here, with nothing in the way of confirming `published`; and
    /// when their Follow began by their agents' clocks, in ms since 1970.
    #[must_use]
    pub fn well_with(
        &self,
        wanted: &[NodeName],
        published: &TrustBundle,
        now: SystemTime,
    ) -> BTreeMap<String, i64> {
        self.well(wanted, |gate, agent| {
            confirm::agent(gate, agent, published, None, now);
        })
    }

    /// The same of those that are connected here, and have shown in two inventories that nothing under
    /// `root` is left there.
    #[must_use]
    pub fn well_without(
        &self,
        wanted: &[NodeName],
        root: &KeyId,
        now: SystemTime,
    ) -> BTreeMap<String, i64> {
        self.well(wanted, |gate, agent| {
            users::agent(gate, agent, root, None, Gone::ShownTwice, now);
            if !agent.holdings.is_shown_twice() {
                gate.wait(Unconfirmed::new(
                    agent.name(),
                    Reason::NotReported,
                    Names::of_leaves([]),
                ));
            }
        })
    }

    fn well(
        &self,
        wanted: &[NodeName],
        judge: impl Fn(&mut Gate, &Agent),
    ) -> BTreeMap<String, i64> {
        let state = self.lock();
        let well = wanted.iter().filter_map(|name| {
            let agent = state
                .agents
                .get(name)
                .filter(|agent| agent.is_connected())?;
            let mut gate = Gate::default();
            judge(&mut gate, agent);
            let is_well = gate.unconfirmed.is_empty();
            is_well.then(|| (name.to_string(), agent.began_ms()))
        });
        well.collect()
    }

    /// What keeps `root` in use: `holders` (those with valid certificates under it by the
    /// ledger), and every leaf under it that an inventory shows, held or still used by a
    /// consumer. `confirmed` counts leaves in inventories that are not under it.
    #[must_use]
    pub fn users_of(&self, root: &KeyId, holders: &[Holder], gone: Gone, now: SystemTime) -> Gate {
        let mut holders = by_node(holders);
        let mut gate = Gate::default();
        let state = self.lock();
        for (name, agent) in &state.agents {
            let holder = holders.remove(name);
            users::agent(&mut gate, agent, root, holder, gone, now);
        }
        drop(state);
        for (name, holder) in holders {
            let mut open = never_seen(name, holder);
            if holder.cluster.is_empty() {
                open.reason = Reason::NotRenewed;
                open.detail = "a certificate of the authority itself".to_owned();
            }
            gate.wait(open);
        }
        gate.sorted()
    }
}

fn by_node<'a>(holders: impl IntoIterator<Item = &'a Holder>) -> BTreeMap<NodeName, &'a Holder> {
    let named = holders.into_iter().map(|holder| {
        let name = NodeName {
            cluster: holder.cluster.clone(),
            node: holder.node.clone(),
        };
        (name, holder)
    });
    named.collect()
}

fn never_seen(name: NodeName, holder: &Holder) -> Unconfirmed {
    Unconfirmed::new(&name, Reason::AgentAway, Names::of(holder)).detail(NEVER_SEEN)
}

impl Gate {
    fn wait(&mut self, unconfirmed: Unconfirmed) {
        self.unconfirmed.push(unconfirmed);
    }

    fn sorted(mut self) -> Self {
        self.unconfirmed.sort_by(|one, other| {
            let place = |of: &Unconfirmed| (of.reason, u32::MAX - of.workload_count);
            place(one).cmp(&place(other)).then_with(|| {
                let name =
                    |of: &Unconfirmed| (of.node.clone(), of.process.clone(), of.resource.clone());
                name(one).cmp(&name(other))
            })
        });
        self
    }
}

impl Unconfirmed {
    fn new(node: &NodeName, reason: Reason, names: Names) -> Self {
        Self {
            node: node.clone(),
            process: None,
            resource: None,
            reason,
            since: None,
            workload_count: names.count(),
            last_certificate_ends: names.ends(),
            workloads: names.first(),
            detail: String::new(),
        }
    }

    fn since(self, since: Option<SystemTime>) -> Self {
        Self { since, ..self }
    }

    fn detail(self, detail: &str) -> Self {
        let detail = names::shown(detail, names::LONGEST_DETAIL);
        Self { detail, ..self }
    }
}

#[cfg(test)]
mod tests;
