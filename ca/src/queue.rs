//! Who is served first when there is more to sign than processors to sign with.
//!
//! A bounded queue of permits: a workload that starts goes before a renewal, and of
//! renewals the one whose certificate ends first. When the queue is full, whoever is last
//! in that order is turned away, be it the newcomer or somebody who already waits.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;

use crate::refusal::{Fault, Refusal};

/// Code of the refusal of those who do not fit.
pub const FULL: &str = "ARX-QUEUE-FULL";

/// Place in the order of service; smaller is sooner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority {
    class: Class,
    /// End of the certificate that is to be replaced, as milliseconds since the epoch.
    not_after: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Start,
    Renewal,
}

impl Priority {
    /// Somebody waits for this certificate to start.
    pub const START: Self = Self {
        class: Class::Start,
        not_after: 0,
    };

    /// A certificate that ends at `not_after` is to be replaced in time.
    #[must_use]
    pub fn renewal(not_after: SystemTime) -> Self {
        let millis = not_after
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis();
        Self {
            class: Class::Renewal,
            not_after: u64::try_from(millis).unwrap_or(u64::MAX),
        }
    }
}

/// A fixed number of permits, handed out in order of priority.
#[derive(Clone)]
pub struct Queue(Arc<Shared>);

struct Shared {
    capacity: usize,
    state: Mutex<State>,
}

struct State {
    free: usize,
    arrivals: u64,
    /// By priority, then by arrival.
    waiting: BTreeMap<(Priority, u64), oneshot::Sender<Result<Permit, Refusal>>>,
}

/// The right to use one processor; given back on drop.
pub struct Permit(Option<Arc<Shared>>);

impl Queue {
    /// `permits` at a time, and at most `capacity` waiting.
    #[must_use]
    pub fn new(permits: usize, capacity: usize) -> Self {
        let state = State {
            free: permits.max(1),
            arrivals: 0,
            waiting: BTreeMap::new(),
        };
        Self(Arc::new(Shared {
            capacity: capacity.max(1),
            state: Mutex::new(state),
        }))
    }

    /// How many wait now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.lock().waiting.len()
    }

    /// Waits for a permit.
    ///
    /// # Errors
    /// [`FULL`] if the queue is full of requests that come first.
    pub async fn acquire(&self, priority: Priority) -> Result<Permit, Refusal> {
        let waiting = {
            let mut state = self.0.lock();
            if state.free > 0 {
                state.free -= 1;
                return Ok(Permit(Some(Arc::clone(&self.0))));
            }
            state.arrivals += 1;
            let place = (priority, state.arrivals);
            if state.waiting.len() >= self.0.capacity {
                let behind = state
                    .waiting
                    .last_key_value()
                    .is_none_or(|(last, _)| *last < place);
                if behind {
                    return Err(full(state.waiting.len()));
                }
                if let Some((_, last)) = state.waiting.pop_last() {
                    let _gone = last.send(Err(full(state.waiting.len())));
                }
            }
            let (turn, waiting) = oneshot::channel();
            state.waiting.insert(place, turn);
            waiting
        };
        // The sender is dropped only with the queue itself, which `self` keeps alive.
        waiting.await.unwrap_or_else(|_| Err(full(0)))
    }
}

/// The wait grows with the length of the queue: some 10,000 certificates a second are
/// signed, and those who come back should not all come at once.
fn full(waiting: usize) -> Refusal {
    let wait = Duration::from_millis(200)
        + Duration::from_micros(100) * u32::try_from(waiting).unwrap_or(u32::MAX);
    Refusal::new(
        FULL,
        Fault::Overload,
        "more certificates are asked for than can be signed: come back later",
    )
    .after(wait)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release(self: Arc<Self>) {
        let mut permit = Permit(Some(Arc::clone(&self)));
        loop {
            let mut state = self.lock();
            let Some((_, next)) = state.waiting.pop_first() else {
                state.free += 1;
                permit.0 = None;
                return;
            };
            drop(state);
            match next.send(Ok(permit)) {
                Ok(()) => return,
                // Whoever waited has gone away: the next one's turn.
                Err(Ok(returned)) => permit = returned,
                Err(Err(_)) => return,
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            shared.release();
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Permit")
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Queue({} waiting)", self.waiting())
    }
}

#[cfg(test)]
mod tests;
