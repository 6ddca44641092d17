//! Who stands at the other end of a socket: a closed set of attestors that turn a peer
//! into evidence. They only gather; what the evidence is worth is the authority's to
//! decide.

pub mod local;
pub mod peer;
pub mod token;

pub use local::LocalProcess;
pub use peer::{Peer, ProcessId};
pub use token::ServiceAccountToken;

/// Who shows evidence, whatever it is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Asker {
    /// User id of the process.
    pub(crate) uid: u32,
    /// Number of its connection.
    pub(crate) connection: u64,
}

/// What an agent can show to the authority for a workload.
#[derive(Debug)]
pub enum Evidence {
    /// The workload's own service-account token.
    Token(ServiceAccountToken),
    /// What the kernel says about the process.
    Local(LocalProcess),
}
