//! What a rotation decides by.

use std::fmt;
use std::time::{Duration, SystemTime};

use arx_identity::crypto::Sha256;
use arx_identity::{KeyId, Sequence};

use crate::state::Rotation;

/// What was seen of the world, all at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The root that signs.
    pub active: KeyId,
    /// A root that was made and signs nothing yet.
    pub prepared: Option<KeyId>,
    /// All roots that may still be trusted.
    pub roots: Vec<KeyId>,
    /// The root above this replica's intermediate.
    pub signs_under: KeyId,
    /// The root above the certificate that this replica serves with.
    pub serves_under: KeyId,
    /// The roots of the published bundle.
    pub bundle: Vec<KeyId>,
    /// Its sequence.
    pub sequence: Sequence,
    /// When the root ends that is to leave.
    pub from_ends: Option<SystemTime>,
    /// The longest lifetime of what is issued.
    pub longest_leaf: Duration,
    /// How long this authority needs to issue everything under the root that leaves anew; known
    /// before it is begun with.
    pub reissue_takes: Duration,
    /// How long this process has known who has to; nothing while it does not.
    pub counting_for: Option<Duration>,
    /// Who has done what the phase waits for.
    pub confirmed: u64,
    /// Who has not: all of them.
    pub obstacles: Vec<Obstacle>,
    /// Denied holders who have not: no gate waits for them.
    pub denied: Vec<Obstacle>,
    /// Whether somebody is out of the way by another replica's word alone.
    pub by_word: bool,
    /// How long this process has seen nobody in the way of this gate, by a clock that never jumps.
    pub clear_for: Duration,
}

/// Somebody who is in the way of a gate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Obstacle {
    /// Cluster and node, or a replica.
    pub node: String,
    /// Of a proxy, if it is one.
    pub process: String,
    /// The secret that it has not taken.
    pub resource: String,
    /// Why it is in the way, by name.
    pub reason: &'static str,
    /// Since when.
    pub since: Option<SystemTime>,
    /// Some of the identities that it holds.
    pub workloads: Vec<String>,
    /// How many it holds.
    pub workload_count: u32,
    /// When the last certificate ends that it holds.
    pub last_certificate_ends: Option<SystemTime>,
    /// In the proxy's own words. Not to be trusted.
    pub detail: String,
    /// The other replica that tells of it, if one does.
    pub told_by: String,
    /// When the node's last Follow at that one began, by its agent's clock, in ms since 1970.
    pub began_ms: Option<i64>,
    /// How many it stands for that are not named; none, if it is one that is.
    pub unnamed: u64,
}

impl Obstacle {
    /// How many are in the way by it.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.unnamed.max(1)
    }

    /// What makes it the same at another look: when and what it holds may change.
    fn name(&self) -> [&str; 4] {
        [&self.node, &self.process, &self.resource, self.reason]
    }
}

/// Without the proxy's own words.
impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for part in self.name() {
            if !part.is_empty() {
                write!(f, "{separator}{part}")?;
                separator = " ";
            }
        }
        match self.unnamed {
            0 => Ok(()),
            more => write!(f, " ({more} more)"),
        }
    }
}

/// SHA-256 over the gate and who is in its way, whatever their order; nothing if nobody is.
/// What was shown for one gate never opens another.
#[must_use]
pub fn digest(rotation: &Rotation, obstacles: &[Obstacle]) -> Option<[u8; 32]> {
    if obstacles.is_empty() {
        return None;
    }
    let unnamed = |it: &Obstacle| (it.unnamed > 0).then(|| it.unnamed.to_string());
    let unnamed: Vec<_> = obstacles.iter().map(unnamed).collect();
    let mut names: Vec<Vec<&str>> = (obstacles.iter().zip(&unnamed))
        .map(|(it, more)| it.name().into_iter().chain(more.as_deref()).collect())
        .collect();
    names.sort_unstable();
    let sequence = rotation.sequence.map(|sequence| sequence.to_string());
    let gate = [
        &rotation.id,
        rotation.phase.as_str(),
        sequence.as_deref().unwrap_or(""),
    ];
    let mut hash = Sha256::new();
    for part in gate.iter().chain(names.iter().flatten()) {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    Some(hash.finish())
}
