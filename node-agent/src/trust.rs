//! Whether an update of the trust domain's roots may be taken: pure decisions. Nobody
//! ever goes back, and nobody takes another content for a position that it knows.

use arx_identity::{
    BundleError, Certificate, CertificateError, KeyId, Sequence, Svid, TrustBundle, TrustDomain,
    verify,
};
use arx_proto::node::v1::{TrustKind, TrustUpdate};
use std::time::SystemTime;

/// Why an update is refused. The authority is at fault, or somebody plays it.
#[derive(Debug, thiserror::Error)]
pub enum TrustRefused {
    /// Somebody else's roots.
    #[error("the update is of the trust domain {0:?}")]
    OtherTrustDomain(String),
    /// A position that was passed already.
    #[error("the update goes back from {held} to {offered}")]
    Lower {
        /// What is held.
        held: Sequence,
        /// What was offered.
        offered: Sequence,
    },
    /// Two contents for one position.
    #[error("the update has another content for {0} than the one that is held")]
    Forked(Sequence),
    /// The update contradicts itself or lacks something.
    #[error("the update is damaged: {0}")]
    Damaged(&'static str),
    /// A root that is none.
    #[error("the update holds a damaged root: {0}")]
    Root(#[from] CertificateError),
    /// Roots that make no bundle.
    #[error("the update's roots are no bundle: {0}")]
    Bundle(#[from] BundleError),
}

impl TrustRefused {
    /// The stable name of the refusal.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::OtherTrustDomain(_) => "ARX-AGENT-TRUST-DOMAIN",
            Self::Lower { .. } => "ARX-AGENT-TRUST-LOWER",
            Self::Forked(_) => "ARX-AGENT-TRUST-FORKED",
            Self::Damaged(_) | Self::Root(_) | Self::Bundle(_) => "ARX-AGENT-TRUST-DAMAGED",
        }
    }
}

/// What an update means to whoever holds something already.
#[derive(Debug)]
pub(crate) enum Update {
    /// The very same that is held.
    Held,
    /// To be stored durably, then served.
    New(TrustBundle),
    /// Keys for tokens, or a kind that this agent does not know.
    OtherKind,
}

/// Judges an update against what is held.
///
/// # Errors
/// If it must not be taken.
pub(crate) fn judge(
    update: &TrustUpdate,
    trust_domain: &TrustDomain,
    held: Option<&TrustBundle>,
) -> Result<Update, TrustRefused> {
    let position = update.position.as_ref();
    let position = position.ok_or(TrustRefused::Damaged("no position"))?;
    if position.kind() != TrustKind::X509Roots {
        return Ok(Update::OtherKind);
    }
    if update.trust_domain != trust_domain.as_str() {
        return Err(TrustRefused::OtherTrustDomain(
            update.trust_domain.chars().take(256).collect(),
        ));
    }
    let sequence = position.sequence.as_ref();
    let sequence = sequence.ok_or(TrustRefused::Damaged("no sequence"))?;
    let offered = Sequence {
        epoch: sequence.epoch,
        number: sequence.number,
    };
    let roots: Result<Vec<_>, _> = update
        .roots
        .iter()
        .map(|root| Certificate::from_der(root))
        .collect();
    let bundle = TrustBundle::new(trust_domain.clone(), offered, roots?)?;
    if bundle.sha256() != *position.sha256 {
        return Err(TrustRefused::Damaged("the hash is of other roots"));
    }
    match held {
        Some(held) if offered < held.sequence() => Err(TrustRefused::Lower {
            held: held.sequence(),
            offered,
        }),
        Some(held) if offered == held.sequence() => {
            if held.sha256() == bundle.sha256() {
                Ok(Update::Held)
            } else {
                Err(TrustRefused::Forked(offered))
            }
        }
        _ => Ok(Update::New(bundle)),
    }
}

/// Whether roots from the cache may be served before the authority has been heard: only
/// while a cached leaf is valid and chains to them.
pub(crate) fn cached_bundle_is_good<'a>(
    bundle: &TrustBundle,
    leaves: impl IntoIterator<Item = &'a Svid>,
    now: SystemTime,
) -> bool {
    let mut leaves = leaves.into_iter();
    leaves.any(|svid| verify(svid.chain(), bundle, now).is_ok())
}

/// The root that a certificate stands under, if it was counted under one that has only
/// cross-certified that: which of the two it is can be told as soon as `bundle` has both.
pub(crate) fn nearer_root(svid: &Svid, counted: KeyId, bundle: &TrustBundle) -> Option<KeyId> {
    let mut below = svid.chain().authorities().take_while(|id| *id != counted);
    below.find(|id| bundle.root(id).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Authority, noon, trust_domain};
    use crate::wire::position;
    use bytes::Bytes;
    use std::time::Duration;

    fn update(bundle: &TrustBundle) -> TrustUpdate {
        let der = |root: &Certificate| Bytes::copy_from_slice(root.der());
        TrustUpdate {
            position: Some(position(bundle.sequence(), &bundle.sha256())),
            trust_domain: bundle.trust_domain().to_string(),
            roots: bundle.roots().iter().map(der).collect(),
        }
    }

    #[test]
    fn a_higher_position_is_taken_and_the_same_one_is_known() -> Result<(), TrustRefused> {
        let authority = Authority::new();
        let (one, two) = (authority.bundle(1), authority.bundle(2));
        let first = judge(&update(&one), &trust_domain(), None)?;
        assert!(matches!(first, Update::New(new) if new.sha256() == one.sha256()));
        let next = judge(&update(&two), &trust_domain(), Some(&one))?;
        assert!(matches!(next, Update::New(new) if new.sequence().number == 2));
        let again = judge(&update(&two), &trust_domain(), Some(&two))?;
        assert!(matches!(again, Update::Held));
        Ok(())
    }

    #[test]
    fn a_lower_position_is_refused() {
        let authority = Authority::new();
        let refused = judge(
            &update(&authority.bundle(1)),
            &trust_domain(),
            Some(&authority.bundle(2)),
        );
        assert!(matches!(refused, Err(TrustRefused::Lower { .. })));
    }

    #[test]
    fn another_content_at_the_same_position_is_refused() {
        let held = Authority::new().bundle(1);
        let refused = judge(
            &update(&Authority::new().bundle(1)),
            &trust_domain(),
            Some(&held),
        );
        assert!(matches!(refused, Err(TrustRefused::Forked(_))));
    }

    #[test]
    fn an_update_that_contradicts_itself_is_refused() {
        let bundle = Authority::new().bundle(1);
        let judge = |change: fn(&mut TrustUpdate)| {
            let mut update = update(&bundle);
            change(&mut update);
            judge(&update, &trust_domain(), None)
        };
        assert!(judge(|u| u.position = None).is_err());
        assert!(judge(|u| u.roots.clear()).is_err());
        assert!(judge(|u| u.roots[0] = Bytes::from_static(b"x")).is_err());
        assert!(judge(|u| u.trust_domain = "other.org".into()).is_err());
        assert!(
            judge(|u| u.roots = vec![Bytes::copy_from_slice(testing::root().der())]).is_err(),
            "the hash is of the other root"
        );
        assert!(
            judge(|u| {
                if let Some(position) = &mut u.position {
                    position.sequence = None;
                }
            })
            .is_err()
        );
    }

    #[test]
    fn other_kinds_are_passed_over() -> Result<(), TrustRefused> {
        let mut update = update(&Authority::new().bundle(1));
        if let Some(position) = &mut update.position {
            position.set_kind(TrustKind::JwtKeys);
        }
        assert!(matches!(
            judge(&update, &trust_domain(), None)?,
            Update::OtherKind
        ));
        Ok(())
    }

    #[test]
    fn a_cached_bundle_is_good_only_with_a_valid_leaf_under_it() {
        let (ours, other) = (Authority::new(), Authority::new());
        let hour = Duration::from_secs(3600);
        let leaf = ours.svid("/a", noon(), hour);
        let good = |authority: &Authority, leaves: &[&Svid], now| {
            cached_bundle_is_good(&authority.bundle(1), leaves.iter().copied(), now)
        };
        assert!(good(&ours, &[&leaf], noon()));
        assert!(!good(&ours, &[&leaf], noon() + 2 * hour));
        assert!(!good(&other, &[&leaf], noon()));
        assert!(!good(&ours, &[], noon()));
    }
}
