//! What stands between the protocol and whoever knows the callers.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tonic::Status;

use crate::request::Node;
use crate::snapshot::{Secret, Snapshot};

/// Whoever knows what each caller may have.
pub trait Source: Send + Sync + 'static {
    /// Opens a stream or a fetch, once its first message is there. The request's metadata
    /// is in `parts.headers`, and what the connection was accepted with in
    /// `parts.extensions`; neither is held after the answer. `node` is only a claim.
    ///
    /// Nothing more is read from the stream until the session is there. A client that
    /// gives up meanwhile drops the future.
    ///
    /// # Errors
    /// The status that ends the stream, and no other one of its connection.
    fn open(
        &self,
        parts: &http::request::Parts,
        node: Option<Node>,
    ) -> impl Future<Output = Result<Session, Status>> + Send;
}

/// One stream, or one fetch, of one caller.
#[derive(Clone, Debug)]
pub struct Session {
    /// Stands in every event of it.
    pub stream: u64,
    /// What the caller may have. When its sender is dropped, the stream ends with
    /// UNAVAILABLE, and the client comes again.
    pub view: watch::Receiver<Arc<Snapshot>>,
    /// Takes what happens. No more than three events follow from each secret that is
    /// sent, and none is sent to a client that does not read: its length is paced by the
    /// client, and it never holds a stream up.
    pub events: mpsc::UnboundedSender<Event>,
}

/// Something that happened on one stream.
#[derive(Clone, Debug)]
pub struct Event {
    /// [`Session::stream`]
    pub stream: u64,
    /// What happened.
    pub kind: EventKind,
}

/// What happened to one resource, which is the secret's name where one is given.
#[derive(Clone, Debug)]
pub enum EventKind {
    /// The secret left for the client, which may be using it from now on.
    Sent(Arc<Secret>),
    /// The secret left for a client that fetched it, and that will never say whether it
    /// has taken it.
    Fetched(Arc<Secret>),
    /// The client says that it has taken it. After a `Nacked` of the same content this
    /// may be a lie.
    Acked(Arc<Secret>),
    /// The client says that it has not. It may be another secret's fault, so each secret
    /// of a response that was refused gets this.
    Nacked {
        /// What it refused.
        secret: Arc<Secret>,
        /// Its own words, at most 1 KiB of them.
        detail: String,
    },
    /// The client does not want it on this stream any more. Only for a resource that was
    /// sent on it.
    Unsubscribed {
        /// Its name.
        resource: Arc<str>,
    },
    /// The stream is over, however it ended. Only for a resource that was sent on it.
    Ended {
        /// Its name.
        resource: Arc<str>,
    },
    /// Nothing follows. Comes exactly once for each session.
    Closed,
}
