//! Who stands at the other end of a socket: a closed set of attestors that turn a peer
//! into evidence. They only gather; what the evidence is worth is the authority's to
//! decide.

pub mod cgroup;
pub mod local;
pub mod peer;
pub mod pod;
pub mod process;
pub mod token;

pub use local::LocalProcess;
pub use peer::{Peer, ProcessId};
pub use pod::{Pod, PodUid};
pub use token::ServiceAccountToken;

use std::sync::Arc;

/// Who shows evidence, whatever it is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Asker {
    /// User id of the process.
    pub(crate) uid: u32,
    /// Number of its connection.
    pub(crate) connection: u64,
}

/// Who a stream is of, as its attestor says.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// Whoever shows this token, which the authority has still to judge.
    Token(Arc<ServiceAccountToken>),
    /// The pod that the socket was made for.
    Socket(Arc<Pod>),
    /// The pod whose process it is.
    Process(PodUid),
    /// What the kernel says about the process.
    Local(LocalProcess),
}
