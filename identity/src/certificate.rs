//! One X.509 certificate, parsed once, with the facts that Arx asks of it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::crypto;
use crate::der::{self, Reader};
use crate::id::SpiffeId;
use crate::key::PublicKey;

/// Largest certificate that is looked at, in bytes.
const MAX_CERTIFICATE: usize = 64 * 1024;

/// A serial number: 1 to 20 octets, positive, kept without leading zeros (RFC 5280,
/// 4.1.2.2). Displayed and parsed as lower-case hex.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Box<[u8]>);

impl Serial {
    /// A new serial of 127 random bits, positive in 16 octets.
    #[must_use]
    pub fn random() -> Self {
        loop {
            let mut bytes = crypto::random::<16>();
            bytes[0] &= 0x7f;
            if bytes[0] != 0 {
                return Self(bytes.into());
            }
        }
    }

    /// The serial with this value, big-endian; leading zeros are dropped.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let first = bytes.iter().position(|byte| *byte != 0)?;
        let bytes = &bytes[first..];
        let octets = bytes.len() + usize::from(bytes[0] >= 0x80);
        (octets <= 20).then(|| Self(bytes.into()))
    }

    /// The value, big-endian, without leading zeros.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(f, &self.0)
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

impl FromStr for Serial {
    type Err = CertificateError;

    /// Hex in either case; colons between octets and leading zeros are allowed, as
    /// other tools print them.
    fn from_str(text: &str) -> Result<Self, CertificateError> {
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        let digits = if digits.len() % 2 == 1 {
            format!("0{digits}")
        } else {
            digits
        };
        if digits.is_empty() || digits.len() > 80 || !digits.bytes().all(|c| c.is_ascii_hexdigit())
        {
            return Err(CertificateError::Serial);
        }
        let bytes: Option<Vec<u8>> = (0..digits.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok())
            .collect();
        bytes
            .and_then(|bytes| Self::from_bytes(&bytes))
            .ok_or(CertificateError::Serial)
    }
}

/// A subject or authority key identifier: 1 to 32 octets (RFC 5280, 4.2.1.1 and
/// 4.2.1.2). Ours have 20. Displayed as lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId {
    bytes: [u8; 32],
    length: u8,
}

impl KeyId {
    /// The identifier with these octets, if there are 1 to 32 of them.
    #[must_use]
    pub fn from_slice(octets: &[u8]) -> Option<Self> {
        if octets.is_empty() || octets.len() > 32 {
            return None;
        }
        let mut bytes = [0; 32];
        bytes[..octets.len()].copy_from_slice(octets);
        Some(Self {
            bytes,
            length: octets.len() as u8,
        })
    }

    /// The octets.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(f, self.as_bytes())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

fn hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Why bytes are not a certificate that is accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// More than 64 KiB.
    #[error("the certificate has {0} bytes, 65536 are allowed")]
    TooLong(usize),
    /// Not one X.509 v3 certificate in DER.
    #[error("not an X.509 certificate in DER")]
    NotDer,
    /// Bytes after the certificate.
    #[error("{0} bytes follow the certificate")]
    TrailingBytes(usize),
    /// The inner and the outer signature algorithm differ (RFC 5280, 4.1.1.2).
    #[error("the certificate names two different signature algorithms")]
    SignatureAlgorithm,
    /// Zero, negative, or more than 20 octets.
    #[error("the serial number is not a positive number of at most 20 octets")]
    Serial,
    /// The public key is not accepted.
    #[error("the certificate's key: {0}")]
    Key(#[from] crate::key::KeyError),
    /// An extension that does not parse, or stands twice.
    #[error("the extension {0} does not parse or stands twice")]
    Extension(String),
    /// A PEM text without certificates.
    #[error("no certificate found in the PEM text; it needs CERTIFICATE blocks")]
    NoPem,
    /// A PEM text that breaks off or has bad base64.
    #[error("the PEM text is damaged: {0}")]
    Pem(String),
}

/// One certificate. Clones share it.
#[derive(Clone)]
pub struct Certificate(Arc<Facts>);

struct Facts {
    der: Vec<u8>,
    /// Where the TBSCertificate lies in `der`.
    tbs: std::ops::Range<usize>,
    /// Content of the signature's AlgorithmIdentifier.
    signature_algorithm: Vec<u8>,
    signature: Vec<u8>,
    serial: Serial,
    not_before: SystemTime,
    not_after: SystemTime,
    subject: Vec<u8>,
    issuer: Vec<u8>,
    subject_text: String,
    issuer_text: String,
    public_key: PublicKey,
    is_ca: bool,
    uris: Vec<String>,
    spiffe_id: Option<SpiffeId>,
    dns_names: Vec<String>,
    subject_key_id: Option<KeyId>,
    authority_key_id: Option<KeyId>,
}

impl Certificate {
    /// The certificate in these bytes, which must be nothing else.
    ///
    /// # Errors
    /// If it does not parse, bytes are left over, an extension stands twice, or its key
    /// is of a kind that is not accepted.
    pub fn from_der(bytes: &[u8]) -> Result<Self, CertificateError> {
        if bytes.len() > MAX_CERTIFICATE {
            return Err(CertificateError::TooLong(bytes.len()));
        }
        let (rest, parsed) =
            X509Certificate::from_der(bytes).map_err(|_| CertificateError::NotDer)?;
        if !rest.is_empty() {
            return Err(CertificateError::TrailingBytes(rest.len()));
        }
        let (tbs, signature_algorithm, signature) =
            outer(bytes).map_err(|_| CertificateError::NotDer)?;
        if parsed.signature_algorithm != parsed.tbs_certificate.signature {
            return Err(CertificateError::SignatureAlgorithm);
        }
        let raw_serial = parsed.raw_serial();
        if raw_serial.first().is_none_or(|high| *high >= 0x80) {
            return Err(CertificateError::Serial);
        }
        let mut facts = Facts {
            der: bytes.to_vec(),
            tbs,
            signature_algorithm: signature_algorithm.to_vec(),
            signature: signature.to_vec(),
            serial: Serial::from_bytes(raw_serial).ok_or(CertificateError::Serial)?,
            not_before: time(parsed.validity().not_before.timestamp()),
            not_after: time(parsed.validity().not_after.timestamp()),
            subject: parsed.subject().as_raw().to_vec(),
            issuer: parsed.issuer().as_raw().to_vec(),
            subject_text: parsed.subject().to_string(),
            issuer_text: parsed.issuer().to_string(),
            public_key: PublicKey::from_spki_der(parsed.public_key().raw)?,
            is_ca: false,
            uris: Vec::new(),
            spiffe_id: None,
            dns_names: Vec::new(),
            subject_key_id: None,
            authority_key_id: None,
        };
        facts.read_extensions(&parsed)?;
        Ok(Self(Arc::new(facts)))
    }

    /// All certificates of a PEM text, in order. Other blocks and text are passed over.
    ///
    /// # Errors
    /// If there is none, or one is not accepted.
    pub fn list_from_pem(text: &str) -> Result<Vec<Self>, CertificateError> {
        let list: Vec<Self> = CertificateDer::pem_slice_iter(text.as_bytes())
            .map(|item| match item {
                Ok(der) => Self::from_der(&der),
                Err(error) => Err(CertificateError::Pem(error.to_string())),
            })
            .collect::<Result<_, _>>()?;
        if list.is_empty() {
            Err(CertificateError::NoPem)
        } else {
            Ok(list)
        }
    }

    /// The certificate, DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.0.der
    }

    /// The certificate, PEM (RFC 7468), ending in a newline.
    #[must_use]
    pub fn pem(&self) -> String {
        pem("CERTIFICATE", &self.0.der)
    }

    /// Serial number.
    #[must_use]
    pub fn serial(&self) -> &Serial {
        &self.0.serial
    }

    /// First instant of the validity.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.0.not_before
    }

    /// Last instant of the validity.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.0.not_after
    }

    /// The subject in the form of RFC 4514, for people.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.0.subject_text
    }

    /// The issuer in the form of RFC 4514, for people.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.0.issuer_text
    }

    /// The subject's Name, DER.
    pub(crate) fn subject_der(&self) -> &[u8] {
        &self.0.subject
    }

    /// The issuer's Name, DER.
    pub(crate) fn issuer_der(&self) -> &[u8] {
        &self.0.issuer
    }

    /// Whether basicConstraints says cA (RFC 5280, 4.2.1.9).
    #[must_use]
    pub fn is_ca(&self) -> bool {
        self.0.is_ca
    }

    /// The SPIFFE id, if there is exactly one URI SAN and it is one.
    #[must_use]
    pub fn spiffe_id(&self) -> Option<&SpiffeId> {
        self.0.spiffe_id.as_ref()
    }

    /// All URI SANs, as they stand.
    #[must_use]
    pub fn uris(&self) -> &[String] {
        &self.0.uris
    }

    /// All DNS SANs, as they stand.
    #[must_use]
    pub fn dns_names(&self) -> &[String] {
        &self.0.dns_names
    }

    /// The subject's public key.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.0.public_key
    }

    /// subjectKeyIdentifier, if present.
    #[must_use]
    pub fn subject_key_id(&self) -> Option<KeyId> {
        self.0.subject_key_id
    }

    /// keyIdentifier of the authorityKeyIdentifier, if present.
    #[must_use]
    pub fn authority_key_id(&self) -> Option<KeyId> {
        self.0.authority_key_id
    }

    /// SHA-256 of the DER.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        crypto::sha256(&self.0.der)
    }

    /// Whether the names fit and the signature is by `issuer`'s key. Says nothing of
    /// validity, constraints or trust.
    #[must_use]
    pub fn is_signed_by(&self, issuer: &Certificate) -> bool {
        self.0.issuer == issuer.0.subject && self.is_signed_by_key(&issuer.0.public_key)
    }

    pub(crate) fn is_signed_by_key(&self, key: &PublicKey) -> bool {
        key.verify(
            &self.0.signature_algorithm,
            &self.0.der[self.0.tbs.clone()],
            &self.0.signature,
        )
    }
}

impl Facts {
    fn read_extensions(&mut self, parsed: &X509Certificate<'_>) -> Result<(), CertificateError> {
        let mut seen = Vec::new();
        for extension in parsed.extensions() {
            let broken = || CertificateError::Extension(extension.oid.to_id_string());
            if seen.contains(&&extension.oid) {
                return Err(broken());
            }
            seen.push(&extension.oid);
            match extension.parsed_extension() {
                ParsedExtension::ParseError { .. } => return Err(broken()),
                ParsedExtension::BasicConstraints(constraints) => self.is_ca = constraints.ca,
                ParsedExtension::SubjectKeyIdentifier(id) => {
                    self.subject_key_id = Some(KeyId::from_slice(id.0).ok_or_else(broken)?);
                }
                ParsedExtension::AuthorityKeyIdentifier(authority) => {
                    if let Some(id) = &authority.key_identifier {
                        self.authority_key_id = Some(KeyId::from_slice(id.0).ok_or_else(broken)?);
                    }
                }
                ParsedExtension::SubjectAlternativeName(names) => {
                    for name in &names.general_names {
                        match name {
                            GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
                            GeneralName::DNSName(dns) => self.dns_names.push((*dns).to_owned()),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if let [uri] = self.uris.as_slice() {
            self.spiffe_id = SpiffeId::parse(uri).ok();
        }
        Ok(())
    }
}

/// Where the TBSCertificate lies, and the content of the signature's algorithm and of
/// the signature itself (RFC 5280, 4.1).
type Outer<'b> = (std::ops::Range<usize>, &'b [u8], &'b [u8]);

fn outer(bytes: &[u8]) -> Result<Outer<'_>, der::NotDer> {
    let mut whole = Reader::new(bytes);
    let content = whole.read(der::SEQUENCE)?;
    whole.end()?;
    let start = bytes.len() - content.len();
    let mut inner = Reader::new(content);
    let (tbs, _) = inner.element(der::SEQUENCE)?;
    let algorithm = inner.read(der::SEQUENCE)?;
    let signature = inner.bit_string()?;
    inner.end()?;
    Ok((start..start + tbs.len(), algorithm, signature))
}

fn time(unix: i64) -> SystemTime {
    match u64::try_from(unix) {
        Ok(after) => UNIX_EPOCH + Duration::from_secs(after),
        Err(_) => UNIX_EPOCH,
    }
}

/// `der` in PEM under `label`, lines of 64 characters, ending in a newline.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let encoded = zeroize::Zeroizing::new(STANDARD.encode(der));
    let mut out = String::with_capacity(encoded.len() + encoded.len() / 64 + 2 * label.len() + 40);
    out.push_str("-----BEGIN ");
    out.push_str(label);
    out.push_str("-----\n");
    for line in encoded.as_bytes().chunks(64) {
        out.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        out.push('\n');
    }
    out.push_str("-----END ");
    out.push_str(label);
    out.push_str("-----\n");
    out
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.0.der == other.0.der
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self
            .0
            .spiffe_id
            .as_ref()
            .map_or(self.0.subject_text.as_str(), SpiffeId::as_str);
        write!(f, "Certificate({name}, {})", self.0.serial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn serials_are_read_as_other_tools_print_them() {
        let serial = Serial::from_str("00:AB:cd").expect("hex");
        assert_eq!(serial.to_string(), "abcd");
        assert_eq!(
            Serial::from_str("abc").expect("odd").as_bytes(),
            [0x0a, 0xbc]
        );
        for text in ["", "0", "00:00", "xy", &"f".repeat(82), &"f".repeat(40)] {
            assert_eq!(
                Serial::from_str(text),
                Err(CertificateError::Serial),
                "{text}"
            );
        }
    }

    #[test]
    fn random_serials_are_positive_and_long() {
        for _ in 0..1000 {
            let serial = Serial::random();
            assert_eq!(serial.as_bytes().len(), 16);
            assert!(serial.as_bytes()[0] < 0x80);
        }
    }

    #[test]
    fn pem_text_without_certificates_says_so() {
        assert_eq!(
            Certificate::list_from_pem("hello"),
            Err(CertificateError::NoPem)
        );
        let broken = "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
        assert!(matches!(
            Certificate::list_from_pem(broken),
            Err(CertificateError::Pem(_))
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Certificate::from_der(&bytes);
            let _ = Certificate::list_from_pem(&String::from_utf8_lossy(&bytes));
            let _ = Certificate::list_from_pem(&pem("CERTIFICATE", &bytes));
        }

        #[test]
        fn serials_keep_their_value(bytes in prop::collection::vec(any::<u8>(), 0..24)) {
            if let Some(serial) = Serial::from_bytes(&bytes) {
                prop_assert_eq!(Serial::from_str(&serial.to_string()), Ok(serial.clone()));
                prop_assert!(serial.as_bytes().len() <= 20);
            }
        }
    }
}
