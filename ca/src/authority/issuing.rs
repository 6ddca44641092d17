//! What signs leaves: a snapshot that a signing task takes once and keeps, while a newer one
//! may already have taken its place.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arx_identity::profile::{self, Issuer, Leaf, ProfileError};
use arx_identity::{Certificate, KeyError, KeyId, PrivateKey, Serial};
use bytes::Bytes;

/// How far the clock may go back before an intermediate counts as not valid yet: what it is
/// backdated by.
const BACKDATED: Duration = Duration::from_secs(3600);

/// A registered intermediate, its key, and the way up to the root.
#[derive(Debug)]
pub struct Issuing {
    pub(super) issuer: Issuer,
    pub(super) key: Arc<PrivateKey>,
    pub(super) chain: Vec<Certificate>,
    /// The same, encoded. Every answer has them.
    pub(super) encoded: Arc<[Bytes]>,
    pub(super) crossed: Option<Crossed>,
    pub(super) root: KeyId,
    pub(super) term: Term,
}

/// The chain with what vouches for its root.
#[derive(Debug)]
pub(super) struct Crossed {
    pub(super) certificate: Certificate,
    encoded: Arc<[Bytes]>,
}

/// From when to when an intermediate can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// When it was made; its notBefore is earlier.
    pub made: SystemTime,
    /// Its last instant.
    pub ends: SystemTime,
    /// The last instant of what stands above it.
    pub issuer_ends: SystemTime,
}

/// A leaf was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// It cannot be said, or what came out is not what was asked for.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The key did not sign.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl Issuing {
    /// The intermediate, ready to issue under.
    #[must_use]
    pub fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// The way up to the root: the intermediate, then the operator's own, if any; never the root.
    #[must_use]
    pub fn chain(&self) -> &[Certificate] {
        &self.chain
    }

    /// What is handed out after a leaf that ends at `ends`: the way up to the root, and, while
    /// the root before it retires, the cross-certificate by that. One that ended before the leaf
    /// would be of no use to whoever needs it.
    pub fn handed_out(&self, ends: SystemTime) -> impl Iterator<Item = &Certificate> {
        let crossed = self.crossed_until(ends).map(|it| &it.certificate);
        self.chain.iter().chain(crossed)
    }

    /// The same, each DER; shared by all answers.
    #[must_use]
    pub fn encoded(&self, ends: SystemTime) -> &Arc<[Bytes]> {
        let crossed = self.crossed_until(ends);
        crossed.map_or(&self.encoded, |it| &it.encoded)
    }

    fn crossed_until(&self, ends: SystemTime) -> Option<&Crossed> {
        let crossed = self.crossed.as_ref();
        crossed.filter(|it| it.certificate.not_after() >= ends)
    }

    /// What vouches for the root, if anything does.
    #[must_use]
    pub fn cross(&self) -> Option<&Certificate> {
        self.crossed.as_ref().map(|it| &it.certificate)
    }

    /// The same by which this is handed out besides, or nothing.
    #[must_use]
    pub(super) fn with_cross(&self, cross: Option<Certificate>) -> Self {
        let crossed = cross.map(|certificate| Crossed {
            encoded: (self.encoded.iter().cloned())
                .chain([Bytes::copy_from_slice(certificate.der())])
                .collect(),
            certificate,
        });
        Self {
            issuer: self.issuer.clone(),
            key: Arc::clone(&self.key),
            chain: self.chain.clone(),
            encoded: Arc::clone(&self.encoded),
            crossed,
            root: self.root,
            term: self.term,
        }
    }

    /// The root that all of it stands under.
    #[must_use]
    pub fn root(&self) -> KeyId {
        self.root
    }

    /// The intermediate.
    #[must_use]
    pub fn intermediate(&self) -> KeyId {
        self.issuer.key_id()
    }

    /// The key that has signed the intermediate: the root's, or the operator's below it.
    pub(super) fn signer(&self) -> Option<KeyId> {
        self.issuer.certificate().authority_key_id()
    }

    /// When nothing can be signed any more.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.term.ends
    }

    /// From when to when.
    #[must_use]
    pub fn term(&self) -> &Term {
        &self.term
    }
}

/// Signs a leaf, and releases it only if what was encoded keeps the profile and says what was
/// asked for. Runs inline: an elliptic curve signature takes less than a task's way to another
/// thread and back.
///
/// # Errors
/// [`SignError`]; the fault is the requester's for [`ProfileError::NoPath`],
/// [`ProfileError::DnsName`] and [`ProfileError::Validity`], and ours otherwise.
pub fn sign_leaf(issuing: &Issuing, leaf: &Leaf<'_>) -> Result<Certificate, SignError> {
    sign_numbered_leaf(issuing, leaf, Serial::random())
}

/// [`sign_leaf`], with this serial.
///
/// # Errors
/// As [`sign_leaf`].
pub fn sign_numbered_leaf(
    issuing: &Issuing,
    leaf: &Leaf<'_>,
    serial: Serial,
) -> Result<Certificate, SignError> {
    let unsigned = profile::numbered_leaf(&issuing.issuer, leaf, serial)?;
    let signature = issuing.key.sign(unsigned.to_be_signed())?;
    Ok(unsigned.complete(&signature)?)
}

impl SignError {
    /// The stable reason code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Profile(ProfileError::NoPath(_)) => "ARX-SIGN-NO-PATH",
            Self::Profile(ProfileError::DnsName(_)) => "ARX-SIGN-DNS-NAME",
            Self::Profile(ProfileError::Validity) => "ARX-SIGN-VALIDITY",
            Self::Profile(_) => "ARX-SIGN-PROFILE",
            Self::Key(_) => "ARX-SIGN-KEY",
        }
    }
}

/// When an intermediate should be renewed, if the longest leaf under it lives for
/// `longest_leaf`: at two thirds of the time in which it can still sign such a leaf in full.
/// Never, where a new one could not live longer.
#[must_use]
pub fn renewal_at(term: &Term, longest_leaf: Duration) -> Option<SystemTime> {
    if term.ends >= term.issuer_ends {
        return None;
    }
    let lifetime = term.ends.duration_since(term.made).unwrap_or_default();
    Some(term.made + lifetime.saturating_sub(longest_leaf) * 2 / 3)
}

/// Whether that time has come, or the clock has gone back so far that the certificate is not
/// valid yet.
#[must_use]
pub fn renewal_due(term: &Term, now: SystemTime, longest_leaf: Duration) -> bool {
    now + BACKDATED < term.made || renewal_at(term, longest_leaf).is_some_and(|at| now >= at)
}

/// When a serving certificate should be renewed: at half of its life.
#[must_use]
pub fn serving_at(not_before: SystemTime, not_after: SystemTime) -> SystemTime {
    not_before + not_after.duration_since(not_before).unwrap_or_default() / 2
}

/// Whether that time has come, or the clock has gone back so far that the certificate is not
/// valid yet.
#[must_use]
pub fn serving_due(not_before: SystemTime, not_after: SystemTime, now: SystemTime) -> bool {
    now < not_before || now >= serving_at(not_before, not_after)
}
