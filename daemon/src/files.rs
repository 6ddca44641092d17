//! Files that hold what must not be lost: written whole or not at all, by one process at a time, sealed where they hold
//! secrets. And the sockets that stand among them.

mod atomic;
mod lock;
mod sealed;
mod socket;

pub use atomic::write_atomically;
pub use lock::{Held, Holder, Lock, lock_exclusive};
pub use sealed::{SealedError, SealedFile};
pub use socket::{LONGEST_SOCKET_PATH, SocketError, bind_socket};
