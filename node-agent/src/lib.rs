//! The agent of one node: it proves who asks, makes keys, gets certificates for them and
//! hands both to proxies, and it keeps what it handed out alive and known.

mod agent;
pub mod attest;
mod authority;
mod cache;
pub mod config;
mod csi;
mod doorway;
pub mod heap;
mod issue;
mod metrics;
mod quiet;
pub mod reload;
pub mod renewal;
mod roots;
pub mod run;
mod seed;
#[doc(hidden)]
pub mod simulation;
mod socket;
pub mod subscribers;
mod sys;
#[cfg(test)]
mod testing;
mod trust;
mod wire;
mod workloads;

pub use authority::CallFailure;
pub use cache::{CacheError, KeyFileError};
pub use run::{Running, StartError, run, start};
pub use trust::TrustRefused;
