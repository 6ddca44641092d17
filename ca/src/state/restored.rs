//! That this state is a backup which was put back, what its replicas have heard of the fleet
//! since, and who said that it may be gone on with.

use std::collections::BTreeMap;
use std::time::SystemTime;

use arx_identity::{KeyId, Sequence};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::document::{self, Document};
use super::nodes::{self, Nodes};
use super::{LedgerMark, published, wire};
use crate::store::Segment;

/// Agents that are named of those who hold a bundle.
pub(crate) const NAMED: usize = 8;

/// A backup that was put back. Until it is opened, nothing is issued and nothing published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// The backup's id.
    pub backup: String,
    /// When the backup was made.
    #[serde(with = "wire::millis", rename = "made_ms")]
    pub made: SystemTime,
    /// When it was put back.
    #[serde(with = "wire::millis", rename = "at_ms")]
    pub at: SystemTime,
    /// The replica that made it.
    pub replica: String,
    /// How far the ledger of that replica was.
    pub ledger: LedgerMark,
    /// How many nodes had valid certificates then.
    pub agents: u64,
    /// Whether the ledger of that replica is there, as it found when it started; not known yet,
    /// if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<bool>,
    /// What each replica has heard, by its name.
    #[serde(default)]
    pub heard: BTreeMap<String, Heard>,
    /// The fleet's root that it goes on from, by an operator's word; none, if what was put back is
    /// enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopts: Option<Adopts>,
    /// On whose word it is being opened: decided, and ended by whoever finds it so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opening: Option<Opened>,
    /// By whom it was opened; nobody yet, if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened: Option<Opened>,
    /// What a newer version has added.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What the agents that came to one replica hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// Agents whose roots are all here, the active one among them, or that will take what is
    /// here; by name, so that one that goes from replica to replica counts once.
    #[serde(default)]
    pub agree: Nodes,
    /// The highest sequence that any of them holds.
    #[serde(with = "published::optional_sequence", default)]
    pub highest: Option<Sequence>,
    /// What others hold, the one with the most agents first.
    #[serde(default)]
    pub ahead: Vec<Ahead>,
    /// What the replica's own ledger says to have been handed out, if that is not known here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<Ahead>,
    /// What is not believed of others, because no history leads there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doubtful: Vec<Ahead>,
    /// What a newer version has added.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A bundle of the fleet's that this state does not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ahead {
    /// Its sequence.
    #[serde(with = "published::sequence")]
    pub sequence: Sequence,
    /// Its content.
    #[serde(with = "wire::sha256")]
    pub sha256: [u8; 32],
    /// Its roots that are not here, by their subject key identifiers.
    #[serde(with = "wire::key_ids")]
    pub missing: Vec<KeyId>,
    /// How many agents, or authorities below, hold it.
    pub agents: u64,
    /// The first of them, by name.
    #[serde(default)]
    pub nodes: Vec<String>,
    /// The replicas whose ledgers tell of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ledgers: Vec<String>,
}

/// A root of the fleet's that is trusted here again, until everybody has left it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopts {
    /// The root.
    #[serde(with = "wire::key_id")]
    pub root: KeyId,
    /// The rotation away from it. Nothing is issued before that has left Distribute.
    pub rotation: String,
    /// Why, in the operator's words.
    pub reason: String,
    /// Whether the epoch has begun in which both roots are published.
    #[serde(default)]
    pub has_begun: bool,
}

/// Who has opened a state that was put back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// When.
    #[serde(with = "wire::millis", rename = "at_ms")]
    pub at: SystemTime,
    /// The agents that agreed; none, if an operator did not wait for them.
    pub agents: Option<u64>,
    /// Why, in the operator's words.
    #[serde(default)]
    pub reason: String,
}

impl Restored {
    /// Whether nothing may be issued yet.
    #[must_use]
    pub fn is_shut(&self) -> bool {
        self.opened.is_none()
    }

    /// How many of the agents that there were are counted: all, or a sample of many.
    #[must_use]
    pub fn counted(&self) -> u64 {
        self.agents.min(nodes::MOST as u64)
    }

    /// Whether an agent with this hash is one that counts. Which ones do is the same everywhere,
    /// and has nothing to do with what they hold.
    #[must_use]
    pub fn counts(&self, hash: u64) -> bool {
        let sample = u128::from(u64::MAX) * u128::from(self.counted());
        u128::from(hash) * u128::from(self.agents) <= sample
    }

    /// Agents that agree, at whatever replica, of those that count.
    #[must_use]
    pub fn agree(&self) -> u64 {
        let mut all = Nodes::default();
        for heard in self.heard.values() {
            all.join(&heard.agree);
        }
        all.kept()
    }

    /// The highest sequence that any agent holds.
    #[must_use]
    pub fn highest(&self) -> Option<Sequence> {
        self.heard.values().filter_map(|heard| heard.highest).max()
    }

    /// Bundles that are not known here, at whatever replica, the one with the most agents first.
    #[must_use]
    pub fn ahead(&self) -> Vec<Ahead> {
        let all = self.heard.values();
        together(all.flat_map(|heard| heard.ahead.iter().chain(&heard.ledger)))
    }

    /// What is not believed.
    #[must_use]
    pub fn doubtful(&self) -> Vec<Ahead> {
        let all = self.heard.values();
        together(all.flat_map(|heard| &heard.doubtful))
    }

    /// How many agents have to agree: more than half of those that there were. What a gate has
    /// let pass, more than half of the fleet hold, so one of any such half tells of it.
    #[must_use]
    pub fn needed(&self) -> u64 {
        self.counted() / 2 + 1
    }
}

impl Heard {
    /// Without those whose word does not count any more.
    pub(crate) fn leave_out(&mut self, is_left_out: impl Fn(&str) -> bool) {
        for groups in [&mut self.ahead, &mut self.doubtful] {
            for group in groups.iter_mut() {
                let named = group.nodes.len();
                group.nodes.retain(|node| !is_left_out(node));
                let gone = (named - group.nodes.len()) as u64;
                group.agents = group.agents.saturating_sub(gone);
            }
            groups.retain(|group| group.agents > 0);
        }
    }
}

/// Those of the same content as one.
fn together<'a>(all: impl Iterator<Item = &'a Ahead>) -> Vec<Ahead> {
    let mut found: Vec<Ahead> = Vec::new();
    for one in all {
        let same = |it: &&mut Ahead| (it.sequence, it.sha256) == (one.sequence, one.sha256);
        match found.iter_mut().find(same) {
            Some(known) => known.join(one),
            None => found.push(one.clone()),
        }
    }
    found.sort_by_key(|it| std::cmp::Reverse(it.agents));
    found
}

impl Ahead {
    fn join(&mut self, other: &Self) {
        let new: Vec<_> = (other.nodes.iter())
            .filter(|node| !self.nodes.contains(node))
            .cloned()
            .collect();
        // Who is named twice is one.
        let twice = (other.nodes.len() - new.len()) as u64;
        self.agents += other.agents.saturating_sub(twice);
        self.nodes.extend(new);
        for root in &other.missing {
            if !self.missing.contains(root) {
                self.missing.push(*root);
            }
        }
        self.ledgers.extend(other.ledgers.iter().cloned());
    }
}

impl Document for Restored {
    const KIND: Segment = Segment::fixed("restored");

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        document::encode(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        document::decode(bytes)
    }
}
