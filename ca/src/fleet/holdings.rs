//! The leaves that a node holds, as its agent's inventories tell it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arx_identity::{KeyId, Serial};
use arx_proto::node::v1 as wire;

use crate::refusal::{Fault, Refusal};

/// How long after its end a certificate may still be taken for valid by a slow clock.
const SKEW: Duration = Duration::from_secs(300);
/// Leaves that one node may hold: far more than pods fit on one.
const MOST_LEAVES: usize = 20_000;
/// Longest identity that is kept (SPIFFE ID, 2.3).
const LONGEST_IDENTITY: usize = 2048;

/// Whether what ends then has ended for everybody, slow clocks included.
pub(super) fn is_over(ends: SystemTime, now: SystemTime) -> bool {
    now.duration_since(ends).is_ok_and(|past| past > SKEW)
}

/// A leaf that the agent holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    pub(super) root: Option<KeyId>,
    /// Those that were sent it and have not taken a successor.
    pub(super) subscribers: u32,
    /// Handed to whoever asks.
    pub(super) current: bool,
    pub(super) identity: Arc<str>,
    /// When it ends, if the agent has said so.
    pub(super) ends: Option<SystemTime>,
}

impl Leaf {
    pub(super) fn lives(&self, now: SystemTime) -> bool {
        self.ends.is_none_or(|ends| !is_over(ends, now))
    }
}

/// All leaves of one node.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    cache_id: [u8; 16],
    leaves: HashMap<Serial, Leaf>,
    /// Leaves that consumers had when the cache that knew of them was lost. No inventory
    /// will name them again, and the consumers may still be there.
    orphans: BTreeMap<Serial, Leaf>,
    /// Whether there was a whole inventory in this Follow.
    complete: bool,
    inventory: Option<Whole>,
    arriving: Option<Arriving>,
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

impl Holdings {
    /// A Follow begins, with this cache; `same_boot` if the node was not started anew since
    /// the last one.
    pub(super) fn begin(&mut self, cache_id: [u8; 16], same_boot: bool) {
        if !same_boot {
            self.orphans.clear();
        }
        if self.is_lost(cache_id) {
            let lost = std::mem::take(&mut self.leaves);
            if same_boot {
                let used = lost.into_iter().filter(|(_, leaf)| leaf.subscribers > 0);
                self.orphans.extend(used.map(|(serial, leaf)| {
                    let leaf = Leaf {
                        current: false,
                        ..leaf
                    };
                    (serial, leaf)
                }));
            }
            // What was missing from the old cache says nothing about the new one.
            self.inventory = None;
        }
        self.cache_id = cache_id;
        self.arriving = None;
        self.complete = false;
    }

    /// Whether this one is handed to whoever asks.
    pub(super) fn serves(&self, serial: &Serial) -> bool {
        self.leaves.get(serial).is_some_and(|leaf| leaf.current)
    }

    /// Whether the cache that inventories were of is not this one.
    pub(super) fn is_lost(&self, cache_id: [u8; 16]) -> bool {
        self.cache_id != cache_id
    }

    /// Takes a part; answers whether the inventory is whole now.
    pub(super) fn take(&mut self, part: wire::Inventory, now: SystemTime) -> Result<bool, Refusal> {
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
                arriving.leaves.insert(serial, Leaf::from(leaf));
            }
        }
        if !part.complete {
            self.arriving = Some(arriving);
            return Ok(false);
        }
        let same_cache = cache_id == self.cache_id;
        self.cache_id = cache_id;
        self.leaves = arriving.leaves;
        self.orphans.retain(|_, leaf| leaf.lives(now));
        self.complete = true;
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
    /// first of the two: those on their way to the agent are not missing yet. Never those
    /// that `keeps` names.
    pub(super) fn missing_twice(
        &mut self,
        live: Vec<(Serial, SystemTime)>,
        keeps: impl Fn(&Serial) -> bool,
    ) -> Vec<Serial> {
        let Some(whole) = &mut self.inventory else {
            return Vec::new();
        };
        let mut gone = Vec::new();
        for (serial, issued) in live {
            let held = self.leaves.contains_key(&serial) || self.orphans.contains_key(&serial);
            if held || keeps(&serial) {
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

    /// Whether there was a whole inventory in this Follow.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether there were two in a row, of one cache.
    pub(super) fn is_shown_twice(&self) -> bool {
        let mut newest = self.inventory.iter();
        self.complete && newest.any(|whole| whole.before.is_some())
    }

    /// How many leaves the newest inventory names.
    pub(super) fn len(&self) -> usize {
        self.leaves.len()
    }

    /// Every leaf that is held or may still be used.
    pub(super) fn all(&self) -> impl Iterator<Item = &Leaf> {
        self.named().map(|(_, leaf)| leaf)
    }

    /// The same with their serial numbers.
    pub(super) fn named(&self) -> impl Iterator<Item = (&Serial, &Leaf)> {
        let lost = self.orphans.iter();
        let lost = lost.filter(|(serial, _)| !self.leaves.contains_key(*serial));
        self.leaves.iter().chain(lost)
    }

    /// Those of [`Self::all`] that have not ended.
    pub(super) fn live(&self, now: SystemTime) -> impl Iterator<Item = &Leaf> {
        self.all().filter(move |leaf| leaf.lives(now))
    }

    pub(super) fn get(&self, serial: &[u8]) -> Option<&Leaf> {
        let serial = Serial::from_bytes(serial)?;
        let held = self.leaves.get(&serial);
        held.or_else(|| self.orphans.get(&serial))
    }
}

impl From<wire::HeldLeaf> for Leaf {
    fn from(held: wire::HeldLeaf) -> Self {
        let identity = if held.spiffe_id.len() <= LONGEST_IDENTITY {
            held.spiffe_id.into()
        } else {
            "".into()
        };
        let ends = u64::try_from(held.not_after_unix_ms)
            .ok()
            .filter(|ms| *ms > 0);
        Self {
            root: KeyId::from_slice(&held.root_key_id),
            subscribers: held.subscribers,
            current: held.current,
            identity,
            ends: ends.and_then(|ms| UNIX_EPOCH.checked_add(Duration::from_millis(ms))),
        }
    }
}
