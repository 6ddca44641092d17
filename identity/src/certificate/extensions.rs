//! What the extensions of a certificate say (RFC 5280, 4.2), those that Arx knows.

use super::{CertificateError, KeyId};
use crate::der::{self, NotDer, Reader};
use crate::id::SpiffeId;

/// Most extensions that are looked at; ours have seven.
const MAX_EXTENSIONS: usize = 64;

/// `id-ce`, under which RFC 5280 defines its extensions.
const ID_CE: [u8; 2] = [0x55, 0x1d];
const SUBJECT_KEY_ID: u8 = 0x0e;
const KEY_USAGE: u8 = 0x0f;
const SUBJECT_ALT_NAME: u8 = 0x11;
const BASIC_CONSTRAINTS: u8 = 0x13;
const NAME_CONSTRAINTS: u8 = 0x1e;
const AUTHORITY_KEY_ID: u8 = 0x23;
const EXT_KEY_USAGE: u8 = 0x25;
const NO_REV_AVAIL: u8 = 0x38;

const SERVER_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
const CLIENT_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];
const EMPTY_SEQUENCE: &[u8] = &[0x30, 0x00];
const NULL: &[u8] = &[0x05, 0x00];

/// The URI and DNS names in the content of a list of extensions; none if it is damaged.
pub(crate) fn alternative_names(extensions: &[u8]) -> Vec<String> {
    Extensions::read(extensions)
        .map(|read| [read.uris, read.dns_names].concat())
        .unwrap_or_default()
}

/// What the extensions say.
#[derive(Default)]
pub(crate) struct Extensions {
    pub(crate) is_ca: bool,
    pub(crate) path_len: Option<u32>,
    /// basicConstraints, if it is there.
    pub(crate) constraints: Option<Constraints>,
    /// keyUsage, if it is there.
    pub(crate) usage: Option<Usage>,
    /// extKeyUsage, if it is there.
    pub(crate) purposes: Option<Purposes>,
    /// Whether subjectAltName is critical, if it is there.
    pub(crate) names_critical: Option<bool>,
    pub(crate) uris: Vec<String>,
    pub(crate) spiffe_id: Option<SpiffeId>,
    pub(crate) dns_names: Vec<String>,
    /// Whether there are names that are neither URI nor DNS.
    pub(crate) other_names: bool,
    pub(crate) subject_key_id: Option<KeyId>,
    pub(crate) authority_key_id: Option<KeyId>,
    /// Whether noRevAvail is as RFC 9608 has it, if it is there.
    pub(crate) no_rev_avail: Option<bool>,
    pub(crate) name_constraints: bool,
    /// Critical ones whose meaning is not known here.
    pub(crate) unknown_critical: Vec<String>,
}

/// How basicConstraints is written.
#[derive(Clone, Copy)]
pub(crate) struct Constraints {
    pub(crate) critical: bool,
    /// An empty SEQUENCE: not an authority, in DER.
    pub(crate) empty: bool,
}

/// keyUsage (RFC 5280, 4.2.1.3).
#[derive(Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) critical: bool,
    /// The first bit, digitalSignature, is the highest.
    flags: u16,
}

impl Usage {
    pub(crate) const DIGITAL_SIGNATURE: u16 = 0x8000;
    pub(crate) const KEY_ENCIPHERMENT: u16 = 0x8000 >> 2;
    pub(crate) const KEY_CERT_SIGN: u16 = 0x8000 >> 5;
    pub(crate) const CRL_SIGN: u16 = 0x8000 >> 6;

    /// Whether it has any of these.
    pub(crate) fn has(self, any_of: u16) -> bool {
        self.flags & any_of != 0
    }
}

/// extKeyUsage (RFC 5280, 4.2.1.12).
#[derive(Clone, Copy, Default)]
pub(crate) struct Purposes {
    pub(crate) server_auth: bool,
    pub(crate) client_auth: bool,
    pub(crate) others: bool,
}

impl Extensions {
    pub(super) fn read(list: &[u8]) -> Result<Self, CertificateError> {
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
            let critical = extension.peek() == Some(der::BOOLEAN_TRUE[0]);
            if critical {
                let (flag, _) = extension.element(der::BOOLEAN_TRUE[0]).map_err(broken)?;
                if flag != der::BOOLEAN_TRUE {
                    return Err(broken(NotDer));
                }
            }
            let value = extension.read(der::OCTET_STRING).map_err(broken)?;
            extension.end().map_err(broken)?;
            let known = match *oid {
                [first, second, id] if [first, second] == ID_CE => {
                    read.value(id, critical, value).map_err(broken)?
                }
                _ => false,
            };
            if critical && !known {
                read.unknown_critical.push(der::dotted(oid));
            }
        }
        if let [uri] = read.uris.as_slice() {
            read.spiffe_id = SpiffeId::parse(uri).ok();
        }
        Ok(read)
    }

    /// Reads the extension `id`; whether it is one whose meaning is known, so that it may
    /// be critical.
    fn value(&mut self, id: u8, critical: bool, encoded: &[u8]) -> Result<bool, NotDer> {
        let mut value = Reader::new(encoded);
        match id {
            SUBJECT_KEY_ID => {
                self.subject_key_id = Some(key_id(value.read(der::OCTET_STRING)?)?);
            }
            KEY_USAGE => {
                let flags = value.flags()?;
                self.usage = Some(Usage { critical, flags });
            }
            SUBJECT_ALT_NAME => {
                self.names_critical = Some(critical);
                self.names(value.read(der::SEQUENCE)?)?;
            }
            BASIC_CONSTRAINTS => {
                let empty = encoded == EMPTY_SEQUENCE;
                self.constraints = Some(Constraints { critical, empty });
                self.read_constraints(value.read(der::SEQUENCE)?)?;
            }
            AUTHORITY_KEY_ID => self.authority(value.read(der::SEQUENCE)?)?,
            EXT_KEY_USAGE => self.purposes = Some(purposes(value.read(der::SEQUENCE)?)?),
            NAME_CONSTRAINTS => {
                self.name_constraints = true;
                return Ok(true);
            }
            NO_REV_AVAIL => {
                let sound = !critical && encoded == NULL;
                self.no_rev_avail = Some(sound);
                return Ok(false);
            }
            _ => return Ok(false),
        }
        value.end().map(|()| true)
    }

    fn read_constraints(&mut self, content: &[u8]) -> Result<(), NotDer> {
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
                (0xa0 | 0x81 | 0xa3 | 0xa4 | 0xa5 | 0x87 | 0x88, _) => self.other_names = true,
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

fn purposes(content: &[u8]) -> Result<Purposes, NotDer> {
    let mut list = Reader::new(content);
    let mut found = Purposes::default();
    if list.is_empty() {
        return Err(NotDer);
    }
    while !list.is_empty() {
        match list.read(der::OID)? {
            SERVER_AUTH => found.server_auth = true,
            CLIENT_AUTH => found.client_auth = true,
            _ => found.others = true,
        }
    }
    Ok(found)
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use x509_parser::extensions::{GeneralName, ParsedExtension};
    use x509_parser::prelude::{FromDer as _, X509Certificate};

    use super::*;
    use crate::Certificate;
    use crate::testing::{Authority, example};

    /// Holds what is read here against what x509-parser, code of others, reads.
    fn compare(certificate: &Certificate) {
        let (rest, theirs) = X509Certificate::from_der(certificate.der()).expect("read by both");
        assert!(rest.is_empty());
        assert_eq!(theirs.subject().as_raw(), certificate.subject_der());
        assert_eq!(theirs.issuer().as_raw(), certificate.issuer_der());
        assert_eq!(theirs.public_key().raw, certificate.public_key().spki_der());
        let seconds = |at: std::time::SystemTime| {
            let since = at.duration_since(std::time::UNIX_EPOCH);
            i64::try_from(since.expect("after 1970").as_secs()).expect("before 9999")
        };
        let validity = theirs.validity();
        assert_eq!(
            validity.not_before.timestamp().max(0),
            seconds(certificate.not_before())
        );
        assert_eq!(
            validity.not_after.timestamp().max(0),
            seconds(certificate.not_after())
        );
        let ours = certificate.extensions();
        let mut known = [false; 4];
        for extension in theirs.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::BasicConstraints(constraints) => {
                    known[0] = true;
                    assert_eq!(constraints.ca, ours.is_ca);
                    assert_eq!(constraints.path_len_constraint, ours.path_len);
                    assert_eq!(
                        ours.constraints.map(|it| it.critical),
                        Some(extension.critical)
                    );
                }
                ParsedExtension::KeyUsage(theirs) => {
                    known[1] = true;
                    let usage = ours.usage.expect("keyUsage");
                    assert_eq!(usage.critical, extension.critical);
                    for (bit, set) in [
                        (Usage::DIGITAL_SIGNATURE, theirs.digital_signature()),
                        (Usage::KEY_ENCIPHERMENT, theirs.key_encipherment()),
                        (Usage::KEY_CERT_SIGN, theirs.key_cert_sign()),
                        (Usage::CRL_SIGN, theirs.crl_sign()),
                    ] {
                        assert_eq!(usage.has(bit), set, "{bit:x}");
                    }
                }
                ParsedExtension::ExtendedKeyUsage(theirs) => {
                    known[2] = true;
                    let purposes = ours.purposes.expect("extKeyUsage");
                    assert_eq!(purposes.server_auth, theirs.server_auth);
                    assert_eq!(purposes.client_auth, theirs.client_auth);
                }
                ParsedExtension::SubjectAlternativeName(theirs) => {
                    known[3] = true;
                    assert_eq!(ours.names_critical, Some(extension.critical));
                    let uris = theirs.general_names.iter().filter_map(|name| match name {
                        GeneralName::URI(uri) => Some((*uri).to_owned()),
                        _ => None,
                    });
                    assert_eq!(uris.collect::<Vec<_>>(), ours.uris);
                }
                ParsedExtension::SubjectKeyIdentifier(theirs) => {
                    let id = ours.subject_key_id.expect("subjectKeyIdentifier");
                    assert_eq!(theirs.0, id.as_bytes());
                }
                ParsedExtension::AuthorityKeyIdentifier(theirs) => {
                    let ours = ours.authority_key_id.as_ref().map(KeyId::as_bytes);
                    assert_eq!(theirs.key_identifier.as_ref().map(|id| id.0), ours);
                }
                _ => {}
            }
        }
        let ours = [
            ours.constraints.is_some(),
            ours.usage.is_some(),
            ours.purposes.is_some(),
            ours.names_critical.is_some(),
        ];
        assert_eq!(ours, known);
    }

    #[test]
    fn another_parser_reads_the_same_in_what_we_make() {
        let root = Authority::root(&example());
        let issuing = root.below(&example(), 3);
        compare(root.certificate());
        for certificate in issuing.valid("spiffe://example.org/web").certificates() {
            compare(certificate);
        }
    }

    proptest! {
        #[test]
        fn another_parser_reads_the_same_in_whatever_we_accept(
            at in any::<prop::sample::Index>(),
            to: u8,
        ) {
            let root = Authority::root(&example());
            let mut der = root.valid("spiffe://example.org/web").leaf().der().to_vec();
            let at = at.index(der.len());
            der[at] = to;
            if let Ok(certificate) = Certificate::from_der(&der) {
                compare(&certificate);
            }
        }
    }
}
