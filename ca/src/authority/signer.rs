//! The key that stands above the replica's own: the root's, or the operator's intermediate's.
//! Used at the start and at each renewal, never for a leaf.

use std::sync::Arc;
use std::time::SystemTime;

use arx_identity::profile::{Issuer, ProfileError, Unsigned};
use arx_identity::{Certificate, KeyId, PrivateKey};
use tokio::task::spawn_blocking;

use super::AuthorityError;
use crate::state::Root;

/// Signs the replicas' intermediates.
#[derive(Debug)]
pub(super) struct Signer {
    pub(super) issuer: Issuer,
    key: Arc<PrivateKey>,
    /// The operator's intermediates, the signing one first; empty if the root signs.
    pub(super) above: Vec<Certificate>,
    pub(super) root: Certificate,
    pub(super) root_id: KeyId,
    /// Where the key is.
    pub(super) custody: &'static str,
}

impl Signer {
    /// The signer of `root`, by `key`.
    pub(super) fn new(root: &Root, key: Arc<PrivateKey>) -> Result<Self, ProfileError> {
        // Both must be able to issue: the root's identifier names everything below it.
        let root_id = Issuer::new(&root.certificate)?.key_id();
        Ok(Self {
            issuer: Issuer::new(root.signer())?,
            key,
            above: root.above.clone(),
            root: root.certificate.clone(),
            root_id,
            custody: root.key.as_str(),
        })
    }

    /// When the first of the certificates up to the root ends: nothing below lives longer.
    pub(super) fn ends(&self) -> SystemTime {
        let above = self.above.iter().map(Certificate::not_after);
        above.fold(self.root.not_after(), SystemTime::min)
    }

    /// When all of them have begun.
    pub(super) fn begins(&self) -> SystemTime {
        let above = self.above.iter().map(Certificate::not_before);
        above.fold(self.root.not_before(), SystemTime::max)
    }

    pub(super) async fn sign(&self, unsigned: Unsigned) -> Result<Certificate, AuthorityError> {
        complete(self.key.clone(), unsigned).await
    }
}

/// The finished certificate. Away from the event loop: RSA takes milliseconds.
pub(super) async fn complete(
    key: Arc<PrivateKey>,
    unsigned: Unsigned,
) -> Result<Certificate, AuthorityError> {
    blocking(move || {
        let signature = key.sign(unsigned.to_be_signed())?;
        Ok(unsigned.complete(&signature)?)
    })
    .await
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AuthorityError> + Send + 'static,
) -> Result<T, AuthorityError> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|gone| Err(AuthorityError::CutOff(gone.to_string())))
}
