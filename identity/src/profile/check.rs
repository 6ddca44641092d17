//! Checking an encoded certificate against the profile, independently of how it was
//! built: everything here was read from the DER.

use std::fmt;

use super::NO_REV_AVAIL_SECONDS;
use crate::certificate::{Certificate, Extensions, Usage};
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
    check.certificate(certificate, kind);
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

    fn certificate(&mut self, certificate: &Certificate, kind: Kind) {
        let extensions = certificate.extensions();
        if certificate.not_before() >= certificate.not_after() {
            self.error("validity", "is empty");
        }
        if certificate.serial().as_bytes().len() < 8 {
            self.warning("serialNumber", "has less than 64 bits");
        }
        self.key_identifiers(certificate, kind);
        self.basic_constraints(extensions, kind);
        self.key_usage(certificate, kind);
        match kind {
            Kind::Leaf => self.leaf(certificate),
            Kind::Intermediate => self.authority(certificate),
            Kind::Root => {
                self.authority(certificate);
                if !certificate.is_signed_by(certificate) {
                    self.error(
                        "signature",
                        "is not the certificate's own: a root is self-signed",
                    );
                }
            }
        }
        for unknown in &extensions.unknown_critical {
            self.error("extensions", format!("{unknown} is critical and unknown"));
        }
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

    fn basic_constraints(&mut self, extensions: &Extensions, kind: Kind) {
        const FIELD: &str = "basicConstraints";
        let Some(constraints) = extensions.constraints else {
            return self.error(FIELD, "is missing");
        };
        if !constraints.critical {
            self.error(FIELD, "is not critical");
        }
        match (kind, extensions.is_ca) {
            (Kind::Leaf, true) => self.error(FIELD, "says CA:TRUE in a leaf"),
            (Kind::Leaf, false) if !constraints.empty => {
                self.error(
                    FIELD,
                    "is not an empty SEQUENCE: a default was encoded, or a path length",
                );
            }
            (Kind::Intermediate | Kind::Root, false) => self.error(FIELD, "does not say CA:TRUE"),
            _ => {}
        }
    }

    fn key_usage(&mut self, certificate: &Certificate, kind: Kind) {
        const FIELD: &str = "keyUsage";
        let Some(usage) = certificate.extensions().usage else {
            return self.error(FIELD, "is missing");
        };
        if !usage.critical {
            self.error(FIELD, "is not critical");
        }
        if kind == Kind::Leaf {
            if usage.has(Usage::KEY_CERT_SIGN | Usage::CRL_SIGN) {
                self.error(FIELD, "lets a leaf sign certificates or CRLs");
            }
            if !usage.has(Usage::DIGITAL_SIGNATURE) {
                self.error(FIELD, "lacks digitalSignature");
            }
            let rsa = matches!(certificate.public_key().algorithm(), KeyAlgorithm::Rsa(_));
            if usage.has(Usage::KEY_ENCIPHERMENT) && !rsa {
                self.error(
                    FIELD,
                    "has keyEncipherment on a key that is not RSA (RFC 8813, 3)",
                );
            }
            let expected = Usage::DIGITAL_SIGNATURE
                | Usage::KEY_ENCIPHERMENT
                | Usage::KEY_CERT_SIGN
                | Usage::CRL_SIGN;
            if usage.has(!expected) {
                self.warning(
                    FIELD,
                    "has usages beyond digitalSignature and keyEncipherment",
                );
            }
        } else {
            if !usage.has(Usage::KEY_CERT_SIGN) {
                self.error(FIELD, "lacks keyCertSign");
            }
            if !usage.has(Usage::CRL_SIGN) {
                self.warning(FIELD, "lacks cRLSign");
            }
            if usage.has(Usage::DIGITAL_SIGNATURE) {
                self.warning(FIELD, "has digitalSignature on an authority");
            }
        }
    }

    fn leaf(&mut self, certificate: &Certificate) {
        let extensions = certificate.extensions();
        if !has_no_subject(certificate) {
            self.warning("subject", "is not empty");
        }
        self.leaf_name(certificate);
        const EKU: &str = "extKeyUsage";
        match extensions.purposes {
            Some(purposes) => {
                if !purposes.server_auth || !purposes.client_auth {
                    self.error(EKU, "lacks serverAuth or clientAuth");
                }
                if purposes.others {
                    self.warning(EKU, "has usages beyond serverAuth and clientAuth");
                }
            }
            None => self.error(EKU, "is missing"),
        }
        let lifetime = certificate
            .not_after()
            .duration_since(certificate.not_before())
            .unwrap_or_default();
        if let Some(sound) = extensions.no_rev_avail {
            if !sound {
                self.error("noRevAvail", "is critical, or not NULL (RFC 9608, 2)");
            }
            if lifetime.as_secs() > NO_REV_AVAIL_SECONDS {
                self.warning("noRevAvail", "stands in a leaf of more than 7 days");
            }
        }
    }

    fn leaf_name(&mut self, certificate: &Certificate) {
        const SAN: &str = "subjectAltName";
        let Some(critical) = certificate.extensions().names_critical else {
            return self.error(SAN, "is missing");
        };
        if has_no_subject(certificate) && !critical {
            self.error(
                SAN,
                "is not critical, although the subject is empty (RFC 5280, 4.2.1.6)",
            );
        }
        match certificate.uris() {
            [uri] => match &certificate.extensions().spiffe_id {
                Some(id) if id.path().is_empty() => {
                    self.error(SAN, "is a trust domain's own id, without a path")
                }
                Some(_) => {}
                None => {
                    if let Err(error) = SpiffeId::parse(uri) {
                        self.error(SAN, error.to_string());
                    }
                }
            },
            uris => self.error(
                SAN,
                format!("has {} URIs, exactly one is allowed", uris.len()),
            ),
        }
        if certificate.extensions().other_names {
            self.warning(SAN, "has names other than one URI and DNS names");
        }
    }

    fn authority(&mut self, certificate: &Certificate) {
        if has_no_subject(certificate) {
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
        if certificate.extensions().name_constraints {
            self.warning(
                "nameConstraints",
                "common verifiers refuse valid leaves under URI name constraints",
            );
        }
    }
}

fn has_no_subject(certificate: &Certificate) -> bool {
    certificate.subject_der() == [0x30, 0x00]
}
