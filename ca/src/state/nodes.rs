//! Nodes, told by one replica to another in a document that does not grow with the fleet: by the
//! hashes of their names, at most so many. Those with the smallest hashes are kept, which are the
//! same ones wherever somebody counts, so what several tell is put together without counting any
//! node twice. Of more nodes than are kept, it is told how many there are within a few per cent.

use std::collections::BTreeSet;

use arx_identity::crypto::sha256;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Hashes that are kept.
pub(crate) const MOST: usize = 2048;

/// A set of nodes, or a sample of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes(BTreeSet<u64>);

/// The hash that stands for a node, whose cluster and name these are.
#[must_use]
pub fn hash_of(name: &str) -> u64 {
    let hash = sha256(name.as_bytes());
    u64::from_be_bytes(*hash.first_chunk().expect("a hash has 32 bytes"))
}

impl Nodes {
    /// Adds the node with this hash.
    pub fn add(&mut self, hash: u64) {
        self.0.insert(hash);
        if self.0.len() > MOST {
            self.0.pop_last();
        }
    }

    /// Adds what somebody else tells of.
    pub fn join(&mut self, other: &Self) {
        for hash in &other.0 {
            self.add(*hash);
        }
    }

    /// Whether the node with this hash is among them, or may be: whether it is can't be told of one
    /// that lies beyond a sample.
    pub(crate) fn may_have(&self, hash: u64) -> bool {
        let is_sample = self.0.len() == MOST;
        self.0.contains(&hash) || (is_sample && self.0.last().is_some_and(|last| *last < hash))
    }

    /// How many are kept.
    #[must_use]
    pub fn kept(&self) -> u64 {
        self.0.len() as u64
    }

    /// How many there are: exactly, as long as all are kept.
    #[must_use]
    pub fn count(&self) -> u64 {
        match self.0.last() {
            // So many lie below the last one, and as densely above.
            Some(last) if self.0.len() == MOST => {
                let whole = u128::from(u64::MAX) * (MOST as u128 - 1);
                u64::try_from(whole / u128::from((*last).max(1))).unwrap_or(u64::MAX)
            }
            _ => self.kept(),
        }
    }
}

impl FromIterator<u64> for Nodes {
    fn from_iter<I: IntoIterator<Item = u64>>(hashes: I) -> Self {
        let mut nodes = Self::default();
        for hash in hashes {
            nodes.add(hash);
        }
        nodes
    }
}

impl Serialize for Nodes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = self.0.iter().flat_map(|hash| hash.to_be_bytes()).collect();
        serializer.serialize_str(&STANDARD.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for Nodes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD
            .decode(text)
            .map_err(|_| D::Error::custom("not Base64"))?;
        let (hashes, rest) = bytes.as_chunks::<8>();
        if !rest.is_empty() {
            return Err(D::Error::custom("not hashes of 8 bytes"));
        }
        Ok(hashes
            .iter()
            .map(|hash| u64::from_be_bytes(*hash))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(numbers: std::ops::Range<u32>) -> Nodes {
        numbers
            .map(|number| hash_of(&format!("c1/n{number}")))
            .collect()
    }

    #[test]
    fn a_node_that_two_tell_of_is_counted_once() {
        let mut both = nodes(0..60);
        both.join(&nodes(40..100));
        assert_eq!(both.count(), 100);
    }

    #[test]
    fn of_more_than_are_kept_it_is_known_how_many_there_are_within_a_few_per_cent() {
        let mut both = nodes(0..60_000);
        both.join(&nodes(40_000..100_000));
        assert_eq!(both.kept(), MOST as u64);
        assert!(
            (90_000..110_000).contains(&both.count()),
            "{}",
            both.count()
        );
        assert_eq!(both, nodes(0..100_000));
    }

    #[test]
    fn a_node_is_known_to_be_missing_from_all_and_never_from_beyond_a_sample() {
        let few = nodes(0..100);
        assert!(few.may_have(hash_of("c1/n99")));
        assert!(!few.may_have(hash_of("c1/n100")));
        let sample = nodes(0..100_000);
        let missing = |range: std::ops::Range<u32>| {
            let hashes = range.map(|number| hash_of(&format!("c1/n{number}")));
            hashes.filter(|hash| !sample.may_have(*hash)).count()
        };
        assert_eq!(missing(0..100_000), 0);
        // Of others, the few that would be in the sample.
        assert!((100..400).contains(&missing(100_000..110_000)));
    }

    #[test]
    fn it_is_stored_in_less_than_24_kib_whatever_the_fleet() {
        let all = nodes(0..100_000);
        let stored = serde_json::to_string(&all).expect("it is text");
        assert!(stored.len() < 24 * 1024, "{}", stored.len());
        let read: Nodes = serde_json::from_str(&stored).expect("it reads");
        assert_eq!(read, all);
        assert!(serde_json::from_str::<Nodes>("\"AAAA\"").is_err());
    }
}
