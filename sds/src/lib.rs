//! Envoy's secret discovery as a protocol machine over a snapshot.
//!
//! Who a caller is and what it may have is not decided here: a [`Source`] looks at a
//! stream's first message and gives a [`Session`], whose view holds the caller's
//! [`Snapshot`] and changes with it. [`SdsService`] speaks the protocol (state of the
//! world, delta, fetch), and tells the session what was sent and what became of it.
//!
//! What must never happen: an answer to an ACK, the same bytes after a NACK, a secret
//! nobody asked for or one that is not ready, two versions on the way to one consumer,
//! or one stream that another one notices.
//!
#![doc = include_str!("../ENVOY.md")]
#![deny(missing_docs)]

mod fetch;
mod limits;
mod request;
mod response;
mod service;
mod session;
#[doc(hidden)]
pub mod simulation;
mod snapshot;
mod stream;
#[cfg(test)]
mod testing;
mod wire;

pub use request::Node;
pub use service::{Body, SdsService};
pub use session::{Event, EventKind, Session, Source};
pub use snapshot::{Content, Secret, Snapshot, SnapshotBuilder, SnapshotError};
