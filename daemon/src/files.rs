//! Files that are still right after a crash or a power cut: replaced whole, owned by one process at a time, sealed where
//! they hold keys. Everything here blocks on the disk.

mod atomic;
mod lock;
mod sealed;

pub use atomic::write_atomically;
pub use lock::{Held, Holder, Lock, lock_exclusive};
pub use sealed::{SealedError, SealedFile};
