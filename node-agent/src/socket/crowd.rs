//! What the connections of each user cost: one user alone must not take all places of the
//! socket, nor all of the memory behind them. Everything is counted with the most that it
//! can cost, before it is let in, and whatever its client does afterwards.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Most bytes that a connection can hold: what was sent and nobody reads (its window, and
/// the bookkeeping of small frames), the head of a request under way, what was read ahead,
/// what waits to be written, and its state.
pub(crate) const CONNECTION: usize = 192 * 1024;
/// Most bytes that a stream can hold beside its credentials: the names that it asks for, a
/// message under way, and its state.
pub(crate) const STREAM: usize = 16 * 1024;
/// What belongs to one place of the socket: a connection with twice the streams of a proxy.
const PLACE: usize = CONNECTION + 4 * STREAM;
/// One user, but root, has at most one in so many of all places and of all memory.
const SHARE: usize = 2;

/// Everything that is held for clients. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Crowd(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Places of the socket.
    places: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    bytes: usize,
    users: HashMap<u32, User>,
}

#[derive(Debug, Default)]
struct User {
    connections: usize,
    bytes: usize,
}

/// One connection, for as long as it lasts.
#[derive(Debug)]
pub(crate) struct Guest(Weight);

/// Something that counts, for as long as it lasts.
#[derive(Debug)]
pub(crate) struct Weight {
    crowd: Crowd,
    uid: u32,
    connections: usize,
    bytes: usize,
}

impl Crowd {
    /// For a socket with so many places.
    pub(crate) fn new(places: usize) -> Self {
        Self(Arc::new(Shared {
            places,
            held: Mutex::default(),
        }))
    }

    /// Lets in one more connection of this user, if it may have more.
    pub(crate) fn enter(&self, uid: u32) -> Option<Guest> {
        self.take(uid, 1, CONNECTION).map(Guest)
    }

    fn take(&self, uid: u32, connections: usize, bytes: usize) -> Option<Weight> {
        let places = match uid {
            0 => self.0.places,
            _ => (self.0.places / SHARE).max(1),
        };
        let mut held = self.lock();
        let all = held.bytes.saturating_add(bytes);
        let user = held.users.entry(uid).or_default();
        let fits = user.connections + connections <= places
            && user.bytes.saturating_add(bytes) <= places.saturating_mul(PLACE)
            && all <= self.0.places.saturating_mul(PLACE);
        if fits {
            user.connections += connections;
            user.bytes += bytes;
            held.bytes = all;
        } else if user.connections == 0 {
            held.users.remove(&uid);
        }
        drop(held);
        fits.then(|| Weight {
            crowd: self.clone(),
            uid,
            connections,
            bytes,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest {
    /// Lets in one more stream with so many bytes of credentials, if there is memory for it.
    pub(crate) fn stream(&self, credentials: usize) -> Option<Weight> {
        let Weight { crowd, uid, .. } = &self.0;
        crowd.take(*uid, 0, STREAM.saturating_add(credentials))
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        let mut held = self.crowd.lock();
        held.bytes -= self.bytes;
        if let Some(user) = held.users.get_mut(&self.uid) {
            user.connections -= self.connections;
            user.bytes -= self.bytes;
            if user.bytes == 0 {
                held.users.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_can_have_half_of_all_places_and_others_notice_nothing() {
        let crowd = Crowd::new(4);
        let first = crowd.enter(7).expect("there is room");
        let _second = crowd.enter(7).expect("there is room");
        assert!(crowd.enter(7).is_none());
        assert!(crowd.enter(8).is_some());
        drop(first);
        assert!(crowd.enter(7).is_some());
        let left = crowd.lock().users.len();
        assert_eq!(left, 1, "who has gone is not remembered");
    }

    #[test]
    fn streams_of_one_user_are_refused_once_its_memory_is_used_up_whoever_opens_them() {
        let crowd = Crowd::new(4);
        let (one, other) = (
            crowd.enter(7).expect("there is room"),
            crowd.enter(7).expect("there is room"),
        );
        let mut streams: Vec<_> = std::iter::from_fn(|| one.stream(0)).collect();
        assert_eq!(streams.len(), 8, "the memory of two places");
        assert!(other.stream(0).is_none());
        let stranger = crowd.enter(8).expect("there is room");
        assert!(stranger.stream(0).is_some());
        streams.pop();
        assert!(other.stream(1).is_none(), "credentials count");
        assert!(other.stream(0).is_some());
    }

    #[test]
    fn all_users_together_are_bounded_and_nothing_is_counted_when_all_have_gone() {
        let crowd = Crowd::new(4);
        let guests: Vec<_> = (0..6).map_while(|uid| crowd.enter(uid)).collect();
        let streams: Vec<_> = guests
            .iter()
            .flat_map(|guest| std::iter::from_fn(|| guest.stream(0)))
            .collect();
        assert!(crowd.lock().bytes <= 4 * PLACE);
        assert!(guests.iter().all(|guest| guest.stream(0).is_none()));
        drop((guests, streams));
        let held = crowd.lock();
        assert_eq!((held.bytes, held.users.len()), (0, 0));
    }
}
