//! Who holds certificates that are valid, by node: a rotation has to wait for every one of
//! them, whether anybody there is heard of or not.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arx_identity::{KeyId, Serial};

use super::{Leaf, Live, NodeKey, SerialKey, State};
use crate::ledger::record::{from_millis, to_millis};

/// How long after its end a certificate may still be taken for valid by a slow clock.
const SKEW: Duration = Duration::from_secs(300);
/// Identities that are named of one holder.
const NAMED: usize = 20;
/// Nodes that are looked at before others may use the index.
const AT_A_TIME: usize = 256;

/// A node with certificates that are valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its cluster; empty for the authority's own certificates.
    pub cluster: Arc<str>,
    /// Its name; that of the replica for the authority's own certificates.
    pub node: Arc<str>,
    /// The first of the identities that its certificates name, sorted; at most 20.
    pub identities: Vec<Arc<str>>,
    /// How many identities they name.
    pub count: u32,
    /// End of the certificate that ends last.
    pub ends: SystemTime,
}

#[derive(Default)]
struct Found {
    identities: BTreeSet<Arc<str>>,
    ends_ms: u64,
}

impl Live {
    /// Everybody with certificates that count as valid, those that ended less than five
    /// minutes ago among them; with `under`, only those under that root. In the order of
    /// cluster and name.
    ///
    /// Commits go on meanwhile: what is recorded after the call began may be missing.
    #[must_use]
    pub fn holders(&self, now: SystemTime, under: Option<&KeyId>) -> Vec<Holder> {
        let since_ms = to_millis(counts_until(now));
        let mut found = BTreeMap::new();
        let mut from = Bound::Unbounded;
        loop {
            let state = self.lock();
            let root = match under.map(|root| state.root(root)) {
                Some(None) => break,
                Some(place) => place,
                None => None,
            };
            let nodes = state.nodes.range::<NodeKey, _>((from, Bound::Unbounded));
            let mut last = None;
            for (node, serials) in nodes.take(AT_A_TIME) {
                for serial in serials {
                    if let Some(leaf) = state.leaves.get(serial)
                        && leaf.not_after_ms >= since_ms
                        && root.is_none_or(|root| leaf.above.root == root)
                    {
                        state.found(node, serial, leaf, &mut found);
                    }
                }
                last = Some(node.clone());
            }
            match last {
                Some(node) => from = Bound::Excluded(node),
                None => break,
            }
        }
        let holders = found.into_iter().map(|((cluster, node), found)| Holder {
            cluster,
            node,
            count: u32::try_from(found.identities.len()).unwrap_or(u32::MAX),
            identities: found.identities.into_iter().take(NAMED).collect(),
            ends: from_millis(found.ends_ms),
        });
        holders.collect()
    }

    /// Every identity that this node's valid certificates name, its own among them, sorted;
    /// with `under`, only of those under that root.
    #[must_use]
    pub fn identities_on(
        &self,
        cluster: &str,
        node: &str,
        under: Option<&KeyId>,
        now: SystemTime,
    ) -> Vec<Arc<str>> {
        let since_ms = to_millis(now);
        let state = self.lock();
        let root = match under.map(|root| state.root(root)) {
            Some(None) => return Vec::new(),
            Some(place) => place,
            None => None,
        };
        let serials = state.nodes.get(&(cluster.into(), node.into()));
        let leaves = serials.into_iter().flatten();
        let leaves = leaves.filter_map(|serial| state.leaves.get(serial));
        let valid = leaves.filter(|leaf| {
            leaf.not_after_ms >= since_ms && root.is_none_or(|root| leaf.above.root == root)
        });
        let named: BTreeSet<_> = valid.map(|leaf| Arc::clone(&leaf.identity)).collect();
        named.into_iter().collect()
    }

    /// Serial number and time of issue of all that make this node a holder: what ended a
    /// moment ago holds up a rotation, so it has to be possible to release it.
    #[must_use]
    pub fn held_on(&self, cluster: &str, node: &str, now: SystemTime) -> Vec<(Serial, SystemTime)> {
        self.on_node(cluster, node, counts_until(now))
    }
}

/// What ended before this is over for everybody.
fn counts_until(now: SystemTime) -> SystemTime {
    now.checked_sub(SKEW).unwrap_or(SystemTime::UNIX_EPOCH)
}

impl State {
    /// The place of a root that has certificates.
    fn root(&self, root: &KeyId) -> Option<u32> {
        let mut ids = self.authorities.iter();
        let place = ids.position(|id| id == root.as_bytes())?;
        let place = u32::try_from(place).ok()?;
        let any = self.under_root.get(&place).is_some_and(|count| *count > 0);
        any.then_some(place)
    }

    fn found(
        &self,
        node: &NodeKey,
        serial: &SerialKey,
        leaf: &Leaf,
        found: &mut BTreeMap<NodeKey, Found>,
    ) {
        let holder = match self.own.get(serial) {
            Some(replica) => (Arc::clone(&node.0), Arc::clone(replica)),
            None => node.clone(),
        };
        let found = found.entry(holder).or_default();
        found.identities.insert(Arc::clone(&leaf.identity));
        found.ends_ms = found.ends_ms.max(leaf.not_after_ms);
    }
}
