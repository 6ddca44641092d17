//! A certificate chain as it is handed to a peer: leaf, then intermediates, no root.

use std::sync::Arc;

use crate::certificate::{Certificate, CertificateError, KeyId};
use crate::id::SpiffeId;

/// Longest chain that is looked at.
const MAX_CHAIN: usize = 8;

/// A chain that is not empty, leaf first, in which each certificate signs the one
/// before it, and whose leaf has exactly one URI SAN, a SPIFFE id with a path.
///
/// Says nothing of validity or trust: that is [`crate::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertChain {
    certificates: Arc<[Certificate]>,
    spiffe_id: SpiffeId,
}

/// Why certificates are not a chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// No certificate at all.
    #[error("the chain is empty")]
    Empty,
    /// More than eight certificates.
    #[error("the chain has {0} certificates, 8 are allowed")]
    TooLong(usize),
    /// Zero or several URI SANs, or one that is no SPIFFE id with a path.
    #[error("the leaf has {uris} URI SANs and needs exactly one, a SPIFFE id with a path")]
    NoIdentity {
        /// How many URI SANs the leaf has.
        uris: usize,
    },
    /// A certificate authority as the leaf.
    #[error("the leaf is a certificate authority; put the leaf first")]
    LeafIsCa,
    /// A certificate that does not sign the one before it.
    #[error("certificate {0} of the chain does not sign the one before it; order it leaf first")]
    Broken(usize),
    /// The last certificate is self-signed.
    #[error("the chain ends in a self-signed certificate; leave the root out")]
    HoldsRoot,
    /// One of the certificates is not accepted.
    #[error("certificate {position} of the chain: {source}")]
    Certificate {
        /// Position in the chain, the leaf being 0.
        position: usize,
        /// What is wrong with it.
        source: CertificateError,
    },
    /// The PEM text as a whole.
    #[error(transparent)]
    Pem(CertificateError),
}

impl CertChain {
    /// The chain of these certificates, leaf first.
    ///
    /// # Errors
    /// The first promise of [`CertChain`] that does not hold.
    pub fn new(certificates: Vec<Certificate>) -> Result<Self, ChainError> {
        let spiffe_id = identity(&certificates)?;
        for (position, pair) in certificates.windows(2).enumerate() {
            if !pair[1].is_ca() || !pair[0].is_signed_by(&pair[1]) {
                return Err(ChainError::Broken(position + 1));
            }
        }
        if let [_, .., last] = certificates.as_slice()
            && last.is_signed_by(last)
        {
            return Err(ChainError::HoldsRoot);
        }
        Ok(Self {
            certificates: certificates.into(),
            spiffe_id,
        })
    }

    /// The chain of these certificates, each DER, leaf first.
    ///
    /// # Errors
    /// As [`CertChain::new`], or if one of them is not a certificate.
    pub fn from_der_list<'a>(list: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, ChainError> {
        Self::new(certificates(list, None)?)
    }

    /// As [`CertChain::from_der_list`]. Where an issuer is the same as in `like`, the two
    /// chains share it: many chains of the same issuers cost little more than their leaves.
    ///
    /// # Errors
    /// As [`CertChain::from_der_list`].
    pub fn from_der_list_like<'a>(
        list: impl IntoIterator<Item = &'a [u8]>,
        like: Option<&Self>,
    ) -> Result<Self, ChainError> {
        Self::new(certificates(list, like)?)
    }

    /// The chain in a PEM text, leaf first.
    ///
    /// # Errors
    /// As [`CertChain::new`], or if the text is damaged.
    pub fn from_pem(text: &str) -> Result<Self, ChainError> {
        Self::new(Certificate::list_from_pem(text).map_err(ChainError::Pem)?)
    }

    /// The certificate of the identity itself.
    #[must_use]
    pub fn leaf(&self) -> &Certificate {
        &self.certificates[0]
    }

    /// All certificates, leaf first.
    #[must_use]
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// Key identifiers of the authorities above the leaf, from its issuer upwards, as the
    /// certificates name them. Where a cross-certificate ends the chain, the root comes before
    /// the last: look for the first that is one.
    pub fn authorities(&self) -> impl Iterator<Item = KeyId> + '_ {
        let all = self.certificates.iter();
        all.filter_map(Certificate::authority_key_id)
    }

    /// Whose chain it is.
    #[must_use]
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.spiffe_id
    }

    /// All certificates, PEM, leaf first.
    #[must_use]
    pub fn pem(&self) -> String {
        self.certificates.iter().map(Certificate::pem).collect()
    }
}

/// The certificates of what a peer presented and whose they claim to be. The links
/// between them are not verified.
pub(crate) fn parse<'a>(
    list: impl IntoIterator<Item = &'a [u8]>,
) -> Result<(Vec<Certificate>, SpiffeId), ChainError> {
    let certificates = certificates(list, None)?;
    let spiffe_id = identity(&certificates)?;
    Ok((certificates, spiffe_id))
}

fn certificates<'a>(
    list: impl IntoIterator<Item = &'a [u8]>,
    like: Option<&CertChain>,
) -> Result<Vec<Certificate>, ChainError> {
    let issuers = like.map_or(&[][..], |like| &like.certificates[1..]);
    list.into_iter()
        .take(MAX_CHAIN + 1)
        .enumerate()
        .map(|(position, der)| {
            if let Some(same) = issuers.iter().find(|issuer| issuer.der() == der) {
                return Ok(same.clone());
            }
            Certificate::from_der(der)
                .map_err(|source| ChainError::Certificate { position, source })
        })
        .collect()
}

/// Whose certificates these are, leaf first.
fn identity(certificates: &[Certificate]) -> Result<SpiffeId, ChainError> {
    let leaf = certificates.first().ok_or(ChainError::Empty)?;
    if certificates.len() > MAX_CHAIN {
        return Err(ChainError::TooLong(certificates.len()));
    }
    if leaf.is_ca() {
        return Err(ChainError::LeafIsCa);
    }
    leaf.spiffe_id()
        .filter(|id| !id.path().is_empty())
        .cloned()
        .ok_or(ChainError::NoIdentity {
            uris: leaf.uris().len(),
        })
}
