//! The certificate authority of Arx: who may have which identity, the keys that say so, and
//! the record of everything that was said.

pub mod authority;
mod hex;
pub mod seal;
pub mod state;
pub mod store;
pub mod trust;
