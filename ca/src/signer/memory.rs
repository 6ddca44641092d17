//! A key in this process's memory, from the state or a file.

use std::sync::Arc;

use arx_identity::{PrivateKey, PublicKey};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};
use tokio::task::spawn_blocking;

use super::{Signer, SignerError};

/// A key in memory.
#[derive(Debug)]
pub struct InMemory {
    key: Arc<PrivateKey>,
    custody: &'static str,
}

impl InMemory {
    /// `key`, which `custody` says where it was read from.
    #[must_use]
    pub fn new(key: Arc<PrivateKey>, custody: &'static str) -> Self {
        Self { key, custody }
    }
}

impl Signer for InMemory {
    fn public_key(&self) -> &PublicKey {
        self.key.public_key()
    }

    fn custody(&self) -> &str {
        self.custody
    }

    /// Away from the event loop: RSA takes milliseconds.
    fn try_sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, SignerError>> {
        let (key, message) = (self.key.clone(), message.to_vec());
        async move {
            match spawn_blocking(move || key.sign(&message)).await {
                Ok(signature) => Ok(signature?),
                Err(gone) => Err(SignerError::CutOff(gone.to_string())),
            }
        }
        .boxed()
    }

    fn try_reach(&self) -> BoxFuture<'_, Result<(), SignerError>> {
        ready(Ok(())).boxed()
    }
}
