//! The other replicas of this authority, asked directly for what no store has: the records of their
//! ledgers, and what they know of pods.
//!
//! Nothing that is decided rests on it. Who does not answer is named, and what it would have said is
//! missing ([ADR 24](../../docs/adr/0024-a-search-asks-every-replica.md)). A question is answered
//! only to a replica, by what the answerer has itself, and is never passed on.

mod api;
mod ask;
mod explain;
mod merge;
mod search;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use api::Api;
pub use search::{Answer, Unanswered, Wanted};

/// How long one of them may take for all of its answer, and the state to say who they are.
const PATIENCE: Duration = Duration::from_secs(5);
/// The records of an answer have so many bytes, or are one.
const ANSWER: usize = 2 * 1024 * 1024;

/// How many replicas an authority may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replicas {
    /// This one, which has its state for itself.
    One,
    /// Whoever shares the state.
    Several,
}
