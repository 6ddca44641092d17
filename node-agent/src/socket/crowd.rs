//! How many connections each user has: one alone must not take all places of the socket.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The connections of each user. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Crowd(Arc<Mutex<HashMap<u32, usize>>>);

/// One connection, for as long as it lasts.
#[derive(Debug)]
pub(crate) struct Guest {
    crowd: Crowd,
    uid: u32,
}

impl Crowd {
    /// Lets in one more connection of this user, if it has fewer than `most`.
    pub(crate) fn enter(&self, uid: u32, most: usize) -> Option<Guest> {
        let mut connections = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = connections.entry(uid).or_default();
        if *own >= most {
            return None;
        }
        *own += 1;
        Some(Guest {
            crowd: self.clone(),
            uid,
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut connections = self.crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = connections.get_mut(&self.uid) {
            *own -= 1;
            if *own == 0 {
                connections.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_can_have_so_many_and_no_more_and_others_notice_nothing() {
        let crowd = Crowd::default();
        let first = crowd.enter(7, 2).expect("there is room");
        let _second = crowd.enter(7, 2).expect("there is room");
        assert!(crowd.enter(7, 2).is_none());
        assert!(crowd.enter(8, 2).is_some());
        drop(first);
        assert!(crowd.enter(7, 2).is_some());
        let left = crowd.0.lock().expect("no panic").len();
        assert_eq!(left, 1, "who has gone is not remembered");
    }
}
