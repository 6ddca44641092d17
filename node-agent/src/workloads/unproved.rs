//! How many tokens are waiting for the authority's word, by who has shown them: each costs
//! the authority an answer and the agent memory, and anybody can write tokens.

use crate::attest::Asker;
use std::collections::HashMap;

/// For one connection: a proxy has one token, and another after it was refreshed.
const MOST_OF_CONNECTION: usize = 16;
/// For one user: all pods of a large node may start at once, under one user.
const MOST_OF_USER: usize = 512;

/// The tokens that nobody has vouched for.
#[derive(Debug, Default)]
pub(super) struct Unproved {
    by_connection: HashMap<u64, usize>,
    by_user: HashMap<u32, usize>,
}

impl Unproved {
    /// Lets one more in, if its asker has not too many.
    pub(super) fn take(&mut self, asker: Asker) -> bool {
        let of = |count: Option<&usize>| count.copied().unwrap_or(0);
        let fits = of(self.by_connection.get(&asker.connection)) < MOST_OF_CONNECTION
            && of(self.by_user.get(&asker.uid)) < MOST_OF_USER;
        if fits {
            *self.by_connection.entry(asker.connection).or_default() += 1;
            *self.by_user.entry(asker.uid).or_default() += 1;
        }
        fits
    }

    /// One was proved, or is gone.
    pub(super) fn release(&mut self, asker: Asker) {
        release(&mut self.by_connection, asker.connection);
        release(&mut self.by_user, asker.uid);
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_connection.is_empty() && self.by_user.is_empty()
    }
}

fn release<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_and_a_user_may_wait_for_so_many_and_nobody_else_is_held_up() {
        let mut unproved = Unproved::default();
        let asker = |uid, connection| Asker { uid, connection };
        let mut taken = Vec::new();
        for connection in 0.. {
            let before = taken.len();
            let one = asker(7, connection);
            taken.extend(std::iter::from_fn(|| unproved.take(one).then_some(one)));
            assert!(taken.len() <= before + MOST_OF_CONNECTION);
            if taken.len() == before {
                break;
            }
        }
        assert_eq!(taken.len(), MOST_OF_USER);
        assert!(unproved.take(asker(8, 9_999)));
        unproved.release(taken.pop().expect("many"));
        assert!(unproved.take(asker(7, 9_998)));
        unproved.release(asker(7, 9_998));
        unproved.release(asker(8, 9_999));
        taken.into_iter().for_each(|one| unproved.release(one));
        assert!(unproved.is_empty());
    }
}
