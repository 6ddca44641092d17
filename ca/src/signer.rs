//! Keys that sign for the authority, wherever they are: read from the state or a file into
//! memory, or in a place that does not give them away.
//!
//! Whoever signs goes through [`sign`](trait.Signer.html#method.sign): it ends in time, and
//! answers no signature that does not verify under the key that it is said to be by.

mod absent;
mod error;
mod memory;
pub mod options;
#[cfg(feature = "pkcs11")]
mod pkcs11;
mod socket;
mod sources;

use std::fmt;
use std::time::Duration;

use arx_identity::PublicKey;
use futures_util::future::BoxFuture;

pub use self::absent::Absent;
pub use self::error::SignerError;
pub use self::memory::InMemory;
pub use self::sources::{Key, Sources};

/// How long a signature may take, unless the place of the key says otherwise.
const DEADLINE: Duration = Duration::from_secs(10);

/// A private key that signs, in some place.
pub trait Signer: fmt::Debug + Send + Sync {
    /// The public half. Known without reaching the key.
    fn public_key(&self) -> &PublicKey;

    /// Where the private key is, in words.
    fn custody(&self) -> &str;

    /// Signs once, by the algorithm that belongs to this kind of key, as X.509 carries it.
    /// Nothing is promised about how long it takes, or that what comes back is right: call
    /// `sign` instead.
    fn try_sign<'a>(&'a self, message: &'a [u8]) -> BoxFuture<'a, Result<Vec<u8>, SignerError>>;

    /// Whether the key can be reached now. Signs nothing. As `try_sign`: call `reach` instead.
    fn try_reach(&self) -> BoxFuture<'_, Result<(), SignerError>>;

    /// How long a signature may take.
    fn deadline(&self) -> Duration {
        DEADLINE
    }
}

impl<'s> dyn Signer + 's {
    /// A signature over `to_be_signed`, verified under [`Signer::public_key`].
    ///
    /// # Errors
    /// [`SignerError`] if there is none in time, or what came is none by this key.
    pub async fn sign(&self, to_be_signed: &[u8]) -> Result<Vec<u8>, SignerError> {
        let signature = self.within(self.try_sign(to_be_signed)).await?;
        if self.public_key().verifies(to_be_signed, &signature) {
            Ok(signature)
        } else {
            Err(SignerError::WrongSignature {
                custody: self.custody().to_owned(),
            })
        }
    }

    /// Whether the key can be reached now, without signing anything.
    ///
    /// # Errors
    /// [`SignerError`] with the reason why not.
    pub async fn reach(&self) -> Result<(), SignerError> {
        self.within(self.try_reach()).await
    }

    async fn within<T>(
        &self,
        work: BoxFuture<'_, Result<T, SignerError>>,
    ) -> Result<T, SignerError> {
        until(self.deadline(), self.custody(), work).await
    }
}

/// What `work` answers within `deadline`.
async fn until<T>(
    deadline: Duration,
    custody: &str,
    work: impl Future<Output = Result<T, SignerError>>,
) -> Result<T, SignerError> {
    tokio::time::timeout(deadline, work)
        .await
        .unwrap_or_else(|_| {
            Err(SignerError::Deadline {
                custody: custody.to_owned(),
                after: deadline,
            })
        })
}

#[cfg(test)]
pub(crate) mod tests;
