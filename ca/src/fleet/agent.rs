//! What one agent has told of itself and of its node.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arx_identity::{KeyId, Sequence, Serial};
use arx_proto::node::v1 as wire;

use super::lineage::Lineage;
use super::session::Open;
use crate::caller::{Node, NodeName};
use crate::refusal::{Fault, Refusal};

/// Leaves that one node may hold: far more than pods fit on one.
const MOST_LEAVES: usize = 20_000;
/// Subscribers that one node may have.
const MOST_SUBSCRIBERS: usize = 50_000;
/// Longest text that is kept of what an agent says of itself.
const LONGEST_TEXT: usize = 128;

/// One agent.
#[derive(Debug)]
pub struct Agent {
    pub(super) name: NodeName,
    pub(super) lineage: Lineage,
    pub(super) session: Option<Open>,
    pub(super) node_not_after: Option<SystemTime>,
    /// When its Follow began, or when it was last heard of.
    since: Option<SystemTime>,
    software: Arc<str>,
    instance_id: [u8; 16],
    cache_id: [u8; 16],
    clock_offset_ms: i64,
    trust: Option<(Sequence, [u8; 32])>,
    leaves: HashMap<Serial, Leaf>,
    inventory: Option<Whole>,
    arriving: Option<Arriving>,
    subscribers: BTreeMap<Subscriber, wire::SubscriberState>,
}

/// A leaf that the agent holds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Leaf {
    root: Option<KeyId>,
    subscribers: u32,
}

/// The newest whole inventory.
#[derive(Debug)]
struct Whole {
    taken: SystemTime,
    /// What the ledger knew and this inventory did not show.
    missing: HashSet<Serial>,
    /// When the inventory before this one was taken, if it was of the same cache.
    before: Option<(SystemTime, HashSet<Serial>)>,
}

/// An inventory that comes in parts.
#[derive(Debug)]
struct Arriving {
    cache_id: [u8; 16],
    ordinal: u64,
    leaves: HashMap<Serial, Leaf>,
}

/// A subscriber's name: holder, resource.
type Subscriber = (Vec<u8>, String);

/// An agent in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Leaves in its newest inventory.
    pub leaves: u32,
    /// Subscribers.
    pub subscribers: u32,
    /// Those that confirmed the newest bundle.
    pub confirmed: u32,
    /// Those that refused something.
    pub nacks: u32,
}

impl Agent {
    pub(super) fn new(name: &NodeName) -> Self {
        Self {
            name: name.clone(),
            lineage: Lineage::default(),
            session: None,
            node_not_after: None,
            since: None,
            software: "".into(),
            instance_id: [0; 16],
            cache_id: [0; 16],
            clock_offset_ms: 0,
            trust: None,
            leaves: HashMap::new(),
            inventory: None,
            arriving: None,
            subscribers: BTreeMap::new(),
        }
    }

    /// Takes what a Follow begins with.
    pub(super) fn greet(
        &mut self,
        node: &Node,
        hello: &wire::Hello,
        now: SystemTime,
    ) -> Result<(), Refusal> {
        let id = |bytes: &[u8], what: &str| {
            <[u8; 16]>::try_from(bytes).map_err(|_| {
                Refusal::new(
                    "ARX-REQUEST-MALFORMED",
                    Fault::Request,
                    format!("the Hello's {what} must have 16 bytes"),
                )
            })
        };
        self.instance_id = id(&hello.instance_id, "instance_id")?;
        let cache_id = id(&hello.cache_id, "cache_id")?;
        if cache_id != self.cache_id {
            // Whatever the old cache held is gone, and so is what was missing from it.
            self.inventory = None;
        }
        self.cache_id = cache_id;
        self.arriving = None;
        self.node_not_after = Some(node.not_after);
        self.since = Some(now);
        self.software = hello
            .software
            .chars()
            .take(LONGEST_TEXT)
            .collect::<String>()
            .into();
        let ours = i64::try_from(
            now.duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_millis(),
        )
        .unwrap_or(i64::MAX);
        self.clock_offset_ms = hello.clock_unix_ms.saturating_sub(ours);
        for position in &hello.trust {
            self.take_position(position.clone());
        }
        Ok(())
    }

    pub(super) fn take_position(&mut self, position: wire::TrustPosition) {
        let kind = wire::TrustKind::try_from(position.kind);
        if let (Ok(wire::TrustKind::X509Roots), Some(sequence), Ok(hash)) = (
            kind,
            position.sequence,
            <[u8; 32]>::try_from(&position.sha256[..]),
        ) {
            self.trust = Some((
                Sequence {
                    epoch: sequence.epoch,
                    number: sequence.number,
                },
                hash,
            ));
        }
    }

    /// Takes a part; answers whether the inventory is whole now.
    pub(super) fn take_inventory(
        &mut self,
        part: wire::Inventory,
        now: SystemTime,
    ) -> Result<bool, Refusal> {
        let Ok(cache_id) = <[u8; 16]>::try_from(&part.cache_id[..]) else {
            return Err(Refusal::new(
                "ARX-REQUEST-MALFORMED",
                Fault::Request,
                "an inventory's cache_id must have 16 bytes",
            ));
        };
        let started = self.arriving.take();
        let mut arriving = started
            .filter(|arriving| arriving.ordinal == part.ordinal && arriving.cache_id == cache_id)
            .unwrap_or_else(|| Arriving {
                cache_id,
                ordinal: part.ordinal,
                leaves: HashMap::new(),
            });
        if arriving.leaves.len() + part.leaves.len() > MOST_LEAVES {
            return Err(Refusal::new(
                "ARX-REPORT-TOO-LARGE",
                Fault::Request,
                format!("an inventory may hold {MOST_LEAVES} leaves at most"),
            ));
        }
        for leaf in part.leaves {
            if let Some(serial) = Serial::from_bytes(&leaf.serial) {
                arriving.leaves.insert(
                    serial,
                    Leaf {
                        root: KeyId::from_slice(&leaf.root_key_id),
                        subscribers: leaf.subscribers,
                    },
                );
            }
        }
        if !part.complete {
            self.arriving = Some(arriving);
            return Ok(false);
        }
        let same_cache = cache_id == self.cache_id;
        self.cache_id = cache_id;
        self.leaves = arriving.leaves;
        let before = self
            .inventory
            .take()
            .filter(|_| same_cache)
            .map(|whole| (whole.taken, whole.missing));
        self.inventory = Some(Whole {
            taken: now,
            missing: HashSet::new(),
            before,
        });
        Ok(true)
    }

    /// Which of `live` were missing from the last two inventories, and issued before the
    /// first of the two: those on their way to the agent are not missing yet.
    pub(super) fn missing_twice(&mut self, live: Vec<(Serial, SystemTime)>) -> Vec<Serial> {
        let Some(whole) = &mut self.inventory else {
            return Vec::new();
        };
        let mut gone = Vec::new();
        for (serial, issued) in live {
            if self.leaves.contains_key(&serial) {
                continue;
            }
            match &whole.before {
                Some((taken, missing)) if missing.contains(&serial) && issued < *taken => {
                    gone.push(serial)
                }
                _ => {
                    whole.missing.insert(serial);
                }
            }
        }
        gone
    }

    pub(super) fn take_report(&mut self, report: wire::SubscriberReport) -> Result<(), Refusal> {
        if report.complete {
            self.subscribers.clear();
        }
        for state in report.states {
            let Some(subscriber) = &state.subscriber else {
                continue;
            };
            let name = (holder(subscriber), subscriber.resource_name.clone());
            if state.presence == wire::Presence::Ended as i32 {
                self.subscribers.remove(&name);
                continue;
            }
            if self.subscribers.len() >= MOST_SUBSCRIBERS && !self.subscribers.contains_key(&name) {
                return Err(Refusal::new(
                    "ARX-REPORT-TOO-LARGE",
                    Fault::Request,
                    format!("a node may have {MOST_SUBSCRIBERS} subscribers at most"),
                ));
            }
            self.subscribers.insert(name, state);
        }
        Ok(())
    }

    /// The node.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        &self.name
    }

    /// Whether its Follow stream is open.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.session.is_some()
    }

    /// When its last Follow began.
    #[must_use]
    pub fn since(&self) -> Option<SystemTime> {
        self.since
    }

    /// What it calls itself.
    #[must_use]
    pub fn software(&self) -> &str {
        &self.software
    }

    /// Id of its process.
    #[must_use]
    pub fn instance_id(&self) -> &[u8; 16] {
        &self.instance_id
    }

    /// How far its clock was ahead of ours when its Follow began, in milliseconds.
    #[must_use]
    pub fn clock_offset_ms(&self) -> i64 {
        self.clock_offset_ms
    }

    /// The newest bundle that it holds durably.
    #[must_use]
    pub fn trust(&self) -> Option<Sequence> {
        self.trust.map(|(sequence, _)| sequence)
    }

    /// End of the node's own certificate.
    #[must_use]
    pub fn node_not_after(&self) -> Option<SystemTime> {
        self.node_not_after
    }

    /// Leaves under `root` that it holds or that a subscriber still uses.
    #[must_use]
    pub fn leaves_under(&self, root: &KeyId) -> usize {
        self.leaves
            .values()
            .filter(|leaf| leaf.root.as_ref() == Some(root))
            .count()
    }

    /// Itself in numbers; `newest` is the bundle that a subscriber should have confirmed.
    #[must_use]
    pub fn counts(&self, newest: Sequence) -> Counts {
        let mut counts = Counts {
            leaves: count(self.leaves.len()),
            subscribers: count(self.subscribers.len()),
            ..Counts::default()
        };
        for state in self.subscribers.values() {
            let acked = state
                .acked_trust
                .as_ref()
                .and_then(|position| position.sequence.as_ref());
            if state.nack.is_some() {
                counts.nacks += 1;
            } else if acked
                .is_some_and(|acked| (acked.epoch, acked.number) == (newest.epoch, newest.number))
            {
                counts.confirmed += 1;
            } else if !state.acked_serial.is_empty() && state.sent_serial.is_empty() {
                // A certificate's subscriber confirms certificates, not bundles.
                counts.confirmed += 1;
            }
        }
        counts
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn holder(subscriber: &wire::Subscriber) -> Vec<u8> {
    match &subscriber.holder {
        Some(wire::subscriber::Holder::Process(process)) => {
            let mut name = process.boot_id.as_bytes().to_vec();
            name.push(0);
            name.extend_from_slice(&process.start_time.to_be_bytes());
            name.extend_from_slice(&process.pid.to_be_bytes());
            name
        }
        Some(wire::subscriber::Holder::PodUid(uid)) => uid.as_bytes().to_vec(),
        None => Vec::new(),
    }
}
