//! What agents hold, against what a state knows that was put back.

use std::collections::{BTreeMap, HashMap};

use arx_identity::{KeyId, Sequence};
use arx_proto::node::v1 as wire;
use serde_json::Map;
use tokio::time::Instant;

use crate::caller::NodeName;
use crate::state::{Ahead, Heard};

/// Bundles that are told of; a fleet has one, or two while it changes.
const BUNDLES: usize = 8;
/// Roots that an agent may name: a bundle has two while it changes.
const MOST_ROOTS: usize = 16;
/// Agents that are remembered.
const MOST: usize = 100_000;

/// What an agent says that it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) sequence: Sequence,
    pub(crate) sha256: [u8; 32],
    /// Its roots, by subject key identifier. None of an agent that is too old to say so.
    pub(crate) roots: Vec<KeyId>,
}

/// What is published here.
#[derive(Clone, Debug)]
pub(crate) struct Ours {
    pub(crate) sequence: Sequence,
    pub(crate) sha256: [u8; 32],
    pub(crate) roots: Vec<KeyId>,
    /// The root that signs.
    pub(crate) active: KeyId,
}

/// What all agents have said that came to this process.
#[derive(Debug, Default)]
pub(crate) struct All {
    by_node: HashMap<NodeName, Said>,
    first: Option<Instant>,
}

impl Said {
    /// What is in a Hello; `None` of an agent that has no roots yet.
    pub(crate) fn of(hello: &wire::Hello) -> Option<Self> {
        let mut trust = hello.trust.iter();
        let position = trust.find(|it| it.kind == wire::TrustKind::X509Roots as i32)?;
        let sequence = position.sequence.as_ref()?;
        Some(Self {
            sequence: Sequence {
                epoch: sequence.epoch,
                number: sequence.number,
            },
            sha256: <[u8; 32]>::try_from(&position.sha256[..]).ok()?,
            roots: hello
                .root_key_ids
                .iter()
                .take(MOST_ROOTS)
                .filter_map(|id| KeyId::from_slice(id))
                .collect(),
        })
    }

    /// Whether whoever holds this is well served with what is ours: it will take that, and
    /// nothing that it trusts is lost by it.
    fn agrees(&self, ours: &Ours) -> bool {
        let knows_all = || {
            self.roots.contains(&ours.active)
                && self.roots.iter().all(|root| ours.roots.contains(root))
        };
        self.sequence < ours.sequence || self.sha256 == ours.sha256 || knows_all()
    }
}

impl All {
    pub(crate) fn note(&mut self, node: &NodeName, said: Said) {
        self.first.get_or_insert_with(Instant::now);
        if self.by_node.len() < MOST || self.by_node.contains_key(node) {
            self.by_node.insert(node.clone(), said);
        }
    }

    /// Since when there is something to go by.
    pub(crate) fn first(&self) -> Option<Instant> {
        self.first
    }

    /// How they stand to what is ours.
    pub(crate) fn tally(&self, ours: &Ours) -> Heard {
        let mut agree = 0;
        let mut ahead: BTreeMap<(Sequence, [u8; 32]), Ahead> = BTreeMap::new();
        for (node, said) in &self.by_node {
            if said.agrees(ours) {
                agree += 1;
                continue;
            }
            let group = ahead
                .entry((said.sequence, said.sha256))
                .or_insert_with(|| Ahead {
                    sequence: said.sequence,
                    sha256: said.sha256,
                    missing: Vec::new(),
                    agents: 0,
                    node: node.to_string(),
                });
            group.agents += 1;
            // Of any, always the same one.
            group.node = std::mem::take(&mut group.node).min(node.to_string());
            for root in &said.roots {
                let is_new = !ours.roots.contains(root) && !group.missing.contains(root);
                if is_new && group.missing.len() < MOST_ROOTS {
                    group.missing.push(*root);
                }
            }
        }
        let mut ahead: Vec<Ahead> = ahead.into_values().collect();
        ahead.sort_by_key(|it| std::cmp::Reverse(it.agents));
        ahead.truncate(BUNDLES);
        Heard {
            agree,
            highest: self.by_node.values().map(|said| said.sequence).max(),
            ahead,
            extra: Map::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> KeyId {
        KeyId::from_slice(&[byte; 20]).expect("20 bytes")
    }

    fn at(epoch: u64, number: u64) -> Sequence {
        Sequence { epoch, number }
    }

    fn said(sequence: Sequence, content: u8, roots: &[u8]) -> Said {
        Said {
            sequence,
            sha256: [content; 32],
            roots: roots.iter().map(|byte| id(*byte)).collect(),
        }
    }

    /// Roots 1 and 2, of which 1 signs, at 1.2.
    fn ours() -> Ours {
        Ours {
            sequence: at(1, 2),
            sha256: [12; 32],
            roots: vec![id(1), id(2)],
            active: id(1),
        }
    }

    #[test]
    fn whoever_loses_nothing_by_what_is_published_here_agrees() {
        let ours = ours();
        let agrees = |said: Said| said.agrees(&ours);
        assert!(agrees(said(at(1, 1), 1, &[1])), "it is behind");
        assert!(agrees(said(at(1, 2), 12, &[])), "it has the same");
        assert!(agrees(said(at(1, 4), 12, &[])), "the same came again");
        assert!(
            agrees(said(at(1, 3), 1, &[1])),
            "a rotation was turned round"
        );
        assert!(
            !agrees(said(at(1, 3), 2, &[2])),
            "the root that signs is gone"
        );
        assert!(
            !agrees(said(at(1, 3), 13, &[1, 3])),
            "there is another root"
        );
        assert!(
            !agrees(said(at(1, 2), 13, &[])),
            "history was written twice"
        );
        assert!(
            !agrees(said(at(2, 1), 9, &[])),
            "nothing is known of its roots"
        );
    }

    #[test]
    fn those_who_hold_the_same_are_told_of_as_one_with_what_is_missing_here() {
        let mut all = All::default();
        let node = |name: &str| NodeName {
            cluster: "c1".into(),
            node: name.into(),
        };
        all.note(&node("a"), said(at(1, 2), 12, &[1, 2]));
        all.note(&node("b"), said(at(1, 2), 12, &[1, 2]));
        for name in ["e", "d"] {
            all.note(&node(name), said(at(1, 4), 3, &[3]));
        }
        all.note(&node("f"), said(at(1, 3), 2, &[2, 3]));
        // It has come again.
        all.note(&node("b"), said(at(1, 4), 3, &[3]));
        let heard = all.tally(&ours());
        assert_eq!(heard.agree, 1);
        assert_eq!(heard.highest, Some(at(1, 4)));
        let told: Vec<_> = heard
            .ahead
            .iter()
            .map(|it| (it.sequence, it.agents, it.missing.clone(), &*it.node))
            .collect();
        assert_eq!(
            told,
            [
                (at(1, 4), 3, vec![id(3)], "c1/b"),
                (at(1, 3), 1, vec![id(3)], "c1/f"),
            ]
        );
    }
}
