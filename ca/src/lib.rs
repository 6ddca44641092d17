//! The certificate authority of Arx: who asks is proved, what may be had is decided by
//! policy, what is signed stands in the ledger before it leaves the house.

pub mod admin;
pub mod admission;
pub mod answers;
pub mod authority;
pub mod ca;
pub mod caller;
pub mod check;
mod checkpoint;
pub mod config;
pub mod denial;
mod dial;
pub mod distrust;
mod examine;
mod explain;
pub mod fleet;
mod hex;
mod issue;

mod kubernetes;
pub mod lease;
pub mod ledger;
pub mod metrics;
pub mod nested;
pub mod node_api;
pub mod overview;
pub mod page;
pub mod peer;
pub mod pods;
pub mod policy;
pub mod publish;
pub mod queue;
pub mod recent;
pub mod refusal;
pub mod restore;
pub mod rotation;
pub mod run;
pub mod seal;
pub mod serve;
pub mod share;
pub mod signer;
pub mod sink;
pub mod state;
pub mod store;
#[cfg(test)]
mod testing;
pub mod token;
pub mod trust;
