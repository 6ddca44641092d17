//! How much of the authority one node may take at a time, so that a node that has gone
//! wild, or was taken over, turns away nobody but itself.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::caller::NodeName;
use crate::refusal::{Fault, Refusal};

/// Items of one node that may be under way: four times as many as pods usually fit on one.
pub const MOST: usize = 1000;

/// What is under way, by node. Clones are the same.
#[derive(Clone)]
pub struct Shares(Arc<Inner>);

struct Inner {
    most: usize,
    unit: &'static str,
    taken: Mutex<HashMap<NodeName, usize>>,
}

/// A part of a node's share.
#[derive(Debug)]
pub struct Share {
    shares: Shares,
    name: NodeName,
    taken: usize,
}

/// Of items, [`MOST`] for each node.
impl Default for Shares {
    fn default() -> Self {
        Self::new(MOST, "items")
    }
}

impl Shares {
    fn new(most: usize, unit: &'static str) -> Self {
        Self(Arc::new(Inner {
            most,
            unit,
            taken: Mutex::default(),
        }))
    }

    /// Of bytes, so many for each node.
    #[must_use]
    pub fn of_bytes(most: usize) -> Self {
        Self::new(most, "bytes")
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeName, usize>> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a part.
    ///
    /// # Errors
    /// `ARX-NODE-BUSY` if too much of this node's is under way.
    pub fn take(&self, name: &NodeName, much: usize) -> Result<Share, Refusal> {
        let mut share = self.of(name);
        share.grow(much)?;
        Ok(share)
    }

    /// A part of this node's, of which nothing is taken yet.
    #[must_use]
    pub fn of(&self, name: &NodeName) -> Share {
        Share {
            shares: self.clone(),
            name: name.clone(),
            taken: 0,
        }
    }
}

impl Share {
    /// Whose it is.
    #[must_use]
    pub fn name(&self) -> &NodeName {
        &self.name
    }

    /// Takes more.
    ///
    /// # Errors
    /// `ARX-NODE-BUSY` if too much of this node's is under way.
    pub fn grow(&mut self, more: usize) -> Result<(), Refusal> {
        if more == 0 {
            return Ok(());
        }
        let Inner { most, unit, .. } = *self.shares.0;
        let mut taken = self.shares.lock();
        let own = taken.get(&self.name).copied().unwrap_or(0);
        // Whoever has nothing under way is never turned away.
        if own > 0 && own + more > most {
            return Err(Refusal::new(
                "ARX-NODE-BUSY",
                Fault::Overload,
                format!("{own} {unit} of this node are under way: wait for their answers"),
            ));
        }
        taken.insert(self.name.clone(), own + more);
        self.taken += more;
        Ok(())
    }

    /// Gives back what is beyond `rest`.
    pub fn shrink_to(&mut self, rest: usize) {
        let back = self.taken.saturating_sub(rest);
        if back == 0 {
            return;
        }
        self.taken -= back;
        let mut taken = self.shares.lock();
        if let Some(own) = taken.get_mut(&self.name) {
            *own -= back;
            if *own == 0 {
                taken.remove(&self.name);
            }
        }
    }
}

/// What was taken is given back.
impl Drop for Share {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

impl fmt::Debug for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shares({} nodes)", self.lock().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName {
            cluster: "c".into(),
            node: name.into(),
        }
    }

    #[test]
    fn a_node_that_takes_too_much_is_turned_away_and_nobody_else() {
        let shares = Shares::default();
        let held = shares.take(&node("wild"), MOST).expect("within its share");
        let refused = shares.take(&node("wild"), 1).expect_err("too much");
        assert_eq!(refused.code, "ARX-NODE-BUSY");
        assert!(refused.retry_after.is_some());
        shares.take(&node("other"), MOST).expect("its own share");
        drop(held);
        drop(shares.take(&node("wild"), MOST).expect("given back"));
        assert!(
            shares.lock().is_empty(),
            "nothing is kept of nodes that ask for nothing"
        );
    }
}
