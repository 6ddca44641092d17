//! How much of the authority one node may take at a time, so that a node that has gone
//! wild, or was taken over, turns away nobody but itself.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::caller::NodeName;
use crate::refusal::{Fault, Refusal};

/// Items of one node that may be under way: four times as many as pods usually fit on one.
pub const MOST: usize = 1000;

/// The items under way, by node.
#[derive(Clone, Default)]
pub struct Shares(Arc<Mutex<HashMap<NodeName, usize>>>);

/// A part of a node's share; given back on drop.
#[derive(Debug)]
pub struct Share {
    shares: Shares,
    name: NodeName,
    items: usize,
}

impl Shares {
    fn lock(&self) -> MutexGuard<'_, HashMap<NodeName, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a part for `items`.
    ///
    /// # Errors
    /// `ARX-NODE-BUSY` if too much of this node's is under way.
    pub fn take(&self, name: &NodeName, items: usize) -> Result<Share, Refusal> {
        let mut taken = self.lock();
        let own = taken.entry(name.clone()).or_insert(0);
        // A single batch is always possible.
        if *own > 0 && *own + items > MOST {
            return Err(Refusal::new(
                "ARX-NODE-BUSY",
                Fault::Overload,
                format!("{own} items of this node are under way: wait for their answers"),
            ));
        }
        *own += items;
        Ok(Share {
            shares: self.clone(),
            name: name.clone(),
            items,
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.lock();
        if let Some(own) = taken.get_mut(&self.name) {
            *own -= self.items;
            if *own == 0 {
                taken.remove(&self.name);
            }
        }
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
