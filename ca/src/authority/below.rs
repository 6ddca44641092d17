//! Authorities below this one, certified by what signs the replicas' intermediates.

use std::time::{Duration, SystemTime};

use arx_identity::profile::{self, Validity};
use arx_identity::{Certificate, PublicKey};

use super::{Authority, AuthorityError};
use crate::state::RootState;

/// An authority that is to be certified.
#[derive(Clone, Debug)]
pub struct Below<'a> {
    /// Its key, of which it has shown that it holds it.
    pub key: &'a PublicKey,
    /// What it is called.
    pub name: &'a str,
    /// How long it may live; less, if what is above it ends before.
    pub ttl: Duration,
    /// How many authorities may stand below it.
    pub path_length: u8,
}

impl Authority {
    /// Certifies an authority under the root that is active: its certificate, and the chain up to
    /// and including the root. Nothing is recorded here.
    ///
    /// # Errors
    /// [`AuthorityError`] if what signs here has no room for it below, or does not sign; or if
    /// another root has become the active one meanwhile.
    pub async fn certify_below(
        &self,
        below: &Below<'_>,
        now: SystemTime,
    ) -> Result<Vec<Certificate>, AuthorityError> {
        self.follow_active().await?;
        let parent = self.parent();
        let whole = Validity::authority(now, below.ttl);
        let validity = Validity {
            not_before: whole.not_before.max(parent.begins()),
            not_after: whole.not_after.min(parent.ends()),
        };
        let unsigned = profile::intermediate(
            &parent.issuer,
            below.key,
            self.trust_domain(),
            below.name,
            validity,
            below.path_length,
        )?;
        let certificate = parent.sign(unsigned).await?;
        // What was signed under a root that has begun to leave would outlive it.
        let stored = self.stored().await?;
        let root = stored.root(parent.root_id).map(|root| &root.state);
        if root != Some(&RootState::Active) {
            return Err(AuthorityError::NotActive {
                root: parent.root.subject().to_owned(),
                state: root.map_or("not there", RootState::as_str).to_owned(),
            });
        }
        let mut chain = vec![certificate];
        chain.extend(parent.above.iter().cloned());
        chain.push(parent.root.clone());
        Ok(chain)
    }
}
