//! How often what has happened in worlds: a danger that is never drawn proves nothing.

use std::collections::BTreeMap;
use std::fmt;

/// Counts, by what was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    /// What happens in worlds; every few hundred of them have all of it.
    pub const ALL: [&'static str; 31] = [
        "aborts",
        "agents ahead or behind",
        "agents gone for long",
        "agents killed",
        "agents of an older version",
        "answers late",
        "answers lost",
        "authorities killed",
        "authorities killed between two acts",
        "caches lost",
        "connections half open",
        "connections lost",
        "continues",
        "distrusts begun",
        "distrusts of the root that comes",
        "distrusts of the root that leaves",
        "forces",
        "machines booted",
        "messages repeated",
        "nodes denied",
        "phases of a newer version",
        "proxies ended",
        "proxies restarted hot",
        "proxies started",
        "refusals",
        "requests lost",
        "requests repeated",
        "rotations begun",
        "streams cut",
        "wishes refused",
        "writes failed",
    ];

    /// Once more.
    pub fn add(&mut self, what: &'static str) {
        self.join(what, 1);
    }

    /// So often more.
    pub fn join(&mut self, what: &'static str, times: u64) {
        debug_assert!(Self::ALL.contains(&what), "{what} is not named");
        *self.0.entry(what).or_default() += times;
    }

    /// All that another has counted.
    pub fn extend(&mut self, other: &Self) {
        for (what, times) in &other.0 {
            self.join(what, *times);
        }
    }

    /// What was never drawn.
    #[must_use]
    pub fn lacks(&self) -> Vec<&'static str> {
        let all = Self::ALL.into_iter();
        all.filter(|what| !self.0.contains_key(what)).collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (what, times) in &self.0 {
            write!(f, "{separator}{times} {what}")?;
            separator = ", ";
        }
        Ok(())
    }
}
