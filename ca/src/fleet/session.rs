//! One Follow stream, from the authority's side.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use arx_identity::Serial;
use arx_proto::node::v1 as wire;
use tokio::sync::mpsc;

use super::Fleet;
use crate::caller::NodeName;
use crate::refusal::Refusal;

/// Messages that wait for a slow agent. Trust is not among them: of that only the newest
/// counts, and every stream looks it up itself.
const WAITING: usize = 16;

/// What is to go down a stream.
#[derive(Clone, Debug)]
pub enum Down {
    /// A message.
    Message(Arc<wire::AuthorityMessage>),
    /// The end: the same node follows on another stream.
    Replaced,
    /// The end: a later join has cut this agent off.
    Superseded,
}

/// Certificates that an agent neither holds nor serves any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released(pub Vec<Serial>);

/// The sending side, kept by the fleet.
#[derive(Debug)]
pub(super) struct Open {
    number: u64,
    down: mpsc::Sender<Down>,
}

pub(super) fn open(number: u64) -> (Open, mpsc::Receiver<Down>) {
    let (down, receiver) = mpsc::channel(WAITING);
    (Open { number, down }, receiver)
}

impl Open {
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn tell(&self, message: Arc<wire::AuthorityMessage>) -> bool {
        self.down.try_send(Down::Message(message)).is_ok()
    }

    /// A full queue ends the stream as well: the sender is gone with `self`.
    pub(super) fn end(self, how: Down) {
        let _full = self.down.try_send(how);
    }
}

/// The agent's end of the fleet: what it reports goes in, what it is to be told comes out.
/// Dropped, the agent counts as away.
pub struct Session {
    fleet: Fleet,
    name: NodeName,
    number: u64,
    down: mpsc::Receiver<Down>,
}

impl Session {
    pub(super) fn new(
        fleet: Fleet,
        name: NodeName,
        number: u64,
        down: mpsc::Receiver<Down>,
    ) -> Self {
        Self {
            fleet,
            name,
            number,
            down,
        }
    }

    /// The node that follows.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        &self.name
    }

    /// The next thing to go down; `None` if the stream is to end.
    pub async fn next(&mut self) -> Option<Down> {
        self.down.recv().await
    }

    /// Takes a part of an inventory. When it is whole, answers which of `live` (the
    /// certificates that the ledger knows for this node, with the time of issue) were
    /// missing from two inventories of one cache in a row, and so are gone.
    ///
    /// # Errors
    /// If there is more of it than an agent may hold.
    pub fn inventory(
        &self,
        part: wire::Inventory,
        live: impl FnOnce() -> Vec<(Serial, SystemTime)>,
        now: SystemTime,
    ) -> Result<Released, Refusal> {
        let taken = self.fleet.with(&self.name, self.number, |agent| {
            agent.take_inventory(part, now)
        });
        match taken {
            Some(Ok(true)) => {}
            Some(Ok(false)) | None => return Ok(Released::default()),
            Some(Err(refusal)) => return Err(refusal),
        }
        // The ledger is asked without holding the fleet.
        let live = live();
        let gone = self
            .fleet
            .with(&self.name, self.number, |agent| agent.missing_twice(live));
        Ok(Released(gone.unwrap_or_default()))
    }

    /// Takes a report on subscribers.
    ///
    /// # Errors
    /// If there are more than a node may have.
    pub fn subscribers(
        &self,
        report: wire::SubscriberReport,
        now: SystemTime,
    ) -> Result<(), Refusal> {
        self.fleet
            .with(&self.name, self.number, |agent| {
                agent.take_report(report, now)
            })
            .unwrap_or(Ok(()))
    }

    /// The connection is lost.
    pub fn lost(&self, now: SystemTime) {
        self.fleet
            .with(&self.name, self.number, |agent| agent.lost = Some(now));
    }

    /// The agent has made this position of trust durable.
    pub fn stored(&self, position: wire::TrustPosition) {
        self.fleet.with(&self.name, self.number, |agent| {
            agent.take_position(position)
        });
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.fleet.ended(&self.name, self.number);
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({} of {})", self.number, self.name)
    }
}
