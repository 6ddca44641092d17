//! The trust domain's roots as this node holds them: what is known, what is durable, and
//! what is served. Nothing is served before it is durable, and nothing from the cache
//! before somebody vouches for it.

use crate::config::Names;
use crate::subscribers::Content;
use crate::trust::{TrustRefused, Update, judge};
use arx_identity::{Sequence, TrustBundle, TrustDomain};
use arx_proto::node::v1::{TrustKind, TrustPosition, TrustUpdate};
use arx_sds::{Snapshot, SnapshotError};
use std::sync::Arc;
use tokio::sync::watch;

/// The roots.
#[derive(Debug)]
pub(crate) struct Roots {
    trust_domain: TrustDomain,
    names: Names,
    /// The newest that was taken.
    held: Option<TrustBundle>,
    /// It is served when the sealing of this generation is on disk.
    unsealed: Option<u64>,
    /// The authority, or a valid leaf, has said that it is good.
    vouched: bool,
    served: Option<TrustBundle>,
    snapshot: Snapshot,
    /// What connections may be verified with: durable, served or not.
    durable: watch::Sender<Option<TrustBundle>>,
}

impl Roots {
    /// With what was in the cache; `vouched` if a valid leaf chains to it.
    pub(crate) fn new(
        trust_domain: TrustDomain,
        names: Names,
        cached: Option<TrustBundle>,
        vouched: bool,
    ) -> Self {
        let mut roots = Self {
            trust_domain,
            names,
            durable: watch::Sender::new(cached.clone()),
            held: cached,
            unsealed: None,
            vouched,
            served: None,
            snapshot: Snapshot::default(),
        };
        roots.serve();
        roots
    }

    /// For whoever connects to the authority.
    pub(crate) fn durable(&self) -> watch::Receiver<Option<TrustBundle>> {
        self.durable.subscribe()
    }

    /// The newest, sealed or not: what new certificates are verified with.
    pub(crate) fn newest(&self) -> Option<&TrustBundle> {
        self.held.as_ref()
    }

    pub(crate) fn served(&self) -> Option<&TrustBundle> {
        self.served.as_ref()
    }

    /// The secrets that every caller sees.
    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Judges what the authority sends; true if there is something to be sealed.
    pub(crate) fn offer(
        &mut self,
        update: &TrustUpdate,
        generation: u64,
    ) -> Result<bool, TrustRefused> {
        match judge(update, &self.trust_domain, self.held.as_ref())? {
            Update::New(bundle) => {
                self.held = Some(bundle);
                self.unsealed = Some(generation);
                self.vouched = true;
                Ok(true)
            }
            Update::Held => {
                self.vouched = true;
                Ok(false)
            }
            Update::OtherKind => Ok(false),
        }
    }

    /// The authority says where it stands; the same place with the same content vouches
    /// for what is held. Returns its position if that is behind ours.
    pub(crate) fn compare(&mut self, theirs: &[TrustPosition]) -> Option<Sequence> {
        let held = self.held.as_ref()?;
        let of_roots = theirs.iter().find(|p| p.kind() == TrustKind::X509Roots)?;
        let sequence = of_roots.sequence.as_ref()?;
        let sequence = Sequence {
            epoch: sequence.epoch,
            number: sequence.number,
        };
        if sequence == held.sequence() && *of_roots.sha256 == held.sha256() {
            self.vouched = true;
        }
        (sequence < held.sequence()).then_some(sequence)
    }

    /// Everything up to `generation` is on disk; the bundle that is durable now, if it was
    /// not before.
    pub(crate) fn sealed(&mut self, generation: u64) -> Option<TrustBundle> {
        self.unsealed.take_if(|of| *of <= generation)?;
        self.durable.send_replace(self.held.clone());
        self.held.clone()
    }

    /// Takes into service what may be; true if anything changed.
    pub(crate) fn serve(&mut self) -> bool {
        if !self.vouched || self.unsealed.is_some() || self.served == self.held {
            return false;
        }
        let Some(bundle) = &self.held else {
            return false;
        };
        match self.secrets(bundle) {
            Ok(snapshot) => {
                self.snapshot = snapshot;
                self.served = self.held.clone();
                true
            }
            Err(error) => {
                tracing::error!(code = "ARX-AGENT-SNAPSHOT", %error, "the roots can't be served");
                false
            }
        }
    }

    fn secrets(&self, bundle: &TrustBundle) -> Result<Snapshot, SnapshotError> {
        let plain = [self.names.trust.clone(), self.trust_domain.id()];
        Snapshot::builder()
            .trust(plain, bundle)
            .all([self.names.all.clone()], std::slice::from_ref(bundle))
            .build()
    }

    /// What all of these secrets are to a subscriber.
    pub(crate) fn content(bundle: &TrustBundle) -> Arc<Content> {
        Arc::new(Content::Trust {
            sequence: bundle.sequence(),
            sha256: bundle.sha256(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Authority, trust_domain};
    use crate::wire::position;
    use bytes::Bytes;

    fn update(bundle: &TrustBundle) -> TrustUpdate {
        let der = |root: &arx_identity::Certificate| Bytes::copy_from_slice(root.der());
        TrustUpdate {
            position: Some(position(bundle.sequence(), &bundle.sha256())),
            trust_domain: bundle.trust_domain().to_string(),
            roots: bundle.roots().iter().map(der).collect(),
        }
    }

    fn roots(cached: Option<TrustBundle>, vouched: bool) -> Roots {
        Roots::new(trust_domain(), Names::default(), cached, vouched)
    }

    #[test]
    fn roots_are_served_only_when_they_are_on_disk() -> Result<(), TrustRefused> {
        let bundle = Authority::new().bundle(1);
        let mut roots = roots(None, false);
        assert!(roots.offer(&update(&bundle), 4)?);
        assert!(!roots.serve() && roots.served().is_none());
        assert!(
            roots.sealed(3).is_none(),
            "an earlier sealing does not hold it"
        );
        assert!(roots.sealed(4).is_some());
        assert!(roots.serve());
        for name in ["ROOTCA", "spiffe://example.org", "ALL"] {
            assert!(roots.snapshot().get(name).is_some(), "{name}");
        }
        Ok(())
    }

    #[test]
    fn roots_from_the_cache_wait_for_somebody_who_vouches() -> Result<(), TrustRefused> {
        let bundle = Authority::new().bundle(3);
        let mut roots = roots(Some(bundle.clone()), false);
        assert!(roots.served().is_none());
        assert!(!roots.offer(&update(&bundle), 0)?, "the same again");
        assert!(roots.serve());

        let mut roots = self::roots(Some(bundle.clone()), false);
        let theirs = position(bundle.sequence(), &bundle.sha256());
        assert_eq!(roots.compare(&[theirs]), None);
        assert!(roots.serve());
        Ok(())
    }

    #[test]
    fn an_authority_that_is_behind_is_noticed_and_vouches_for_nothing() {
        let authority = Authority::new();
        let mut roots = roots(Some(authority.bundle(3)), false);
        let behind = authority.bundle(2);
        let theirs = position(behind.sequence(), &behind.sha256());
        assert_eq!(roots.compare(&[theirs]), Some(behind.sequence()));
        assert!(!roots.serve());
        assert!(roots.offer(&update(&behind), 0).is_err());
    }
}
