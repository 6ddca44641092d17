//! What agents hold, against what a state knows that was put back. Beside them there are two other
//! witnesses: authorities below, and the ledger that lies beside the state. These can tell that
//! the state is too old; that it is not, more than half of the agents have to say.

use std::collections::{BTreeMap, HashMap};

use arx_identity::{KeyId, Sequence};
use arx_proto::node::v1 as wire;
use serde_json::Map;
use tokio::time::Instant;

use crate::caller::NodeName;
use crate::ledger;
use crate::state::{Ahead, Heard, NAMED, Nodes, Restored, hash_of};

/// Bundles that are told of; a fleet has one, or two while it changes.
const BUNDLES: usize = 8;
/// Roots that an agent may name: as many as a bundle may have, for one that is not looked at may be
/// the one that signs, or one that is not known here.
const MOST_ROOTS: usize = 100;
/// Agents that are remembered.
const MOST: usize = 100_000;
/// Epochs that may have gone by unknown: each was begun by an operator who had lost a state.
const EPOCHS: u64 = 1000;
/// Bundles that may have been published unknown: a rotation takes a few.
const BUNDLES_SINCE: u64 = 1 << 32;

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
    /// The highest that was ever published, as far as is known here.
    pub(crate) known: Sequence,
}

/// What was said to this process.
#[derive(Debug, Default)]
pub(crate) struct All {
    agents: HashMap<NodeName, Said>,
    /// By what authorities below are called.
    below: BTreeMap<String, Said>,
    /// What the ledger says to have been handed out last.
    ledger: Option<Said>,
    first: Option<Instant>,
    remembers: bool,
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

    /// What a ledger says that names `sequence` as its highest; without `record` there is nothing
    /// else known of that.
    pub(crate) fn of_ledger(sequence: Sequence, record: Option<ledger::Published>) -> Self {
        let record = record.unwrap_or_default();
        let roots = record.roots.iter().take(MOST_ROOTS);
        Self {
            sequence,
            sha256: <[u8; 32]>::try_from(&record.sha256[..]).unwrap_or_default(),
            roots: roots.filter_map(|id| KeyId::from_slice(id)).collect(),
        }
    }

    /// Whether whoever holds this is well served with what is ours: it will take that, and
    /// nothing that it trusts is lost by it.
    fn agrees(&self, ours: &Ours) -> bool {
        let knows_all = self.roots.contains(&ours.active) && self.has_only(ours);
        self.sequence < ours.sequence || self.sha256 == ours.sha256 || knows_all
    }

    /// The same of an authority below, which names the roots that it stands under, and whatever
    /// it has followed last.
    fn agrees_below(&self, ours: &Ours) -> bool {
        let knows_it = self.sequence <= ours.sequence || self.roots.contains(&ours.active);
        knows_it && self.has_only(ours)
    }

    fn has_only(&self, ours: &Ours) -> bool {
        self.roots.iter().all(|root| ours.roots.contains(root))
    }

    /// Whether a history leads from here to there. What an agent says is evidence, and by one
    /// that lies, or is broken, no epoch is begun that nobody could follow any more.
    fn is_believed(&self, ours: &Ours) -> bool {
        let Sequence { epoch, number } = self.sequence;
        epoch.saturating_sub(ours.known.epoch) <= EPOCHS
            && number.saturating_sub(ours.known.number) <= BUNDLES_SINCE
    }
}

/// Bundles that somebody holds, by sequence and content.
#[derive(Default)]
struct Groups(BTreeMap<(Sequence, [u8; 32]), Ahead>);

impl Groups {
    fn add(&mut self, name: String, said: &Said, ours: &Ours) {
        let key = (said.sequence, said.sha256);
        let group = self.0.entry(key).or_insert_with(|| said.ahead(ours));
        group.agents += 1;
        // Always the same ones.
        let at = group.nodes.partition_point(|other| *other < name);
        group.nodes.insert(at, name);
        group.nodes.truncate(NAMED);
        for root in said.missing(ours) {
            if !group.missing.contains(&root) && group.missing.len() < MOST_ROOTS {
                group.missing.push(root);
            }
        }
    }

    /// Those with the most agents first.
    fn told(self) -> Vec<Ahead> {
        let mut all: Vec<Ahead> = self.0.into_values().collect();
        all.sort_by_key(|it| std::cmp::Reverse(it.agents));
        all.truncate(BUNDLES);
        all
    }
}

impl Said {
    fn missing(&self, ours: &Ours) -> impl Iterator<Item = KeyId> {
        let roots = self.roots.iter().copied();
        roots.filter(|root| !ours.roots.contains(root))
    }

    fn ahead(&self, ours: &Ours) -> Ahead {
        Ahead {
            sequence: self.sequence,
            sha256: self.sha256,
            missing: self.missing(ours).collect(),
            agents: 0,
            nodes: Vec::new(),
            ledgers: Vec::new(),
        }
    }
}

impl All {
    pub(crate) fn note(&mut self, node: &NodeName, said: Said) {
        self.first.get_or_insert_with(Instant::now);
        if self.agents.len() < MOST || self.agents.contains_key(node) {
            self.agents.insert(node.clone(), said);
        }
    }

    /// What an authority below says; there are as many as the configuration names.
    pub(crate) fn note_below(&mut self, name: &str, said: Said) {
        self.below.insert(name.to_owned(), said);
    }

    pub(crate) fn note_ledger(&mut self, said: Said) {
        self.ledger = Some(said);
    }

    /// Once: who was ahead when this replica ran before, unless they have said something since.
    pub(crate) fn remember(&mut self, before: Option<&Heard>) {
        if std::mem::replace(&mut self.remembers, true) {
            return;
        }
        for ahead in before.iter().flat_map(|heard| &heard.ahead) {
            for name in &ahead.nodes {
                let said = Said {
                    sequence: ahead.sequence,
                    sha256: ahead.sha256,
                    roots: ahead.missing.clone(),
                };
                match name.split_once('/') {
                    Some((cluster, node)) => {
                        let (cluster, node) = (cluster.into(), node.into());
                        let name = NodeName { cluster, node };
                        self.agents.entry(name).or_insert(said);
                    }
                    None => {
                        self.below.entry(name.clone()).or_insert(said);
                    }
                }
            }
        }
    }

    /// Since when there is something to go by.
    pub(crate) fn first(&self) -> Option<Instant> {
        self.first
    }

    /// How they stand to what is ours, those left out who are `denied`: `replica` stores that of
    /// `restored`.
    pub(crate) fn tally(
        &self,
        ours: &Ours,
        restored: &Restored,
        replica: &str,
        denied: impl Fn(&NodeName) -> bool,
    ) -> Heard {
        let mut agree = Nodes::default();
        let mut highest = None;
        let (mut ahead, mut doubtful) = (Groups::default(), Groups::default());
        for (node, said) in self.agents.iter().filter(|(node, _)| !denied(node)) {
            let name = node.to_string();
            if !said.is_believed(ours) {
                doubtful.add(name, said, ours);
                continue;
            }
            highest = highest.max(Some(said.sequence));
            if !said.agrees(ours) {
                ahead.add(name, said, ours);
                continue;
            }
            let hash = hash_of(&name);
            if restored.counts(hash) {
                agree.add(hash);
            }
        }
        for (name, said) in &self.below {
            if !said.is_believed(ours) {
                doubtful.add(name.clone(), said, ours);
            } else if !said.agrees_below(ours) {
                highest = highest.max(Some(said.sequence));
                ahead.add(name.clone(), said, ours);
            }
        }
        let ledger = self.ledger.as_ref().filter(|said| !said.agrees(ours));
        Heard {
            agree,
            highest,
            ahead: ahead.told(),
            ledger: ledger.map(|said| Ahead {
                ledgers: vec![replica.to_owned()],
                ..said.ahead(ours)
            }),
            doubtful: doubtful.told(),
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
            known: at(1, 2),
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
        all.note(&node("x"), said(at(1, 4), 3, &[3]));
        // It has come again.
        all.note(&node("b"), said(at(1, 4), 3, &[3]));
        let restored = crate::restore::tests::put_back_with(10);
        let heard = all.tally(&ours(), &restored, "ca-1", |node| &*node.node == "x");
        assert_eq!(heard.agree.count(), 1);
        assert_eq!(heard.highest, Some(at(1, 4)));
        let told: Vec<_> = heard
            .ahead
            .iter()
            .map(|it| {
                (
                    it.sequence,
                    it.agents,
                    it.missing.clone(),
                    it.nodes.join(" "),
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                (at(1, 4), 3, vec![id(3)], "c1/b c1/d c1/e".to_owned()),
                (at(1, 3), 1, vec![id(3)], "c1/f".to_owned()),
            ]
        );
    }

    #[test]
    fn an_authority_below_tells_by_the_roots_that_it_stands_under() {
        let ours = ours();
        let agrees = |said: Said| said.agrees_below(&ours);
        assert!(agrees(said(at(1, 2), 0, &[1])), "it follows");
        assert!(agrees(said(at(1, 1), 0, &[2])), "it is behind");
        assert!(agrees(said(at(1, 4), 0, &[1])), "it was turned round");
        assert!(!agrees(said(at(1, 4), 0, &[2])), "it has left what signs");
        assert!(!agrees(said(at(1, 2), 0, &[1, 3])), "it is under another");
        let restored = crate::restore::tests::put_back_with(1);
        let mut all = All::default();
        all.note_below("nested:west", said(at(1, 2), 0, &[3]));
        all.note_below("nested:east", said(at(1, 2), 0, &[1]));
        let heard = all.tally(&ours, &restored, "ca-1", |_| false);
        assert_eq!((heard.agree.count(), heard.ahead.len()), (0, 1));
        assert_eq!(heard.ahead[0].nodes, ["nested:west"]);
    }

    #[test]
    fn a_leap_is_believed_as_far_as_operators_may_have_restored_meanwhile() {
        let ours = ours();
        let is_believed = |sequence| said(sequence, 12, &[1]).is_believed(&ours);
        assert!(is_believed(at(1 + EPOCHS, 1)) && !is_believed(at(2 + EPOCHS, 1)));
        assert!(is_believed(at(0, 0)) && !is_believed(at(1, u64::MAX)));
    }

    #[test]
    fn every_root_of_the_largest_bundle_is_looked_at() {
        let known: Vec<KeyId> = (0..100).map(id).collect();
        let ours = Ours {
            sequence: Sequence::default(),
            sha256: [1; 32],
            roots: known.clone(),
            active: id(99),
            known: Sequence::default(),
        };
        let says = |roots: &[KeyId]| {
            let position = wire::TrustPosition {
                kind: wire::TrustKind::X509Roots.into(),
                sequence: Some(wire::Sequence::default()),
                sha256: vec![2; 32].into(),
            };
            let roots = roots.iter().map(|id| id.as_bytes().to_vec().into());
            let hello = wire::Hello {
                trust: vec![position],
                root_key_ids: roots.collect(),
                ..wire::Hello::default()
            };
            Said::of(&hello).expect("it has roots")
        };
        assert!(says(&known).agrees(&ours), "the last one signs");
        let mut foreign = known;
        foreign[50] = id(99);
        foreign[99] = id(200);
        assert!(!says(&foreign).agrees(&ours), "the last one is not known");
    }
}
