//! A SPIFFE verifiable identity document: a chain and the key that belongs to it.

use std::sync::Arc;
use std::time::SystemTime;

use crate::certificate::Serial;
use crate::chain::CertChain;
use crate::id::SpiffeId;
use crate::key::PrivateKey;

/// An X509-SVID with its private key. Clones share both.
#[derive(Clone, Debug)]
pub struct Svid {
    chain: CertChain,
    key: Arc<PrivateKey>,
}

/// Why a chain and a key are not an SVID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    /// The leaf is for another key.
    #[error("the private key does not belong to the chain's leaf")]
    KeyMismatch,
}

impl Svid {
    /// The SVID of `chain` and `key`.
    ///
    /// # Errors
    /// If the leaf is for another key.
    pub fn new(chain: CertChain, key: Arc<PrivateKey>) -> Result<Self, SvidError> {
        if chain.leaf().public_key() != key.public_key() {
            return Err(SvidError::KeyMismatch);
        }
        Ok(Self { chain, key })
    }

    /// The certificates.
    #[must_use]
    pub fn chain(&self) -> &CertChain {
        &self.chain
    }

    /// The leaf's private key.
    #[must_use]
    pub fn key(&self) -> &Arc<PrivateKey> {
        &self.key
    }

    /// Whose it is.
    #[must_use]
    pub fn spiffe_id(&self) -> &SpiffeId {
        self.chain.spiffe_id()
    }

    /// First instant of the leaf's validity.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.chain.leaf().not_before()
    }

    /// Last instant of the leaf's validity.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.chain.leaf().not_after()
    }

    /// The leaf's serial number.
    #[must_use]
    pub fn serial(&self) -> &Serial {
        self.chain.leaf().serial()
    }
}
