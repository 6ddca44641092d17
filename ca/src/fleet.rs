//! The node agents: who they are, what they hold, and what the consumers on their nodes
//! have confirmed. Soft state, told by the agents themselves on their Follow streams and
//! gone with the process; each agent tells all of it again when it reconnects.
//!
//! An agent's word counts for its own node only, and silence counts for nothing.

mod agent;
mod detail;
mod gate;
mod holdings;
mod lineage;
mod session;
mod subscribers;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use arx_identity::Serial;
use arx_proto::node::v1 as wire;
use tokio::sync::watch;

use crate::caller::{Node, NodeName};
use crate::refusal::{Fault, Refusal};

pub(crate) use agent::LONGEST_TEXT;
pub use agent::{Agent, Counts};
pub use detail::{Consumer, Detail, HeldLeaf, Standing};
pub use gate::{Gate, Gone, Reason, Unconfirmed};
pub use lineage::{Join, Line, Superseded};
use lineage::{Lineage, Verdict};
pub use session::{Down, Released, Session};

/// Nodes that are remembered at most. A node that is not connected and whose certificate
/// has run out is forgotten first.
const MOST_NODES: usize = 100_000;

/// Everything that is known of the agents.
#[derive(Clone, Default)]
pub struct Fleet(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// How often anything was told that a gate might wait for.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    agents: BTreeMap<NodeName, Agent>,
    sessions: u64,
    connected: usize,
    /// How far our clock has been moved since the start, in milliseconds.
    own_clock_moved_ms: i64,
}

impl Fleet {
    fn lock(&self) -> MutexGuard<'_, State> {
        let state = self.0.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes whenever something was told that a gate might wait for: a report, an
    /// inventory, a stored position, a Follow that began or ended, a release. On a large
    /// node set that is often: look again after a pause, not at every change.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Something was told. Not to be called while the state is locked: who is woken by it
    /// wants to look.
    pub(crate) fn touch(&self) {
        self.0.changes.send_modify(|changes| *changes += 1);
    }

    /// Whether `node`'s certificate belongs to the line of the node's latest join. One of a later
    /// line, which began at another replica, cuts off what was known here, as a join here does; says
    /// so if the node was connected.
    ///
    /// # Errors
    /// `ARX-NODE-SUPERSEDED` if a later join has cut it off.
    pub fn admit(&self, node: &Node) -> Result<Option<Superseded>, Refusal> {
        let mut state = self.lock();
        let superseded = state.admit(node)?;
        drop(state);
        if superseded.is_some() {
            self.touch();
        }
        Ok(superseded)
    }

    /// Judges a join, before anything is issued for it.
    ///
    /// # Errors
    /// `ARX-JOIN-TOKEN-REPLAYED` and `ARX-JOIN-TOKEN-OLDER`, while the node is connected.
    pub fn may_join(&self, name: &NodeName, join: &Join) -> Result<(), Refusal> {
        let state = self.lock();
        match state.agents.get(name) {
            Some(agent) => agent.lineage.may_join(join, agent.session.is_some()),
            None => Ok(()),
        }
    }

    /// The line that a certificate for `join` shall be of.
    #[must_use]
    pub fn line_for(&self, name: &NodeName, join: &Join, now: SystemTime) -> Line {
        let state = self.lock();
        match state.agents.get(name) {
            Some(agent) => agent.lineage.line_for(join, now),
            None => Lineage::default().line_for(join, now),
        }
    }

    /// A join was answered with the certificate `serial`: whatever the node had before is
    /// cut off, and its Follow stream ends. Says so if the node was connected.
    pub fn joined(
        &self,
        name: &NodeName,
        join: Join,
        serial: Serial,
        not_after: SystemTime,
    ) -> Option<Superseded> {
        let mut state = self.lock();
        state.make_room();
        let agent = state
            .agents
            .entry(name.clone())
            .or_insert_with(|| Agent::new(name));
        agent.node_not_after = Some(not_after);
        if !agent.lineage.joined(join, serial, not_after) {
            return None;
        }
        let superseded = state.cut_off(name);
        drop(state);
        if superseded.is_some() {
            self.touch();
        }
        superseded
    }

    /// The node's certificate was renewed: `serial` belongs to the same line.
    pub fn renewed(&self, node: &Node, serial: Serial, not_after: SystemTime) {
        let mut state = self.lock();
        state.make_room();
        let agent = state
            .agents
            .entry(node.name.clone())
            .or_insert_with(|| Agent::new(&node.name));
        agent.node_not_after = Some(not_after);
        agent.lineage.issued(serial, not_after);
    }

    /// After a restart: certificates of `name` that are still valid, oldest first.
    pub fn restore(
        &self,
        name: &NodeName,
        certificates: impl IntoIterator<Item = (Serial, SystemTime)>,
    ) {
        let mut state = self.lock();
        let agent = state
            .agents
            .entry(name.clone())
            .or_insert_with(|| Agent::new(name));
        for (serial, not_after) in certificates {
            agent.node_not_after = agent.node_not_after.max(Some(not_after));
            agent.lineage.issued(serial, not_after);
        }
    }

    /// Begins a Follow. An earlier one of the same node ends.
    ///
    /// # Errors
    /// `ARX-NODE-SUPERSEDED`, and what is wrong with the Hello.
    pub fn follow(
        &self,
        node: &Node,
        hello: &wire::Hello,
        now: SystemTime,
    ) -> Result<Session, Refusal> {
        let mut state = self.lock();
        state.make_room();
        state.sessions += 1;
        let number = state.sessions;
        let own_clock_moved_ms = state.own_clock_moved_ms;
        let agent = state
            .agents
            .entry(node.name.clone())
            .or_insert_with(|| Agent::new(&node.name));
        if agent.lineage.admit(&node.serial) == Verdict::CutOff {
            return Err(superseded(&node.name));
        }
        agent.lineage.shown(&node.serial, node.not_after);
        let (open, receiver) = session::open(number);
        agent.greet(node, hello, now)?;
        agent.own_clock_moved_ms = own_clock_moved_ms;
        if let Some(earlier) = agent.session.replace(open) {
            earlier.end(Down::Replaced);
        } else {
            state.connected += 1;
        }
        drop(state);
        self.touch();
        Ok(Session::new(
            self.clone(),
            node.name.clone(),
            number,
            receiver,
        ))
    }

    /// How far the clock of each connected agent is ahead of ours, in milliseconds. Ours has
    /// been moved by `own_clock_moved_ms` since the start, by whoever sets clocks.
    #[must_use]
    pub fn clock_offsets_ms(&self, own_clock_moved_ms: i64) -> Vec<i64> {
        let mut state = self.lock();
        state.own_clock_moved_ms = own_clock_moved_ms;
        let connected = state.agents.values().filter(|agent| agent.is_connected());
        let offset = |agent: &Agent| {
            let since = own_clock_moved_ms.saturating_sub(agent.own_clock_moved_ms);
            agent.clock_offset_ms().saturating_sub(since)
        };
        connected.map(offset).collect()
    }

    /// When the last Follow of `node` began by its agent's clock, in ms since 1970, if it goes on or
    /// began after `since`.
    #[must_use]
    pub fn followed(&self, node: &NodeName, since: SystemTime) -> Option<i64> {
        let state = self.lock();
        let agent = state.agents.get(node)?;
        let is_late = agent.since().is_some_and(|began| began > since);
        (agent.is_connected() || is_late).then(|| agent.began_ms())
    }

    /// What `show` tells of a node's agent, if that is known.
    pub fn show<T>(&self, name: &NodeName, show: impl FnOnce(&Agent) -> T) -> Option<T> {
        self.lock().agents.get(name).map(show)
    }

    /// Id of the process that follows for this node.
    #[must_use]
    pub fn instance(&self, name: &NodeName) -> Option<[u8; 16]> {
        let state = self.lock();
        state
            .agents
            .get(name)
            .filter(|agent| agent.is_connected())
            .map(|agent| *agent.instance_id())
    }

    /// Sends `message` to every connected agent for whose node `wanted` says yes; answers
    /// how many. An agent whose queue is full misses it: hints are hints.
    pub fn tell(
        &self,
        message: &Arc<wire::AuthorityMessage>,
        mut wanted: impl FnMut(&NodeName) -> bool,
    ) -> u32 {
        let state = self.lock();
        let mut told = 0;
        for (name, agent) in &state.agents {
            if let Some(session) = &agent.session
                && wanted(name)
                && session.tell(Arc::clone(message))
            {
                told += 1;
            }
        }
        told
    }

    /// Whether the connected agent of a node says that it hands this certificate to whoever asks
    /// for one: not one that it has replaced.
    #[must_use]
    pub fn serves(&self, name: &NodeName, serial: &Serial) -> bool {
        let state = self.lock();
        state
            .agents
            .get(name)
            .is_some_and(|agent| agent.session.is_some() && agent.holdings.serves(serial))
    }

    /// How many agents are connected, and how many are known.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        let state = self.lock();
        (state.connected, state.agents.len())
    }

    /// At most `limit` agents after `from`, in the order of cluster and node.
    pub fn page<T>(
        &self,
        from: Option<&NodeName>,
        limit: usize,
        mut show: impl FnMut(&Agent) -> T,
    ) -> (Vec<T>, Option<NodeName>) {
        use std::ops::Bound;
        let state = self.lock();
        let start = from.map_or(Bound::Unbounded, |name| Bound::Excluded(name.clone()));
        let mut agents = state.agents.range((start, Bound::Unbounded));
        let mut last = None;
        let page = agents
            .by_ref()
            .take(limit.max(1))
            .map(|(name, agent)| {
                last = Some(name.clone());
                show(agent)
            })
            .collect();
        let next = agents.next().and(last);
        (page, next)
    }

    fn with<T>(
        &self,
        name: &NodeName,
        session: u64,
        change: impl FnOnce(&mut Agent) -> T,
    ) -> Option<T> {
        let mut state = self.lock();
        let agent = state.agents.get_mut(name)?;
        let current = agent
            .session
            .as_ref()
            .is_some_and(|open| open.number() == session);
        let changed = current.then(|| change(agent));
        drop(state);
        if changed.is_some() {
            self.touch();
        }
        changed
    }

    fn ended(&self, name: &NodeName, session: u64) {
        let ended = self.with(name, session, |agent| agent.session = None);
        if ended.is_some() {
            self.lock().connected -= 1;
        }
    }
}

impl State {
    fn admit(&mut self, node: &Node) -> Result<Option<Superseded>, Refusal> {
        let Some(agent) = self.agents.get_mut(&node.name) else {
            return Ok(None);
        };
        match agent.lineage.admit(&node.serial) {
            Verdict::Known => Ok(None),
            Verdict::Later => Ok(self.cut_off(&node.name)),
            Verdict::CutOff => Err(superseded(&node.name)),
        }
    }

    /// Ends the Follow of an earlier line, if there is one.
    fn cut_off(&mut self, name: &NodeName) -> Option<Superseded> {
        let session = self.agents.get_mut(name)?.session.take()?;
        session.end(Down::Superseded);
        self.connected -= 1;
        Some(Superseded)
    }

    fn make_room(&mut self) {
        if self.agents.len() < MOST_NODES {
            return;
        }
        let stale = self
            .agents
            .iter()
            .filter(|(_, agent)| agent.session.is_none());
        let oldest = stale
            .min_by_key(|(_, agent)| agent.node_not_after)
            .map(|(name, _)| name.clone());
        if let Some(name) = oldest {
            self.agents.remove(&name);
        }
    }
}

fn superseded(name: &NodeName) -> Refusal {
    Refusal::new(
        "ARX-NODE-SUPERSEDED",
        Fault::Unauthenticated,
        format!(
            "{name} has joined again since this certificate's line began: if that was not this agent, look into who holds its token; else join again"
        ),
    )
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (connected, known) = self.size();
        write!(f, "Fleet({connected} of {known} connected)")
    }
}

#[cfg(test)]
mod tests;
