//! Reading a certificate (RFC 5280, 4.1), strictly: DER only, nothing left over at any
//! level, nothing twice. What is read here once is all that the rest of the crate asks
//! of a certificate.

use std::ops::Range;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::extensions::Extensions;
use super::{CertificateError, Serial, name};
use crate::der::{self, Reader};
use crate::key::PublicKey;

/// VERSION 3 is encoded as 2.
const V3: &[u8] = &[2];

/// What a certificate says.
pub(super) struct Facts {
    pub(super) der: Vec<u8>,
    /// Where in `der` the TBSCertificate lies.
    pub(super) tbs: Range<usize>,
    /// Where the content of the signature's AlgorithmIdentifier lies.
    pub(super) signature_algorithm: Range<usize>,
    /// Where the octets of the signature lie.
    pub(super) signature: Range<usize>,
    /// Where the issuer's Name lies, whole.
    pub(super) issuer: Range<usize>,
    /// Where the subject's Name lies, whole.
    pub(super) subject: Range<usize>,
    pub(super) issuer_text: OnceLock<String>,
    pub(super) subject_text: OnceLock<String>,
    pub(super) serial: Serial,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    pub(super) public_key: PublicKey,
    pub(super) extensions: Extensions,
}

impl Facts {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, CertificateError> {
        let mut whole = Reader::new(bytes);
        let certificate = whole.read(der::SEQUENCE)?;
        if !whole.is_empty() {
            return Err(CertificateError::TrailingBytes(whole.rest().len()));
        }
        let mut certificate = Reader::new(certificate);
        let (tbs, content) = certificate.element(der::SEQUENCE)?;
        let (outer_algorithm, signature_algorithm) = certificate.element(der::SEQUENCE)?;
        let signature = certificate.bit_string()?;
        certificate.end()?;

        let mut fields = Reader::new(content);
        version(&mut fields)?;
        let serial = serial(fields.read(der::INTEGER)?)?;
        let (inner_algorithm, _) = fields.element(der::SEQUENCE)?;
        if inner_algorithm != outer_algorithm {
            return Err(CertificateError::SignatureAlgorithm);
        }
        let (issuer, _) = fields.element(der::SEQUENCE)?;
        name::check(issuer)?;
        let mut validity = Reader::new(fields.read(der::SEQUENCE)?);
        let (not_before, not_after) = (validity.time()?, validity.time()?);
        validity.end()?;
        let (subject, _) = fields.element(der::SEQUENCE)?;
        name::check(subject)?;
        let (public_key, _) = fields.element(der::SEQUENCE)?;
        let public_key = PublicKey::from_spki_der(public_key)?;
        // The unique identifiers of version 2 may stand here; nobody has them, webpki
        // refuses them, and so do we.
        let extensions = if fields.is_empty() {
            Extensions::default()
        } else {
            let mut explicit = Reader::new(fields.read(der::EXPLICIT_3)?);
            let list = explicit.read(der::SEQUENCE)?;
            explicit.end()?;
            Extensions::read(list)?
        };
        fields.end()?;

        let place = |part: &[u8]| {
            let start = part.as_ptr() as usize - bytes.as_ptr() as usize;
            start..start + part.len()
        };
        Ok(Self {
            tbs: place(tbs),
            signature_algorithm: place(signature_algorithm),
            signature: place(signature),
            issuer: place(issuer),
            subject: place(subject),
            issuer_text: OnceLock::new(),
            subject_text: OnceLock::new(),
            serial,
            not_before: since_epoch(not_before),
            not_after: since_epoch(not_after),
            public_key,
            extensions,
            der: bytes.to_vec(),
        })
    }
}

fn version(fields: &mut Reader<'_>) -> Result<(), CertificateError> {
    if fields.peek() != Some(der::EXPLICIT_0) {
        return Err(CertificateError::Version);
    }
    let mut explicit = Reader::new(fields.read(der::EXPLICIT_0)?);
    let version = explicit.read(der::INTEGER)?;
    explicit.end()?;
    if version == V3 {
        Ok(())
    } else {
        Err(CertificateError::Version)
    }
}

/// The serial number in the content of an INTEGER.
fn serial(content: &[u8]) -> Result<Serial, CertificateError> {
    let minimal = match content {
        [] => false,
        [0, next, ..] => *next >= 0x80,
        [first, ..] => *first < 0x80,
    };
    Serial::from_bytes(content)
        .filter(|_| minimal)
        .ok_or(CertificateError::Serial)
}

fn since_epoch(unix: i64) -> SystemTime {
    // Before 1970 there were no certificates: such a time is "always".
    UNIX_EPOCH + Duration::from_secs(u64::try_from(unix).unwrap_or(0))
}
