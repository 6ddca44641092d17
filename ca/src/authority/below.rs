//! Authorities below this one, certified by what signs the replicas' intermediates.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arx_identity::profile::{self, Validity};
use arx_identity::{Certificate, KeyId, PublicKey};

use super::parent::Parent;
use super::{Authority, AuthorityError, root};
use crate::state::{Authorities, Registration, Root, RootState};

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
    /// The root that it is to stand under, which is active or to become it; none for the active one.
    pub root: Option<KeyId>,
}

impl Authority {
    /// Certifies an authority: its certificate, and the chain up to and including the root. It is
    /// registered under that root, as a replica is, and recorded nowhere.
    ///
    /// # Errors
    /// [`AuthorityError`] if what signs here has no room for it below, or does not sign; or if
    /// the root is neither active nor to become it.
    pub async fn certify_below(
        &self,
        below: &Below<'_>,
        now: SystemTime,
    ) -> Result<Vec<Certificate>, AuthorityError> {
        self.follow_active().await?;
        let parent = match below.root {
            Some(root) if root != self.root_key_id() => {
                let stored = self.stored().await?;
                let prepared = stored.root(root).filter(|root| signs(root));
                let prepared = prepared.ok_or_else(|| not_active(&stored, root))?;
                let key = root::key_of(prepared, &self.sources())?;
                Arc::new(Parent::new(prepared, key, None)?)
            }
            _ => self.parent(),
        };
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
        let (root, ends) = (parent.root_id, certificate.not_after());
        self.change(|authorities| {
            // What was signed under a root that has begun to leave would outlive it.
            if !authorities.root(root).is_some_and(signs) {
                return Err(not_active(authorities, root));
            }
            authorities.register(below.name, root, below.key.key_id(), ends);
            Ok(true)
        })
        .await?;
        let mut chain = vec![certificate];
        chain.extend(parent.above.iter().cloned());
        chain.push(parent.root.clone());
        Ok(chain)
    }
}

/// Whether something may be certified under it that signs when it is active.
fn signs(root: &Root) -> bool {
    matches!(root.state, RootState::Active | RootState::Prepared)
}

fn not_active(stored: &Authorities, root: KeyId) -> AuthorityError {
    let found = stored.root(root);
    AuthorityError::NotActive {
        root: found.map_or_else(
            || root.to_string(),
            |root| root.certificate.subject().to_owned(),
        ),
        state: found
            .map_or("not there", |root| root.state.as_str())
            .to_owned(),
    }
}

impl Authority {
    /// Goes by what an authority below says that it still has, until when, by root: its
    /// registration under a root that leaves goes as soon as it has nothing there, and comes
    /// back if it has again.
    ///
    /// # Errors
    /// [`AuthorityError`] if the state cannot be changed.
    pub(crate) async fn holds_below(
        &self,
        name: &str,
        held: &[(KeyId, SystemTime)],
        now: SystemTime,
    ) -> Result<(), AuthorityError> {
        let decide = |authorities: &mut Authorities| {
            let leaves = |root: KeyId| {
                let state = authorities.root(root).map(|root| &root.state);
                state == Some(&RootState::Retiring)
            };
            let gone = |it: &Registration| {
                it.replica == name
                    && leaves(it.root)
                    && !held.iter().any(|(root, _)| *root == it.root)
            };
            let gone: Vec<KeyId> = authorities
                .registrations
                .iter()
                .filter(|it| gone(it))
                .map(|it| it.root)
                .collect();
            let back: Vec<_> = held
                .iter()
                .filter(|(root, until)| {
                    let known = authorities.root(*root);
                    let counts = known.is_some_and(|root| root.state != RootState::Distrusted);
                    let mut all = authorities.registrations.iter();
                    let there = all.any(|it| it.replica == name && it.root == *root);
                    counts && !there && *until > now
                })
                .copied()
                .collect();
            let changed = !gone.is_empty() || !back.is_empty();
            authorities
                .registrations
                .retain(|it| it.replica != name || !gone.contains(&it.root));
            for (root, until) in back {
                let ends = authorities.root(root).map(Root::ends);
                let until = ends.map_or(until, |ends| until.min(ends));
                // Which of its intermediates it was counts for nobody.
                authorities.register(name, root, root, until);
            }
            changed
        };
        let mut stored = self.stored().await?;
        // It says the same again and again.
        if !decide(&mut stored) {
            return Ok(());
        }
        self.change(|authorities| Ok(decide(authorities))).await
    }
}
