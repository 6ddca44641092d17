//! What stands above the replica's own intermediate: the root, or the operator's intermediate
//! under it, with the key that signs. Used at the start and at each renewal, never for a leaf.

use std::sync::Arc;
use std::time::SystemTime;

use arx_identity::profile::{Issuer, ProfileError, Unsigned};
use arx_identity::{Certificate, KeyId};
use tokio::task::spawn_blocking;

use super::AuthorityError;
use crate::signer::Signer;
use crate::state::Root;

/// Issues the replicas' intermediates.
#[derive(Debug)]
pub(super) struct Parent {
    pub(super) issuer: Issuer,
    pub(super) key: Arc<dyn Signer>,
    /// The operator's intermediates, the signing one first; empty if the root signs.
    pub(super) above: Vec<Certificate>,
    /// What vouches for the root to whoever still has the one before alone.
    pub(super) cross: Option<Certificate>,
    pub(super) root: Certificate,
    pub(super) root_id: KeyId,
    /// Where the key is, in words.
    pub(super) custody: String,
    /// Whether the key may be out of reach while the state is not.
    pub(super) outside: bool,
    begins: SystemTime,
    ends: SystemTime,
}

impl Parent {
    /// What issues under `root`, by `key`, and is vouched for by `cross`.
    pub(super) fn new(
        root: &Root,
        key: Arc<dyn Signer>,
        cross: Option<&Certificate>,
    ) -> Result<Self, ProfileError> {
        // Both must be able to issue: the root's identifier names everything below it.
        let root_id = Issuer::new(&root.certificate)?.key_id();
        Ok(Self {
            issuer: Issuer::new(root.signer())?,
            key,
            above: root.above.clone(),
            cross: cross.cloned(),
            root: root.certificate.clone(),
            root_id,
            custody: root.key.to_string(),
            outside: root.key.is_outside(),
            begins: root.begins(),
            ends: root.ends(),
        })
    }

    /// The same, vouched for by another, or by nothing.
    pub(super) fn with_cross(&self, cross: Option<&Certificate>) -> Self {
        Self {
            issuer: self.issuer.clone(),
            key: Arc::clone(&self.key),
            above: self.above.clone(),
            cross: cross.cloned(),
            root: self.root.clone(),
            custody: self.custody.clone(),
            ..*self
        }
    }

    /// When the first of the certificates up to the root ends: nothing below lives longer.
    pub(super) fn ends(&self) -> SystemTime {
        self.ends
    }

    /// When all of them have begun.
    pub(super) fn begins(&self) -> SystemTime {
        self.begins
    }

    pub(super) async fn sign(&self, unsigned: Unsigned) -> Result<Certificate, AuthorityError> {
        complete(&*self.key, unsigned).await
    }
}

/// The finished certificate.
pub(super) async fn complete(
    key: &dyn Signer,
    unsigned: Unsigned,
) -> Result<Certificate, AuthorityError> {
    let signature = key.sign(unsigned.to_be_signed()).await?;
    Ok(unsigned.complete(&signature)?)
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AuthorityError> + Send + 'static,
) -> Result<T, AuthorityError> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|gone| Err(AuthorityError::CutOff(gone.to_string())))
}
