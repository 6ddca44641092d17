//! What end-to-end tests, the demo and the benchmarks are made of: the real programs as
//! processes, real Envoys, and a small issuer of service-account tokens in the place of a
//! cluster's API server. Everything stays on loopback and in one folder.

#![allow(
    missing_debug_implementations,
    reason = "tests hold processes and connections"
)]

pub mod across;
pub mod admin;
pub mod app;
pub mod bench;
pub mod browser;
pub mod cgroup;
pub mod demo;
pub mod dice;
pub mod envoy;
pub mod etcd;
pub mod faketime;
pub mod fleet;
pub mod http;
pub mod kube;
pub mod load;
pub mod mesh;
pub mod node;
pub mod openssl;
pub mod pair;
pub mod process;
pub mod root;
pub mod rotating;
pub mod sds;
pub mod several;
pub mod signer;
pub mod simulation;
pub mod stack;
pub mod thief;
pub mod token;
pub mod token_issuer;
