//! Checking an encoded certificate against the profile, independently of how it was
//! built: everything here is read from the DER by another parser.

use std::fmt;

use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate, X509Extension, X509Version};

use super::NO_REV_AVAIL_SECONDS;
use crate::certificate::Certificate;
use crate::id::SpiffeId;
use crate::key::KeyAlgorithm;

/// Which part of the profile a certificate is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A workload's, agent's or server's certificate.
    Leaf,
    /// An authority signed by another.
    Intermediate,
    /// A self-signed authority.
    Root,
}

/// How bad a violation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Some verifier refuses the certificate, or accepts too much because of it.
    Error,
    /// Not as the profile has it, but every verifier copes. Accepted in an operator's
    /// own authority, never made here.
    Warning,
}

/// One way in which a certificate is not as the profile has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field or extension.
    pub field: &'static str,
    /// What is wrong with it.
    pub message: String,
    /// How bad that is.
    pub severity: Severity,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Everything in which `certificate` is not as the profile has a certificate of this
/// kind; empty if it keeps the profile.
#[must_use]
pub fn violations(certificate: &Certificate, kind: Kind) -> Vec<Violation> {
    let mut check = Check { found: Vec::new() };
    match X509Certificate::from_der(certificate.der()) {
        Ok((_, parsed)) => check.certificate(certificate, &parsed, kind),
        Err(_) => check.error("certificate", "does not parse"),
    }
    check.found
}

struct Check {
    found: Vec<Violation>,
}

impl Check {
    fn error(&mut self, field: &'static str, message: impl Into<String>) {
        self.found.push(Violation {
            field,
            message: message.into(),
            severity: Severity::Error,
        });
    }

    fn warning(&mut self, field: &'static str, message: impl Into<String>) {
        self.found.push(Violation {
            field,
            message: message.into(),
            severity: Severity::Warning,
        });
    }

    fn certificate(&mut self, certificate: &Certificate, parsed: &X509Certificate<'_>, kind: Kind) {
        if parsed.version() != X509Version::V3 {
            self.error("version", "is not 3");
        }
        if certificate.not_before() >= certificate.not_after() {
            self.error("validity", "is empty");
        }
        if certificate.serial().as_bytes().len() < 8 {
            self.warning("serialNumber", "has less than 64 bits");
        }
        if parsed.tbs_certificate.issuer_uid.is_some()
            || parsed.tbs_certificate.subject_uid.is_some()
        {
            self.error("uniqueIdentifier", "must not be there");
        }
        self.key_identifiers(certificate, kind);
        self.basic_constraints(parsed, kind);
        self.key_usage(certificate, parsed, kind);
        match kind {
            Kind::Leaf => self.leaf(certificate, parsed),
            Kind::Intermediate => self.authority(certificate, parsed),
            Kind::Root => {
                self.authority(certificate, parsed);
                if !certificate.is_signed_by(certificate) {
                    self.error(
                        "signature",
                        "is not the certificate's own: a root is self-signed",
                    );
                }
            }
        }
        self.critical_extensions(parsed);
    }

    fn key_identifiers(&mut self, certificate: &Certificate, kind: Kind) {
        match certificate.subject_key_id() {
            None => self.error("subjectKeyIdentifier", "is missing"),
            Some(id) if kind == Kind::Leaf && id != certificate.public_key().key_id() => {
                self.warning(
                    "subjectKeyIdentifier",
                    "is not the hash of the key (RFC 7093, method 1)",
                );
            }
            Some(_) => {}
        }
        match (certificate.authority_key_id(), kind) {
            (None, Kind::Root) => self.warning("authorityKeyIdentifier", "is missing"),
            (None, _) => self.error("authorityKeyIdentifier", "is missing"),
            (Some(id), Kind::Root) if Some(id) != certificate.subject_key_id() => {
                self.error(
                    "authorityKeyIdentifier",
                    "is not the root's own subjectKeyIdentifier",
                );
            }
            (Some(_), _) => {}
        }
    }

    fn basic_constraints(&mut self, parsed: &X509Certificate<'_>, kind: Kind) {
        const FIELD: &str = "basicConstraints";
        let Some(extension) = find(parsed, super::OID_BASIC_CONSTRAINTS) else {
            return self.error(FIELD, "is missing");
        };
        if !extension.critical {
            self.error(FIELD, "is not critical");
        }
        let ParsedExtension::BasicConstraints(constraints) = extension.parsed_extension() else {
            return self.error(FIELD, "does not parse");
        };
        match (kind, constraints.ca) {
            (Kind::Leaf, true) => self.error(FIELD, "says CA:TRUE in a leaf"),
            (Kind::Leaf, false) if extension.value != [0x30, 0x00] => {
                self.error(
                    FIELD,
                    "is not an empty SEQUENCE: a default was encoded, or a path length",
                );
            }
            (Kind::Intermediate | Kind::Root, false) => self.error(FIELD, "does not say CA:TRUE"),
            _ => {}
        }
    }

    fn key_usage(&mut self, certificate: &Certificate, parsed: &X509Certificate<'_>, kind: Kind) {
        const FIELD: &str = "keyUsage";
        let Some(extension) = find(parsed, super::OID_KEY_USAGE) else {
            return self.error(FIELD, "is missing");
        };
        if !extension.critical {
            self.error(FIELD, "is not critical");
        }
        let ParsedExtension::KeyUsage(usage) = extension.parsed_extension() else {
            return self.error(FIELD, "does not parse");
        };
        if kind == Kind::Leaf {
            if usage.key_cert_sign() || usage.crl_sign() {
                self.error(FIELD, "lets a leaf sign certificates or CRLs");
            }
            if !usage.digital_signature() {
                self.error(FIELD, "lacks digitalSignature");
            }
            let rsa = matches!(certificate.public_key().algorithm(), KeyAlgorithm::Rsa(_));
            if usage.key_encipherment() && !rsa {
                self.error(
                    FIELD,
                    "has keyEncipherment on a key that is not RSA (RFC 8813, 3)",
                );
            }
            let others = usage.non_repudiation()
                || usage.data_encipherment()
                || usage.key_agreement()
                || usage.encipher_only()
                || usage.decipher_only();
            if others {
                self.warning(
                    FIELD,
                    "has usages beyond digitalSignature and keyEncipherment",
                );
            }
        } else {
            if !usage.key_cert_sign() {
                self.error(FIELD, "lacks keyCertSign");
            }
            if !usage.crl_sign() {
                self.warning(FIELD, "lacks cRLSign");
            }
            if usage.digital_signature() {
                self.warning(FIELD, "has digitalSignature on an authority");
            }
        }
    }

    fn leaf(&mut self, certificate: &Certificate, parsed: &X509Certificate<'_>) {
        if parsed.subject().iter().next().is_some() {
            self.warning("subject", "is not empty");
        }
        self.leaf_name(certificate, parsed);
        const EKU: &str = "extKeyUsage";
        match find(parsed, super::OID_EXT_KEY_USAGE).map(X509Extension::parsed_extension) {
            Some(ParsedExtension::ExtendedKeyUsage(usage)) => {
                if !usage.server_auth || !usage.client_auth {
                    self.error(EKU, "lacks serverAuth or clientAuth");
                }
                let others = usage.any
                    || usage.code_signing
                    || usage.email_protection
                    || usage.time_stamping;
                if others || usage.ocsp_signing || !usage.other.is_empty() {
                    self.warning(EKU, "has usages beyond serverAuth and clientAuth");
                }
            }
            Some(_) => self.error(EKU, "does not parse"),
            None => self.error(EKU, "is missing"),
        }
        let lifetime = certificate
            .not_after()
            .duration_since(certificate.not_before())
            .unwrap_or_default();
        if let Some(extension) = find(parsed, super::OID_NO_REV_AVAIL) {
            if extension.critical || extension.value != [5, 0] {
                self.error("noRevAvail", "is critical, or not NULL (RFC 9608, 2)");
            }
            if lifetime.as_secs() > NO_REV_AVAIL_SECONDS {
                self.warning("noRevAvail", "stands in a leaf of more than 7 days");
            }
        }
    }

    fn leaf_name(&mut self, certificate: &Certificate, parsed: &X509Certificate<'_>) {
        const SAN: &str = "subjectAltName";
        let Some(extension) = find(parsed, super::OID_SUBJECT_ALT_NAME) else {
            return self.error(SAN, "is missing");
        };
        let subject_is_empty = parsed.subject().iter().next().is_none();
        if subject_is_empty && !extension.critical {
            self.error(
                SAN,
                "is not critical, although the subject is empty (RFC 5280, 4.2.1.6)",
            );
        }
        match certificate.uris() {
            [uri] => match SpiffeId::parse(uri) {
                Ok(id) if id.path().is_empty() => {
                    self.error(SAN, "is a trust domain's own id, without a path")
                }
                Ok(_) => {}
                Err(error) => self.error(SAN, error.to_string()),
            },
            uris => self.error(
                SAN,
                format!("has {} URIs, exactly one is allowed", uris.len()),
            ),
        }
        if let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() {
            let known = |name: &GeneralName<'_>| {
                matches!(name, GeneralName::URI(_) | GeneralName::DNSName(_))
            };
            if !names.general_names.iter().all(known) {
                self.warning(SAN, "has names other than one URI and DNS names");
            }
        }
    }

    fn authority(&mut self, certificate: &Certificate, parsed: &X509Certificate<'_>) {
        if parsed.subject().iter().next().is_none() {
            self.error("subject", "is empty");
        }
        match certificate.uris() {
            [] => {}
            [uri] => match SpiffeId::parse(uri) {
                Ok(id) if id.path().is_empty() => {}
                Ok(_) => self.error("subjectAltName", "an authority's SPIFFE id has a path"),
                Err(error) => self.warning("subjectAltName", error.to_string()),
            },
            _ => self.error("subjectAltName", "an authority has at most one URI"),
        }
        if parsed
            .name_constraints()
            .is_ok_and(|constraints| constraints.is_some())
        {
            self.warning(
                "nameConstraints",
                "common verifiers refuse valid leaves under URI name constraints",
            );
        }
    }

    fn critical_extensions(&mut self, parsed: &X509Certificate<'_>) {
        for extension in parsed
            .extensions()
            .iter()
            .filter(|extension| extension.critical)
        {
            if matches!(
                extension.parsed_extension(),
                ParsedExtension::UnsupportedExtension { .. }
            ) {
                self.error(
                    "extensions",
                    format!("{} is critical and unknown", extension.oid),
                );
            }
        }
    }
}

fn oid<'a>(extension: &'a X509Extension<'_>) -> &'a [u8] {
    extension.oid.as_bytes()
}

fn find<'a, 'b>(parsed: &'a X509Certificate<'b>, wanted: &[u8]) -> Option<&'a X509Extension<'b>> {
    parsed
        .extensions()
        .iter()
        .find(|extension| oid(extension) == wanted)
}
