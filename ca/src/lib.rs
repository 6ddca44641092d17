//! The certificate authority of Arx: who asks is proved, what may be had is decided by
//! policy, what is signed stands in the ledger before it leaves the house.

pub mod policy;
pub mod token;
