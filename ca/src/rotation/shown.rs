//! The lists of who is in the way of a gate that an operator may have been shown: nobody is left
//! behind by force who was on none.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use arx_identity::Sequence;

use super::driver::View;
use super::facts::Obstacle;
use crate::state::{Phase, Rotation};

/// Lists that are remembered.
const LISTS: usize = 64;

/// What was shown last.
#[derive(Debug, Default)]
pub(super) struct Shown(Mutex<VecDeque<List>>);

#[derive(Debug)]
struct List {
    digest: [u8; 32],
    gate: (String, Phase, Option<Sequence>),
    names: BTreeSet<String>,
    /// How many more there were by the word of each other replica, which names the first alone.
    unnamed: BTreeMap<String, u64>,
}

impl Shown {
    /// Remembers what is shown from now on.
    pub(super) fn note(&self, view: &View) {
        let Some(digest) = view.digest() else { return };
        let mut lists = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lists.back().is_some_and(|last| last.digest == digest) {
            return;
        }
        lists.push_back(List::new(digest, view));
        if lists.len() > LISTS {
            lists.pop_front();
        }
    }

    /// Whether whoever was shown this digest has seen everybody who is in the way of this very
    /// gate.
    pub(super) fn has_all(
        &self,
        digest: &[u8],
        rotation: &Rotation,
        obstacles: &[Obstacle],
    ) -> bool {
        let lists = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let list = lists.iter().rev().find(|list| list.digest[..] == *digest);
        list.is_some_and(|list| list.gate == gate(rotation) && list.covers(obstacles))
    }
}

fn gate(rotation: &Rotation) -> (String, Phase, Option<Sequence>) {
    (rotation.id.clone(), rotation.phase, rotation.sequence)
}

impl List {
    fn new(digest: [u8; 32], view: &View) -> Self {
        let all = view.obstacles.iter();
        let (unnamed, named): (Vec<_>, Vec<_>) = all.partition(|it| it.unnamed > 0);
        let unnamed = unnamed.into_iter();
        Self {
            digest,
            gate: gate(&view.rotation),
            names: named.iter().map(ToString::to_string).collect(),
            unnamed: unnamed.map(|it| (it.told_by.clone(), it.unnamed)).collect(),
        }
    }

    /// Whether each who is in the way now was on it: by name, or as one of those that another
    /// replica only counted.
    fn covers(&self, obstacles: &[Obstacle]) -> bool {
        let mut unnamed = self.unnamed.clone();
        obstacles.iter().all(|it| {
            if it.unnamed == 0 && self.names.contains(&it.to_string()) {
                return true;
            }
            let left = unnamed.get_mut(&it.told_by);
            let rest = left.and_then(|left| {
                *left = left.checked_sub(it.count())?;
                Some(*left)
            });
            rest.is_some()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use arx_identity::KeyId;

    use super::*;
    use crate::rotation::begin;
    use crate::state::{Rotations, Terms};

    /// A node of those that a replica counts alone.
    fn told(node: &str, unnamed: u64) -> Obstacle {
        Obstacle {
            node: node.to_owned(),
            reason: if unnamed > 0 {
                "replica-waits"
            } else {
                "not-acked"
            },
            told_by: "ca-2".to_owned(),
            unnamed,
            ..Obstacle::default()
        }
    }

    #[test]
    fn whom_another_replica_only_counts_may_become_fewer_and_named_but_not_more() {
        let lists = Shown::default();
        let mut begun = Rotations::default();
        let terms = Terms {
            window: Duration::ZERO,
            dwell: Duration::ZERO,
            patience: None,
        };
        let root = KeyId::from_slice(&[1; 20]).expect("20 bytes");
        let at = SystemTime::UNIX_EPOCH;
        let rotation =
            begin(&mut begun, root, terms, String::new(), at).expect("none is under way");
        let shows = |obstacles: Vec<Obstacle>| {
            let view = View {
                rotation: rotation.clone(),
                confirmed: 0,
                obstacles,
                denied: Vec::new(),
                trouble: None,
            };
            lists.note(&view);
            view.digest().expect("somebody is in the way")
        };
        let shown = shows(vec![told("c1/n1", 0), told("ca-2", 3)]);
        let covers = |obstacles: &[Obstacle]| lists.has_all(&shown, &rotation, obstacles);
        assert!(covers(&[told("c1/n1", 0), told("ca-2", 3)]));
        assert!(covers(&[told("ca-2", 2)]));
        // One of the three has a name now.
        assert!(covers(&[told("c1/n2", 0), told("ca-2", 2)]));
        assert!(!covers(&[told("c1/n2", 0), told("ca-2", 3)]));
        assert!(!covers(&[told("c1/n1", 0), told("ca-2", 4)]));
        let elsewhere = Obstacle {
            told_by: "ca-3".to_owned(),
            ..told("c1/n2", 0)
        };
        assert!(!covers(&[elsewhere]));
        // More of them are another list.
        assert_ne!(shows(vec![told("c1/n1", 0), told("ca-2", 4)]), shown);
    }
}
