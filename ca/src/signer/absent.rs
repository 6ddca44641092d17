//! A key that is known to be out of reach until somebody does something about it.

use arx_identity::PublicKey;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};

use super::{Signer, SignerError};

/// Stands where a key should be. Signs nothing.
#[derive(Debug)]
pub struct Absent {
    public_key: PublicKey,
    custody: String,
    reason: String,
}

impl Absent {
    /// The key that belongs to `public_key` and should be at `custody`, and why it is not.
    #[must_use]
    pub fn new(public_key: PublicKey, custody: String, reason: String) -> Self {
        Self {
            public_key,
            custody,
            reason,
        }
    }

    fn error(&self) -> SignerError {
        SignerError::Unreachable {
            custody: self.custody.clone(),
            reason: self.reason.clone(),
        }
    }
}

impl Signer for Absent {
    fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    fn custody(&self) -> &str {
        &self.custody
    }

    fn try_sign<'a>(&'a self, _message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, SignerError>> {
        ready(Err(self.error())).boxed()
    }

    fn try_reach(&self) -> BoxFuture<'_, Result<(), SignerError>> {
        ready(Err(self.error())).boxed()
    }
}
