//! The agent of one node: it proves who asks, makes keys, gets certificates for them and
//! hands both to proxies, and it keeps what it handed out alive and known.

pub mod attest;
pub mod renewal;
pub mod subscribers;
mod sys;
mod wire;
