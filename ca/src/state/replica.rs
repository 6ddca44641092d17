//! Who this process is among the replicas of an authority, and what it has seen and promised.
//!
//! What a replica has seen it never goes below again, over restarts too: an older value that
//! somebody puts back meanwhile is noticed at the next start.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use arx_identity::crypto::random;
use arx_identity::{KeyId, Sequence};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::document::{self, Document};
use super::{
    Authorities, Decision, Denials, Loaded, Nodes, Phase, State, StateError, published, rotation,
    wire,
};
use crate::hex::Hex;
use crate::store::{Key, Segment};

/// This process among the replicas.
#[derive(Clone, Debug)]
pub struct Replica {
    state: State,
    name: Segment,
    starts: u64,
}

/// What is stored of a replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaDocument {
    /// How often it has started.
    pub starts: u64,
    /// When it last started, Unix time in milliseconds.
    pub started_ms: u64,
    /// The program that started, by name and version.
    pub software: String,
    /// Where other replicas reach it, host and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announced: Option<String>,
    /// What it has seen, and hands out nothing lower than.
    pub seen: Seen,
    /// How far its ledger is at least: one that is behind this was lost, or is an older copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<Checkpoint>,
    /// The last loss of its ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<LedgerLost>,
    /// Who it waits for at the gate of the rotation that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
    /// The nodes that have certificates of their own, by its ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted: Option<Counted>,
    /// What a newer version has added.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The nodes that have certificates of their own, by the ledger of a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// These.
    pub nodes: Nodes,
    /// When all of these certificates have ended.
    #[serde(with = "wire::millis", rename = "until_ms")]
    pub until: SystemTime,
}

/// What a replica knows of a gate: whoever it has issued to, and whoever follows it. Bounded,
/// however many they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Which gate.
    pub gate: Gate,
    /// The root that it signs under: from here on under no other.
    #[serde(with = "wire::key_id")]
    pub signs_under: KeyId,
    /// How many have done what the phase waits for.
    pub confirmed: u64,
    /// How many have not.
    pub open: u64,
    /// The first of these.
    pub named: Vec<Open>,
    /// Of the nodes that only this replica waits for because their agents are not connected here:
    /// the first.
    pub away: Vec<String>,
    /// When the last Follow here began of those of them that have left lately, by their agents' clocks:
    /// only what they have told others in a later one counts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub away_began_ms: BTreeMap<String, i64>,
    /// Of the nodes that others miss: those that are connected here, with nothing in the way.
    pub well: Vec<String>,
    /// When the Follow of each began, by its agent's clock.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub well_began_ms: Vec<i64>,
    /// What authorities below have confirmed here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub below: Vec<Below>,
    /// When it was said, by that replica's clock: another one than before shows that the replica
    /// still says so, and nothing else is concluded from it.
    #[serde(
        with = "wire::optional_millis",
        rename = "said_ms",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub said: Option<SystemTime>,
    /// What a newer version has added.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What an authority below has confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Below {
    /// What it is called among those who sign.
    pub name: String,
    /// The bundle.
    #[serde(with = "published::sequence")]
    pub sequence: Sequence,
}

/// A gate, as no other is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    /// The rotation.
    pub rotation: String,
    /// Its phase.
    #[serde(with = "rotation::phase")]
    pub phase: Phase,
    /// When that began.
    #[serde(with = "wire::millis", rename = "began_ms")]
    pub began: SystemTime,
    /// The bundle that has to be confirmed, if one has.
    #[serde(with = "published::optional_sequence", default)]
    pub sequence: Option<Sequence>,
}

/// Somebody whom a replica waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// Cluster and node.
    pub node: String,
    /// The process, if it is one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub process: String,
    /// The secret that it has not taken.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub resource: String,
    /// Why.
    pub reason: String,
    /// How many identities depend on it.
    pub workload_count: u32,
    /// When the node's last Follow here began, by its agent's clock, unless that is long ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began_ms: Option<i64>,
    /// When the last certificate ends that it holds.
    #[serde(
        with = "wire::optional_millis",
        rename = "ends_ms",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub ends: Option<SystemTime>,
}

/// The newest that a replica has worked with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Of the trust bundles.
    #[serde(with = "published::optional_sequence", default)]
    pub sequence: Option<Sequence>,
    /// Generation of the authorities.
    pub authorities: u64,
    /// Generation of the denials that are in force there.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub denials: u64,
    /// What a newer version has added.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A place in a replica's ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerMark {
    /// Number of the record.
    pub record: u64,
    /// The chain's hash at it.
    #[serde(with = "wire::sha256")]
    pub hash: [u8; 32],
}

/// How far a ledger was at some moment, and for how long what it knew of then counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The place.
    pub mark: LedgerMark,
    /// When everything has ended that was issued before.
    #[serde(with = "wire::millis", rename = "ends_ms")]
    pub ends: SystemTime,
    /// The longest life of what is issued from there on.
    #[serde(with = "wire::duration", rename = "longest_ms")]
    pub longest: Duration,
}

/// A replica has begun without the ledger that it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerLost {
    /// When that was found.
    #[serde(with = "wire::millis", rename = "at_ms")]
    pub at: SystemTime,
    /// When everything has ended that the lost one may have known of.
    #[serde(with = "wire::millis", rename = "until_ms")]
    pub until: SystemTime,
}

/// The name of the replica whose configuration gives it none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct DefaultName {
    name: String,
}

/// Whether a replica can be called this.
///
/// # Errors
/// What it takes, if not.
pub fn replica_name(name: &str) -> Result<(), StateError> {
    Segment::parse(name)
        .map(drop)
        .map_err(|_| StateError::ReplicaName(name.to_owned()))
}

impl State {
    /// This process's place among the replicas, noted as started. Without a configured name it
    /// has a random one, always the same.
    ///
    /// # Errors
    /// [`StateError`] if the name cannot be one, or the store does not take it.
    pub async fn replica(
        &self,
        configured: Option<&str>,
        now: SystemTime,
    ) -> Result<Replica, StateError> {
        let name = match configured {
            Some(name) => name.to_owned(),
            None => {
                let name = format!("ca-{}", Hex(&random::<4>()));
                self.create(&self.key(&DefaultName::KIND), &DefaultName { name })
                    .await?
                    .name
            }
        };
        let name = Segment::parse(&name).map_err(|_| StateError::ReplicaName(name))?;
        let since = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let mut replica = Replica {
            state: self.clone(),
            name,
            starts: 0,
        };
        let key = replica.key();
        let stored = self
            .update(&key, |found: Option<Loaded<ReplicaDocument>>| {
                let mut document = found.map(|found| found.value).unwrap_or_default();
                document.starts += 1;
                document.started_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
                self.software().clone_into(&mut document.software);
                Ok::<_, StateError>(Decision::Write(document.clone(), document))
            })
            .await?;
        self.expect(&self.key(&Authorities::KIND), stored.seen.authorities);
        self.expect(&self.key(&Denials::KIND), stored.seen.denials);
        replica.starts = stored.starts;
        Ok(replica)
    }
}

impl State {
    /// Stores what the replica of this name knows of a gate, and how far its ledger is.
    ///
    /// # Errors
    /// [`StateError`] if it could not be stored.
    pub(crate) async fn report(
        &self,
        replica: &str,
        report: Report,
        checkpoint: Checkpoint,
    ) -> Result<(), StateError> {
        self.told(replica, |document| {
            document.report = Some(report.clone());
            document.pass(checkpoint);
        })
        .await
    }

    /// Stores how far the ledger of the replica of this name is. A lower place than the one that
    /// is stored is passed over.
    ///
    /// # Errors
    /// [`StateError`] if it could not be stored.
    pub(crate) async fn checkpoint(
        &self,
        replica: &str,
        checkpoint: Checkpoint,
    ) -> Result<(), StateError> {
        self.told(replica, |document| document.pass(checkpoint))
            .await
    }

    /// Stores which nodes have certificates by the ledger of the replica of this name.
    ///
    /// # Errors
    /// [`StateError`] if it could not be stored.
    pub(crate) async fn counted(&self, replica: &str, counted: Counted) -> Result<(), StateError> {
        self.told(replica, |document| {
            document.counted = Some(counted.clone());
        })
        .await
    }

    async fn told(
        &self,
        replica: &str,
        tell: impl Fn(&mut ReplicaDocument),
    ) -> Result<(), StateError> {
        let name = Segment::parse(replica);
        let name = name.map_err(|_| StateError::ReplicaName(replica.to_owned()))?;
        let key = self.key(&ReplicaDocument::KIND).named(name);
        self.update(&key, |found: Option<Loaded<ReplicaDocument>>| {
            let stored = found.map(|found| found.value).unwrap_or_default();
            let mut document = stored.clone();
            tell(&mut document);
            Ok::<_, StateError>(match document == stored {
                true => Decision::Keep(()),
                false => Decision::Write(document, ()),
            })
        })
        .await
    }
}

impl ReplicaDocument {
    /// Takes a later checkpoint. What was issued with a longer life before still counts.
    fn pass(&mut self, next: Checkpoint) {
        let ends = match self.ledger {
            Some(noted) if noted.mark.record > next.mark.record => return,
            Some(noted) => noted.ends.max(next.ends),
            None => next.ends,
        };
        self.ledger = Some(Checkpoint { ends, ..next });
    }
}

impl Replica {
    /// Tells other replicas where they reach this one, if they do.
    ///
    /// # Errors
    /// [`StateError`] if it could not be stored.
    pub async fn announce(&self, address: Option<&str>) -> Result<(), StateError> {
        self.change(|document| document.announced = address.map(str::to_owned))
            .await
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    pub(crate) fn segment(&self) -> &Segment {
        &self.name
    }

    /// How often it has started, this time included.
    #[must_use]
    pub fn starts(&self) -> u64 {
        self.starts
    }

    /// What is stored of it.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be read.
    pub async fn document(&self) -> Result<ReplicaDocument, StateError> {
        let found = self.state.load(&self.key()).await?;
        Ok(found
            .map(|found: Loaded<ReplicaDocument>| found.value)
            .unwrap_or_default())
    }

    /// Promises to hand out no lower sequence from now on.
    ///
    /// # Errors
    /// [`StateError`] if the promise could not be stored.
    pub async fn saw_sequence(&self, sequence: Sequence) -> Result<(), StateError> {
        self.change(|document| {
            document.seen.sequence = document.seen.sequence.max(Some(sequence));
        })
        .await
    }

    /// Promises to work with no older authorities from now on.
    ///
    /// # Errors
    /// [`StateError`] if the promise could not be stored.
    pub async fn saw_authorities(&self, generation: u64) -> Result<(), StateError> {
        self.change(|document| {
            document.seen.authorities = document.seen.authorities.max(generation);
        })
        .await
    }

    /// Promises to issue by no older denials from now on.
    ///
    /// # Errors
    /// [`StateError`] if the promise could not be stored.
    pub async fn saw_denials(&self, generation: u64) -> Result<(), StateError> {
        self.change(|document| {
            document.seen.denials = document.seen.denials.max(generation);
        })
        .await
    }

    /// Notes that it begins with another ledger than the one that it had, which is at
    /// `checkpoint`.
    ///
    /// # Errors
    /// [`StateError`] if it could not be stored.
    pub(crate) async fn begin_ledger(
        &self,
        lost: LedgerLost,
        checkpoint: Checkpoint,
    ) -> Result<(), StateError> {
        self.change(|document| {
            let until = document.lost.map(|before| before.until);
            let until = until.into_iter().fold(lost.until, SystemTime::max);
            document.lost = Some(LedgerLost { until, ..lost });
            document.ledger = Some(checkpoint);
        })
        .await
    }

    async fn change(&self, change: impl Fn(&mut ReplicaDocument)) -> Result<(), StateError> {
        self.state
            .update(&self.key(), |found: Option<Loaded<ReplicaDocument>>| {
                let stored = found.map(|found| found.value).unwrap_or_default();
                let mut document = stored.clone();
                change(&mut document);
                Ok(if document == stored {
                    Decision::Keep(())
                } else {
                    Decision::Write(document, ())
                })
            })
            .await
    }

    fn key(&self) -> Key {
        self.state
            .key(&ReplicaDocument::KIND)
            .named(self.name.clone())
    }
}

impl Document for ReplicaDocument {
    const KIND: Segment = Segment::fixed("replica");

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        document::encode(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        document::decode(bytes)
    }
}

impl Document for DefaultName {
    const KIND: Segment = Segment::fixed("default-replica");

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        document::encode(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        document::decode(bytes)
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands out references"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}
