//! The certificate authority of Arx: who may have which identity, the keys that say so, and
//! the record of everything that was said.

mod hex;
pub mod seal;
pub mod store;
