//! Whether a chain is to be believed: RFC 5280 path validation by webpki, and the
//! X509-SVID rules that webpki does not know.

use std::time::{SystemTime, UNIX_EPOCH};

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::bundle::TrustBundle;
use crate::certificate::{Certificate, KeyId, Serial};
use crate::chain::{self, CertChain, ChainError};
use crate::crypto;
use crate::id::{SpiffeId, TrustDomain};
use crate::profile::{Kind, Severity, violations};

/// A peer whose chain was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedPeer {
    /// Who it is.
    pub id: SpiffeId,
    /// Serial of its certificate.
    pub serial: Serial,
    /// When its certificate ends.
    pub not_after: SystemTime,
    /// Subject key identifiers of the authorities by which it was verified, from the
    /// leaf's issuer to the root.
    pub issuers: Vec<KeyId>,
}

/// Why a chain is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// It is not a chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The leaf is of another trust domain than the bundle: no bundle, no trust.
    #[error("{id} is not of the trust domain {trust_domain}, and there is no bundle for its own")]
    ForeignTrustDomain {
        /// Whose leaf it is.
        id: SpiffeId,
        /// Whose bundle it was held against.
        trust_domain: TrustDomain,
    },
    /// There is nothing to hold it against.
    #[error("there is no trust bundle to verify {0} against")]
    NoBundle(SpiffeId),
    /// A rule of the X509-SVID standard.
    #[error("the leaf of {id} is not an X509-SVID: {reason}")]
    NotSvid {
        /// Whose leaf it is.
        id: SpiffeId,
        /// Which rule it breaks.
        reason: String,
    },
    /// The validity has ended.
    #[error("the certificate of {0} has expired")]
    Expired(SpiffeId),
    /// The validity has not begun.
    #[error("the certificate of {0} is not valid yet; compare the clocks")]
    NotYetValid(SpiffeId),
    /// No root of the bundle signs it.
    #[error("no root in the bundle of {trust_domain} vouches for {id}")]
    UnknownIssuer {
        /// Whose leaf it is.
        id: SpiffeId,
        /// Whose bundle it was held against.
        trust_domain: TrustDomain,
    },
    /// Another rule of path validation.
    #[error("the chain of {id} does not verify: {reason}")]
    Path {
        /// Whose leaf it is.
        id: SpiffeId,
        /// What webpki says.
        reason: String,
    },
}

/// Verifies `chain` against `bundle` at `now`: path validation, and the X509-SVID
/// rules on the leaf (one URI SAN that is a SPIFFE id with a path and of the bundle's
/// own trust domain, not a CA, no keyCertSign or cRLSign).
///
/// # Errors
/// The first rule that does not hold.
pub fn verify(
    chain: &CertChain,
    bundle: &TrustBundle,
    now: SystemTime,
) -> Result<VerifiedPeer, VerifyError> {
    verify_certificates(chain.certificates(), chain.spiffe_id(), bundle, now)
}

/// Verifies what a peer presented in a handshake, DER, leaf first, against the first of
/// `bundles` that vouches for it. Unlike [`CertChain::new`] this does not verify each
/// link by itself first: path validation does that.
pub(crate) fn verify_presented<'a>(
    presented: impl IntoIterator<Item = &'a [u8]>,
    bundles: &[TrustBundle],
    now: SystemTime,
) -> Result<VerifiedPeer, VerifyError> {
    let (certificates, id) = chain::parse(presented)?;
    let mut refused = None;
    for bundle in bundles {
        match verify_certificates(&certificates, &id, bundle, now) {
            Ok(peer) => return Ok(peer),
            Err(error) => refused = Some(error),
        }
    }
    Err(refused.unwrap_or(VerifyError::NoBundle(id)))
}

fn verify_certificates(
    certificates: &[Certificate],
    id: &SpiffeId,
    bundle: &TrustBundle,
    now: SystemTime,
) -> Result<VerifiedPeer, VerifyError> {
    let leaf = &certificates[0];
    if id.trust_domain() != bundle.trust_domain() {
        return Err(VerifyError::ForeignTrustDomain {
            id: id.clone(),
            trust_domain: bundle.trust_domain().clone(),
        });
    }
    let broken = violations(leaf, Kind::Leaf);
    if let Some(violation) = broken
        .iter()
        .find(|violation| violation.severity == Severity::Error)
    {
        return Err(VerifyError::NotSvid {
            id: id.clone(),
            reason: violation.to_string(),
        });
    }
    let authorities =
        path(certificates, bundle, now).map_err(|error| explain(error, id, bundle))?;
    check_authorities(leaf, &authorities).map_err(|reason| VerifyError::Path {
        id: id.clone(),
        reason,
    })?;
    let issuers = authorities
        .into_iter()
        .filter_map(Certificate::subject_key_id)
        .collect();
    Ok(VerifiedPeer {
        id: id.clone(),
        serial: leaf.serial().clone(),
        not_after: leaf.not_after(),
        issuers,
    })
}

/// What webpki leaves out, having looked at cA and the path length: that each authority
/// may sign certificates (RFC 5280, 6.1.4 n), and is the one that the certificate below
/// it names.
fn check_authorities(leaf: &Certificate, authorities: &[&Certificate]) -> Result<(), String> {
    let mut below = leaf;
    for authority in authorities {
        if !authority.signs_certificates() {
            return Err(format!(
                "the authority {} has no keyCertSign, so it must not sign certificates",
                authority.subject()
            ));
        }
        if let (Some(named), Some(found)) = (below.authority_key_id(), authority.subject_key_id())
            && named != found
        {
            return Err(format!(
                "the authority {} has the key identifier {found}, not {named} as the \
                 certificate below it says",
                authority.subject()
            ));
        }
        below = authority;
    }
    Ok(())
}

/// The path's authorities, from the leaf's issuer up to the root.
fn path<'a>(
    presented: &'a [Certificate],
    bundle: &'a TrustBundle,
    now: SystemTime,
) -> Result<Vec<&'a Certificate>, webpki::Error> {
    let certificates: Vec<CertificateDer<'_>> = presented
        .iter()
        .map(|certificate| CertificateDer::from(certificate.der()))
        .collect();
    let roots: Vec<CertificateDer<'_>> = bundle
        .roots()
        .iter()
        .map(|root| CertificateDer::from(root.der()))
        .collect();
    let anchors: Vec<TrustAnchor<'_>> = roots
        .iter()
        .map(anchor_from_trusted_cert)
        .collect::<Result<_, _>>()?;
    let leaf = EndEntityCert::try_from(&certificates[0])?;
    let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let path = leaf.verify_for_usage(
        crypto::tls_provider().signature_verification_algorithms.all,
        &anchors,
        &certificates[1..],
        UnixTime::since_unix_epoch(since_epoch),
        KeyUsage::server_auth(),
        None,
        None,
    )?;
    let mut authorities = Vec::with_capacity(presented.len());
    for intermediate in path.intermediate_certificates() {
        let der = intermediate.der();
        authorities.extend(presented.iter().find(|known| known.der() == der.as_ref()));
    }
    let root = bundle.roots().iter().zip(&anchors).find(|(_, anchor)| {
        anchor.subject == path.anchor().subject
            && anchor.subject_public_key_info == path.anchor().subject_public_key_info
    });
    authorities.extend(root.map(|(root, _)| root));
    Ok(authorities)
}

fn explain(error: webpki::Error, id: &SpiffeId, bundle: &TrustBundle) -> VerifyError {
    match error {
        webpki::Error::CertExpired { .. } => VerifyError::Expired(id.clone()),
        webpki::Error::CertNotValidYet { .. } => VerifyError::NotYetValid(id.clone()),
        webpki::Error::UnknownIssuer => VerifyError::UnknownIssuer {
            id: id.clone(),
            trust_domain: bundle.trust_domain().clone(),
        },
        other => VerifyError::Path {
            id: id.clone(),
            reason: format!("{other:?}"),
        },
    }
}

#[cfg(test)]
mod tests;
