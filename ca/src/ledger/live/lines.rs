//! The certificates of nodes themselves, also those that were released: whether a node's
//! certificate may still be used goes by the line that it belongs to, and the latest one has to be
//! known for as long as any of it is valid.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use arx_identity::Serial;

use super::{Leaf, Live, NodeKey, Place, SerialKey};
use crate::ledger::codec;
use crate::ledger::record::{from_millis, to_millis};

/// Ids of nodes begin with this after the trust domain.
const NODES: &str = "/arx/node/";

/// The certificates of a node itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeLine {
    /// Its cluster.
    pub cluster: Arc<str>,
    /// Its name.
    pub node: Arc<str>,
    /// Serial number and end, oldest first.
    pub certificates: Vec<(Serial, SystemTime)>,
}

/// Those that were released, by end.
#[derive(Default)]
pub(super) struct Released(BTreeMap<(u64, SerialKey), Link>);

/// One certificate of a line.
struct Link {
    node: NodeKey,
    place: Place,
}

/// Where the record is, serial number and end.
type Certificates<'a> = Vec<(Place, &'a SerialKey, u64)>;

impl Released {
    pub(super) fn add(&mut self, serial: SerialKey, leaf: &Leaf) {
        if is_node(&leaf.identity) {
            let link = Link {
                node: leaf.node.clone(),
                place: leaf.place,
            };
            self.0.insert((leaf.not_after_ms, serial), link);
        }
    }

    /// Of a record that is read after its release.
    pub(super) fn add_issued(&mut self, serial: SerialKey, issued: &codec::Leaf<'_>, place: Place) {
        if is_node(issued.spiffe_id) {
            let link = Link {
                node: (issued.cluster.into(), issued.node.into()),
                place,
            };
            self.0.insert((issued.not_after_ms, serial), link);
        }
    }

    pub(super) fn forget(&mut self, before_ms: u64) {
        self.0 = self.0.split_off(&(before_ms, SerialKey::default()));
    }
}

impl Live {
    /// The valid certificates of nodes themselves, released or not.
    #[must_use]
    pub fn nodes(&self, now: SystemTime) -> Vec<NodeLine> {
        let state = self.lock();
        let now = to_millis(now);
        let mut lines: BTreeMap<&NodeKey, Certificates<'_>> = BTreeMap::new();
        for (node, serials) in &state.nodes {
            for serial in serials {
                let leaf = state.leaves.get(serial);
                if let Some(leaf) = leaf.filter(|leaf| is_node(&leaf.identity)) {
                    let certificate = (leaf.place, serial, leaf.not_after_ms);
                    lines.entry(node).or_default().push(certificate);
                }
            }
        }
        for ((end, serial), link) in &state.lines.0 {
            let certificate = (link.place, serial, *end);
            lines.entry(&link.node).or_default().push(certificate);
        }
        let line = |((cluster, node), mut certificates): (&NodeKey, Certificates<'_>)| {
            certificates.retain(|(_, _, end)| *end >= now);
            certificates.sort_by_key(|(place, ..)| (place.segment, place.offset));
            let certificates = certificates.into_iter().filter_map(|(_, serial, end)| {
                let serial = Serial::from_bytes(serial.as_bytes())?;
                Some((serial, from_millis(end)))
            });
            NodeLine {
                cluster: Arc::clone(cluster),
                node: Arc::clone(node),
                certificates: certificates.collect(),
            }
        };
        let lines = lines.into_iter().map(line);
        lines.filter(|line| !line.certificates.is_empty()).collect()
    }
}

fn is_node(identity: &str) -> bool {
    identity
        .strip_prefix("spiffe://")
        .and_then(|rest| rest.find('/').map(|at| &rest[at..]))
        .is_some_and(|path| path.starts_with(NODES))
}
