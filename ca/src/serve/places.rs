//! How many connections somebody may have: when one too many comes, the oldest goes. The newest
//! is the one that is alive.

use std::collections::HashMap;
use std::future::poll_fn;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use futures_util::task::AtomicWaker;

use crate::caller::NodeName;
use crate::refusal::{Fault, Refusal};

/// Connections of one node at a time. An agent has one, and for a moment a second when it takes
/// another certificate; what is beyond them was left behind by a network that broke, or belongs
/// to somebody else who has the node's key.
const OF_NODE: usize = 8;

/// The connections of everybody, oldest first.
pub(super) struct Places<K> {
    most: usize,
    held: Mutex<HashMap<K, Vec<Arc<Held>>>>,
}

/// The place of one connection, free again when it is dropped.
pub(super) struct Place<'a, K: Eq + Hash> {
    places: &'a Places<K>,
    whose: K,
    held: Arc<Held>,
}

#[derive(Default)]
struct Held {
    lost: AtomicBool,
    waker: AtomicWaker,
}

impl Places<NodeName> {
    /// For the connections of nodes.
    pub(super) fn of_nodes() -> Self {
        Self::new(OF_NODE)
    }
}

impl<K: Eq + Hash + Clone> Places<K> {
    /// So many for each.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            held: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Vec<Arc<Held>>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection; the oldest one may lose its own for that.
    pub(super) fn take(&self, whose: K) -> Place<'_, K> {
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
    pub(super) async fn lost(&self) -> &K {
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
    pub(super) async fn lost_to_another(&self) {
        self.lost().await;
    }
}

/// Why a connection that has lost its place is closed.
pub(super) fn lost() -> Refusal {
    Refusal::new(
        "ARX-NODE-CONNECTIONS",
        Fault::Overload,
        format!(
            "one node has at most {OF_NODE} connections, and its oldest was closed for a new one: if that goes on, look at what connects with this node's certificate"
        ),
    )
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

    fn node(name: &str) -> NodeName {
        NodeName {
            cluster: "c".into(),
            node: name.into(),
        }
    }

    #[tokio::test]
    async fn the_oldest_connection_of_a_node_goes_when_it_has_too_many() {
        let places = Places::of_nodes();
        let (name, other) = (node("n1"), node("n2"));
        let neighbour = places.take(other);
        let mut own: Vec<Place<'_, NodeName>> =
            (0..OF_NODE).map(|_| places.take(name.clone())).collect();
        assert!(own[0].lost().now_or_never().is_none(), "there is room");
        let (newest, _) = tokio::join!(async { places.take(name.clone()) }, own[0].lost());
        for place in own[1..].iter().chain([&newest, &neighbour]) {
            assert!(place.lost().now_or_never().is_none());
        }
        own.clear();
        drop((newest, neighbour));
        assert!(places.lock().is_empty(), "nothing is kept of who is gone");
    }
}
