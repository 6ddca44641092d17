//! The vocabulary of a SPIFFE identity authority: names, keys, certificates, trust
//! bundles, and the TLS that stands on them.
//!
//! Every type keeps a promise that its constructor checked, so code that holds one
//! need not check again. This crate does no I/O beyond the TLS streams of [`tls`],
//! reads no clock (callers pass `now`), and is the only one that knows which crypto
//! provider is in use.
#![deny(missing_docs)]

mod bundle;
mod certificate;
mod chain;
pub mod crypto;
mod csr;
mod der;
mod id;
mod key;
pub mod profile;
mod svid;
#[cfg(test)]
mod testing;
pub mod tls;
mod verify;

pub use bundle::{BundleError, Sequence, TrustBundle};
pub use certificate::{Certificate, CertificateError, KeyId, Serial};
pub use chain::{CertChain, ChainError};
pub use csr::{CsrError, KeyPolicy, VerifiedCsr, csr_pem};
pub use id::{IdError, SpiffeId, TrustDomain};
pub use key::{KeyAlgorithm, KeyError, PrivateKey, PublicKey, ecdsa_signature};
pub use svid::{Svid, SvidError};
pub use verify::{VerifiedPeer, VerifyError, verify};
