//! One X.509 certificate, parsed once, with the facts that Arx asks of it.

mod extensions;
mod identifier;
mod name;
mod parse;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

pub(crate) use extensions::{Extensions, Usage, alternative_names};
pub use identifier::{KeyId, Serial};
use parse::Facts;

use crate::crypto;
use crate::der::NotDer;
use crate::id::SpiffeId;
use crate::key::PublicKey;

/// Largest certificate that is looked at, in bytes.
const MAX_CERTIFICATE: usize = 64 * 1024;

/// Why bytes are not a certificate that is accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// More than 64 KiB.
    #[error("the certificate has {0} bytes, 65536 are allowed")]
    TooLong(usize),
    /// Not one X.509 v3 certificate in DER.
    #[error("not an X.509 certificate in DER")]
    NotDer,
    /// An X.509 certificate of version 1 or 2, which have no extensions.
    #[error("the certificate is not of X.509 version 3")]
    Version,
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

impl From<NotDer> for CertificateError {
    fn from(_: NotDer) -> Self {
        Self::NotDer
    }
}

/// One certificate. Clones share it.
#[derive(Clone)]
pub struct Certificate(Arc<Facts>);

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
        Ok(Self(Arc::new(Facts::read(bytes)?)))
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
        let facts = &self.0;
        facts
            .subject_text
            .get_or_init(|| name::text(&facts.der[facts.subject.clone()]))
    }

    /// The issuer in the form of RFC 4514, for people.
    #[must_use]
    pub fn issuer(&self) -> &str {
        let facts = &self.0;
        facts
            .issuer_text
            .get_or_init(|| name::text(&facts.der[facts.issuer.clone()]))
    }

    /// The subject's Name, DER.
    pub(crate) fn subject_der(&self) -> &[u8] {
        &self.0.der[self.0.subject.clone()]
    }

    /// The issuer's Name, DER.
    pub(crate) fn issuer_der(&self) -> &[u8] {
        &self.0.der[self.0.issuer.clone()]
    }

    /// Whether basicConstraints says cA (RFC 5280, 4.2.1.9).
    #[must_use]
    pub fn is_ca(&self) -> bool {
        self.0.extensions.is_ca
    }

    /// The SPIFFE id, if there is exactly one URI SAN and it is one.
    #[must_use]
    pub fn spiffe_id(&self) -> Option<&SpiffeId> {
        self.0.extensions.spiffe_id.as_ref()
    }

    /// All URI SANs, as they stand.
    #[must_use]
    pub fn uris(&self) -> &[String] {
        &self.0.extensions.uris
    }

    /// All DNS SANs, as they stand.
    #[must_use]
    pub fn dns_names(&self) -> &[String] {
        &self.0.extensions.dns_names
    }

    /// The subject's public key.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.0.public_key
    }

    /// subjectKeyIdentifier, if present.
    #[must_use]
    pub fn subject_key_id(&self) -> Option<KeyId> {
        self.0.extensions.subject_key_id
    }

    /// keyIdentifier of the authorityKeyIdentifier, if present.
    #[must_use]
    pub fn authority_key_id(&self) -> Option<KeyId> {
        self.0.extensions.authority_key_id
    }

    /// What the extensions say.
    pub(crate) fn extensions(&self) -> &Extensions {
        &self.0.extensions
    }

    /// Whether keyUsage lets the key sign certificates.
    pub(crate) fn signs_certificates(&self) -> bool {
        let usage = self.0.extensions.usage;
        usage.is_some_and(|usage| usage.has(Usage::KEY_CERT_SIGN))
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
        self.issuer_der() == issuer.subject_der() && self.is_signed_by_key(&issuer.0.public_key)
    }

    pub(crate) fn is_signed_by_key(&self, key: &PublicKey) -> bool {
        key.verify(
            &self.0.der[self.0.signature_algorithm.clone()],
            &self.0.der[self.0.tbs.clone()],
            &self.0.der[self.0.signature.clone()],
        )
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
            .spiffe_id()
            .map_or_else(|| self.subject(), SpiffeId::as_str);
        write!(f, "Certificate({name}, {})", self.0.serial)
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

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
    fn what_a_serial_tells_can_be_read_from_it_and_no_two_are_alike() {
        for octet in [0, 0x7f, 0xff] {
            let said = [octet; Serial::SAID];
            let serials = [(); 2].map(|()| Serial::telling(&said));
            assert_ne!(serials[0], serials[1]);
            for serial in serials {
                assert_eq!(serial.said(), Some(&said));
                assert_eq!(Serial::from_bytes(serial.as_bytes()), Some(serial));
            }
        }
        assert_eq!(Serial::random().said(), None);
        let mut other = Serial::telling(&[7; Serial::SAID]).as_bytes().to_vec();
        other[0] = 2;
        let other = Serial::from_bytes(&other).expect("a serial");
        assert_eq!(other.said(), None);
        let short = Serial::from_bytes(&[1; 19]).expect("a serial");
        assert_eq!(short.said(), None);
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
