//! Reading a certificate (RFC 5280, 4.1), strictly: DER only, nothing left over at any
//! level, nothing twice. What is read here once is all that the rest of the crate asks
//! of a certificate.

use std::ops::Range;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{CertificateError, KeyId, Serial, name};
use crate::der::{self, NotDer, Reader};
use crate::id::SpiffeId;
use crate::key::PublicKey;

/// Most extensions that are looked at; ours have seven.
const MAX_EXTENSIONS: usize = 64;
/// VERSION 3 is encoded as 2.
const V3: &[u8] = &[2];

/// `id-ce`, under which RFC 5280 defines its extensions.
const ID_CE: [u8; 2] = [0x55, 0x1d];
const SUBJECT_KEY_ID: u8 = 0x0e;
const KEY_USAGE: u8 = 0x0f;
const SUBJECT_ALT_NAME: u8 = 0x11;
const BASIC_CONSTRAINTS: u8 = 0x13;
const AUTHORITY_KEY_ID: u8 = 0x23;
const NO_REV_AVAIL: u8 = 0x38;

/// keyCertSign (RFC 5280, 4.2.1.3), the first bit being the highest.
const KEY_CERT_SIGN: u16 = 0x8000 >> 5;

/// The URI and DNS names in the content of a list of extensions; none if it is damaged.
pub(crate) fn alternative_names(extensions: &[u8]) -> Vec<String> {
    Extensions::read(extensions)
        .map(|read| [read.uris, read.dns_names].concat())
        .unwrap_or_default()
}

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

/// What the extensions say.
#[derive(Default)]
pub(super) struct Extensions {
    pub(super) is_ca: bool,
    pub(super) path_len: Option<u32>,
    /// Whether keyUsage has keyCertSign; none if the extension is missing.
    pub(super) signs_certificates: Option<bool>,
    pub(super) uris: Vec<String>,
    pub(super) spiffe_id: Option<SpiffeId>,
    pub(super) dns_names: Vec<String>,
    pub(super) subject_key_id: Option<KeyId>,
    pub(super) authority_key_id: Option<KeyId>,
    pub(super) no_rev_avail: bool,
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

impl Extensions {
    fn read(list: &[u8]) -> Result<Self, CertificateError> {
        let mut list = Reader::new(list);
        let mut seen: Vec<&[u8]> = Vec::with_capacity(8);
        let mut read = Self::default();
        while !list.is_empty() {
            let mut extension = Reader::new(list.read(der::SEQUENCE)?);
            let oid = extension.read(der::OID)?;
            let broken = |_| CertificateError::Extension(der::dotted(oid));
            if seen.contains(&oid) || seen.len() == MAX_EXTENSIONS {
                return Err(broken(NotDer));
            }
            seen.push(oid);
            if extension.peek() == Some(der::BOOLEAN_TRUE[0]) {
                let (critical, _) = extension.element(der::BOOLEAN_TRUE[0]).map_err(broken)?;
                if critical != der::BOOLEAN_TRUE {
                    return Err(broken(NotDer));
                }
            }
            let value = extension.read(der::OCTET_STRING).map_err(broken)?;
            extension.end().map_err(broken)?;
            if let [first, second, id] = oid
                && [*first, *second] == ID_CE
            {
                read.value(*id, value).map_err(broken)?;
            }
        }
        if let [uri] = read.uris.as_slice() {
            read.spiffe_id = SpiffeId::parse(uri).ok();
        }
        Ok(read)
    }

    fn value(&mut self, id: u8, value: &[u8]) -> Result<(), NotDer> {
        let mut value = Reader::new(value);
        match id {
            SUBJECT_KEY_ID => {
                self.subject_key_id = Some(key_id(value.read(der::OCTET_STRING)?)?);
            }
            KEY_USAGE => {
                self.signs_certificates = Some(value.flags()? & KEY_CERT_SIGN != 0);
            }
            SUBJECT_ALT_NAME => self.names(value.read(der::SEQUENCE)?)?,
            BASIC_CONSTRAINTS => self.constraints(value.read(der::SEQUENCE)?)?,
            AUTHORITY_KEY_ID => self.authority(value.read(der::SEQUENCE)?)?,
            NO_REV_AVAIL => {
                self.no_rev_avail = true;
                value = Reader::new(&[]);
            }
            _ => value = Reader::new(&[]),
        }
        value.end()
    }

    fn constraints(&mut self, content: &[u8]) -> Result<(), NotDer> {
        let mut content = Reader::new(content);
        if content.peek() == Some(der::BOOLEAN_TRUE[0]) {
            // An encoded default (cA FALSE) is not DER, but rcgen writes it: the
            // profile names it, nothing misreads it.
            self.is_ca = match content.read(der::BOOLEAN_TRUE[0])? {
                [0xff] => true,
                [0x00] => false,
                _ => return Err(NotDer),
            };
        }
        if !content.is_empty() {
            let length = match content.read(der::INTEGER)? {
                [0] => 0,
                length @ ([1..0x80] | [1..0x80, _] | [0, 0x80..=0xff, ..]) if length.len() <= 3 => {
                    length
                        .iter()
                        .fold(0, |sum, byte| (sum << 8) | u32::from(*byte))
                }
                _ => return Err(NotDer),
            };
            self.path_len = Some(length);
        }
        content.end()
    }

    fn names(&mut self, content: &[u8]) -> Result<(), NotDer> {
        let mut names = Reader::new(content);
        if names.is_empty() {
            return Err(NotDer);
        }
        while !names.is_empty() {
            match names.any()? {
                (0x86, uri) => self.uris.push(printable(uri)?),
                (0x82, dns) => self.dns_names.push(printable(dns)?),
                (0xa0 | 0x81 | 0xa3 | 0xa4 | 0xa5 | 0x87 | 0x88, _) => {}
                _ => return Err(NotDer),
            }
        }
        Ok(())
    }

    fn authority(&mut self, content: &[u8]) -> Result<(), NotDer> {
        let mut content = Reader::new(content);
        if content.peek() == Some(0x80) {
            self.authority_key_id = Some(key_id(content.read(0x80)?)?);
        }
        // authorityCertIssuer and authorityCertSerialNumber: not used for anything.
        for tag in [0xa1, 0x82] {
            if content.peek() == Some(tag) {
                content.read(tag)?;
            }
        }
        content.end()
    }
}

fn key_id(octets: &[u8]) -> Result<KeyId, NotDer> {
    KeyId::from_slice(octets).ok_or(NotDer)
}

/// The characters that a URI or a DNS name may consist of at all: a control character
/// could deceive whoever reads a log.
fn printable(bytes: &[u8]) -> Result<String, NotDer> {
    if !bytes.iter().all(|byte| (0x20..0x7f).contains(byte)) {
        return Err(NotDer);
    }
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_| NotDer)
}
