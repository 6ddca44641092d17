//! How many connections somebody may have: when one too many comes, the oldest goes. The newest
//! is the one that is alive.

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use futures_util::task::AtomicWaker;

/// The connections of everybody, oldest first.
pub struct Places<K> {
    most: usize,
    held: Mutex<HashMap<K, Vec<Arc<Held>>>>,
}

/// The place of one connection, free again when it is dropped.
pub struct Place<'a, K: Eq + Hash> {
    places: &'a Places<K>,
    whose: K,
    held: Arc<Held>,
}

#[derive(Default)]
struct Held {
    lost: AtomicBool,
    waker: AtomicWaker,
}

impl<K: Eq + Hash + Clone> Places<K> {
    /// So many for each.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            most,
            held: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Vec<Arc<Held>>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection; the oldest one may lose its own for that.
    pub fn take(&self, whose: K) -> Place<'_, K> {
        let held = Arc::new(Held::default());
        let mut all = self.lock();
        let own = all.entry(whose.clone()).or_default();
        if own.len() >= self.most {
            let oldest = own.remove(0);
            oldest.lost.store(true, Ordering::Release);
            oldest.waker.wake();
        }
        // Nearly every node has one, and there are many nodes.
        own.reserve_exact(1);
        own.push(Arc::clone(&held));
        Place {
            places: self,
            whose,
            held,
        }
    }
}

impl<K: Eq + Hash> Place<'_, K> {
    /// Returns when a newer connection has the place; says whose it is.
    pub async fn lost(&self) -> &K {
        poll_fn(|context| {
            self.held.waker.register(context.waker());
            if self.held.lost.load(Ordering::Acquire) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        &self.whose
    }
}

impl Place<'_, ()> {
    /// Returns when a newer connection has the place.
    pub async fn lost_to_another(&self) {
        self.lost().await;
    }
}

impl<K: Eq + Hash> fmt::Debug for Places<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Places({} for each)", self.most)
    }
}

impl<K: Eq + Hash> fmt::Debug for Place<'_, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Place")
    }
}

impl<K: Eq + Hash> Drop for Place<'_, K> {
    fn drop(&mut self) {
        let all = self.places.held.lock();
        let mut all = all.unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = all.get_mut(&self.whose) {
            own.retain(|held| !Arc::ptr_eq(held, &self.held));
            if own.is_empty() {
                all.remove(&self.whose);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn the_oldest_place_goes_when_somebody_has_too_many() {
        let places = Places::new(3);
        let neighbour = places.take("another");
        let mut own: Vec<Place<'_, &str>> = (0..3).map(|_| places.take("one")).collect();
        assert!(own[0].lost().now_or_never().is_none(), "there is room");
        let (newest, _) = tokio::join!(async { places.take("one") }, own[0].lost());
        for place in own[1..].iter().chain([&newest, &neighbour]) {
            assert!(place.lost().now_or_never().is_none());
        }
        own.clear();
        drop((newest, neighbour));
        assert!(places.lock().is_empty(), "nothing is kept of who is gone");
    }
}
