//! Messages on their way, in order.

use std::collections::VecDeque;

use super::clock::Millis;

/// A connection's one direction: nothing overtakes.
#[derive(Clone, Debug)]
pub struct Queue<T>(VecDeque<(Millis, T)>);

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Queue<T> {
    /// Arrives at `at`, or with the one before it.
    pub fn push(&mut self, at: Millis, message: T) {
        let at = self.0.back().map_or(at, |(last, _)| at.max(*last));
        self.0.push_back((at, message));
    }

    /// The next that has arrived by `now`.
    pub fn take(&mut self, now: Millis) -> Option<T> {
        if self.next() > now {
            return None;
        }
        self.0.pop_front().map(|(_, message)| message)
    }

    /// When the next arrives.
    #[must_use]
    pub fn next(&self) -> Millis {
        self.0.front().map_or(Millis::MAX, |(at, _)| *at)
    }

    /// When the last arrives; zero if none is on its way.
    #[must_use]
    pub fn last(&self) -> Millis {
        self.0.back().map_or(0, |(at, _)| *at)
    }

    /// All are lost.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}
