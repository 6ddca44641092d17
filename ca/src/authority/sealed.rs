//! The intermediate that outlives its process: kept, sealed, where the key above it may be out
//! of reach, so that a restart meanwhile goes on under it until it ends.

use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use arx_identity::profile::Issuer;
use arx_identity::{Certificate, PrivateKey};
use bytes::Bytes;
use serde_json::Map;

use super::parent::Parent;
use super::{Authority, AuthorityError, Issuing, Prepared, Term, renewal_due};
use crate::state::{
    Authorities, Intermediate, Pkcs8, Replica, Root, SealedIntermediate, State, StateError,
};

/// What was kept by the process before this one, in order.
#[derive(Debug)]
pub(super) struct Kept {
    issuing: Arc<Issuing>,
    made: SystemTime,
}

impl Kept {
    /// What `replica` has kept, if it can still be issued under. What cannot is erased.
    pub(super) async fn find(
        state: &State,
        replica: &Replica,
        now: SystemTime,
    ) -> Result<Option<Self>, StateError> {
        let sealed = match state.sealed_intermediate(replica).await {
            Ok(Some(sealed)) => sealed,
            Ok(None) => return Ok(None),
            Err(error) if error.passes() => return Err(error),
            Err(error) => {
                tracing::warn!(
                    code = error.code(),
                    "the sealed intermediate cannot be used, and is erased: {error}"
                );
                state.erase_sealed(replica).await?;
                return Ok(None);
            }
        };
        let stored = state.authorities().await?.map(|stored| stored.value);
        let active = stored.as_ref().and_then(Authorities::active);
        let usable = match active {
            Some(root) => usable(&sealed, root, now),
            None => Err("no root is active"),
        };
        match usable {
            Ok(issuing) => Ok(Some(Self {
                issuing: Arc::new(issuing),
                made: sealed.made,
            })),
            Err(reason) => {
                tracing::info!(reason, "the sealed intermediate is erased");
                state.erase_sealed(replica).await?;
                Ok(None)
            }
        }
    }

    /// When it ends.
    pub(super) fn not_after(&self) -> SystemTime {
        self.issuing.not_after()
    }
}

/// What is sealed, ready to issue under, or why not.
fn usable(
    sealed: &SealedIntermediate,
    root: &Root,
    now: SystemTime,
) -> Result<Issuing, &'static str> {
    if !root.key.is_outside() {
        return Err("the root's key is in the state store");
    }
    if Some(sealed.root) != root.key_id() {
        return Err("another root is active");
    }
    if sealed.certificate().not_after() <= now {
        return Err("it has ended");
    }
    let mut issuers = sealed.chain[1..].iter().chain([&root.certificate]);
    let chained = sealed.chain.iter().all(|certificate| {
        issuers
            .next()
            .is_some_and(|issuer| certificate.is_signed_by(issuer))
    });
    if !chained {
        return Err("it does not chain to the root");
    }
    let key = sealed.key.key().map_err(|_| "its key is damaged")?;
    if key.public_key() != sealed.certificate().public_key() {
        return Err("its key is another one");
    }
    let above = sealed.chain[1..].iter().chain([&root.certificate]);
    let issuer_ends = above.map(Certificate::not_after).min();
    let issuer_ends = issuer_ends.expect("the root is one of them");
    issuing(
        sealed.chain.clone(),
        key.into(),
        sealed.root,
        sealed.made,
        issuer_ends,
    )
    .map_err(|_| "it cannot issue")
}

/// What signs leaves by the first of `chain`, whose key this is.
pub(super) fn issuing(
    chain: Vec<Certificate>,
    key: Arc<PrivateKey>,
    root: arx_identity::KeyId,
    made: SystemTime,
    issuer_ends: SystemTime,
) -> Result<Issuing, arx_identity::profile::ProfileError> {
    let issuer = Issuer::new(&chain[0])?;
    let encoded = chain.iter().map(|it| Bytes::copy_from_slice(it.der()));
    Ok(Issuing {
        term: Term {
            made,
            ends: issuer.not_after(),
            issuer_ends,
        },
        encoded: encoded.collect(),
        crossed: None,
        issuer,
        key,
        chain,
        root,
    })
}

impl Authority {
    /// What a process begins to issue under: what the one before has kept, unless that is due
    /// for renewal and the key above it can be reached; otherwise a new intermediate. As
    /// [`Authority::prepare`], it signs only after [`Authority::install`].
    ///
    /// # Errors
    /// As [`Authority::prepare`].
    pub async fn first(&self, now: SystemTime) -> Result<Prepared, AuthorityError> {
        let kept = self
            .kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(kept) = kept else {
            return self.prepare(now).await;
        };
        if renewal_due(kept.issuing.term(), now, self.longest_leaf()) {
            match self.prepare(now).await {
                Err(AuthorityError::Signer(error)) => tracing::warn!(
                    code = error.code(),
                    until = arx_daemon::clock::rfc3339(kept.not_after()),
                    "going on under the intermediate of before, because no new one is signed: {error}"
                ),
                prepared => return prepared,
            }
        }
        self.go_on(kept).await
    }

    /// Registers once more what was kept: the process before may have died on the way there.
    async fn go_on(&self, kept: Kept) -> Result<Prepared, AuthorityError> {
        let registered = Intermediate {
            certificate: kept.issuing.chain[0].clone(),
            root: kept.issuing.root,
            replica: self.replica.name().to_owned(),
            registered: kept.made,
            extra: Map::new(),
        };
        self.register(&registered, kept.issuing.intermediate())
            .await?;
        let issuing = kept.issuing.with_cross(self.parent().cross.clone());
        Ok(Prepared {
            registered,
            issuing: Arc::new(issuing),
        })
    }

    /// Keeps an intermediate for the next process, if the key above it may be out of reach
    /// then, and forgets the one before in any case. Before it is registered, so that what is
    /// registered last can always be gone on with.
    pub(super) async fn keep_sealed(
        &self,
        parent: &Parent,
        chain: &[Certificate],
        key: &PrivateKey,
        now: SystemTime,
    ) -> Result<(), AuthorityError> {
        if !parent.outside {
            return Ok(self.state.erase_sealed(&self.replica).await?);
        }
        let make = || SealedIntermediate {
            chain: chain.to_vec(),
            root: parent.root_id,
            key: Pkcs8::of(key),
            made: now,
            extra: Map::new(),
        };
        Ok(self.state.seal_intermediate(&self.replica, make).await?)
    }

    /// Erases what was kept once it has ended. Not being able to is tried again.
    pub(super) async fn erase_ended(&self, now: SystemTime) {
        let over = |issuing: Arc<Issuing>| issuing.not_after() <= now;
        if self.issuing().is_some_and(over)
            && let Err(error) = self.state.erase_sealed(&self.replica).await
        {
            tracing::warn!(
                code = error.code(),
                "the sealed intermediate has ended, and cannot be erased yet: {error}"
            );
        }
    }
}
