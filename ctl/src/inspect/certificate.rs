//! Certificates, explained and held against the X.509 profile, each by itself and as a
//! chain.

use arx_identity::profile::{Kind, Severity, violations};
use arx_identity::{Certificate, KeyId};
use x509_parser::public_key::PublicKey;

use super::{Fact, Finding};
use crate::output::{hex, relative, unix_ms};

/// Explains each, and whether each is signed by the one after it.
pub(super) fn explain_all(certificates: &[Certificate], now_ms: i64) -> Vec<Finding> {
    let mut findings: Vec<_> = certificates
        .iter()
        .map(|certificate| explain(certificate, now_ms))
        .collect();
    let leads_a_chain = certificates
        .first()
        .is_some_and(|first| !first.is_signed_by(first));
    if certificates.len() > 1 && leads_a_chain {
        for (place, pair) in certificates.windows(2).enumerate() {
            if pair[0].is_signed_by(&pair[1]) {
                findings[place]
                    .lines
                    .push(("signed by", Fact::text("the next certificate")));
            } else {
                findings[place].wrong.push("it is not signed by the certificate that follows: put the chain in order, leaf first".to_owned());
            }
        }
    }
    findings
}

/// What can be said of a certificate that Arx does not take, and why it does not.
pub(super) fn unusable(der: &[u8], reason: &str) -> Finding {
    let mut lines = Vec::new();
    let mut wrong = vec![format!("arx can't use it: {reason}")];
    if let Ok((_, certificate)) = x509_parser::parse_x509_certificate(der) {
        let key = certificate.public_key();
        lines.push(("subject", Fact::text(certificate.subject().to_string())));
        lines.push(("issuer", Fact::text(certificate.issuer().to_string())));
        lines.push(("serial", Fact::text(hex(certificate.raw_serial()))));
        if let Ok(PublicKey::RSA(rsa)) = key.parsed() {
            let bits = rsa.key_size();
            lines.push(("key", Fact::text(format!("RSA, {bits} bits"))));
            if bits < 2048 {
                wrong.push(format!(
                    "an RSA key of {bits} bits can be broken, and no proxy should take it: make another of at least 2048 bits, or ecdsa-p256"
                ));
            }
        } else {
            lines.push(("key", Fact::text(key.algorithm.algorithm.to_string())));
        }
    }
    lines.push(("bytes", Fact::Number(der.len() as u64)));
    Finding {
        kind: "certificate",
        lines,
        wrong,
        notes: Vec::new(),
    }
}

fn explain(certificate: &Certificate, now_ms: i64) -> Finding {
    let own_root = certificate.is_signed_by(certificate);
    let (kind, name) = match (certificate.is_ca(), own_root) {
        (true, true) => (Kind::Root, "root certificate"),
        (true, false) => (Kind::Intermediate, "intermediate certificate"),
        (false, _) => (Kind::Leaf, "leaf certificate"),
    };
    let shown = |id: Option<KeyId>| id.map_or(Fact::None, |id| Fact::text(hex(id.as_bytes())));
    let (begin, end) = (
        unix_ms(certificate.not_before()),
        unix_ms(certificate.not_after()),
    );
    let spiffe_id = certificate.spiffe_id().map(ToString::to_string);
    let lines = vec![
        ("SPIFFE id", Fact::text(spiffe_id.unwrap_or_default())),
        ("URI names", Fact::list(certificate.uris())),
        ("DNS names", Fact::list(certificate.dns_names())),
        ("subject", Fact::text(certificate.subject())),
        ("issuer", Fact::text(certificate.issuer())),
        ("serial", Fact::text(certificate.serial().to_string())),
        ("valid from", Fact::Time(begin)),
        ("valid until", Fact::Time(end)),
        (
            "key",
            Fact::text(certificate.public_key().algorithm().to_string()),
        ),
        ("subject key id", shown(certificate.subject_key_id())),
        ("authority key id", shown(certificate.authority_key_id())),
        ("sha256", Fact::text(hex(&certificate.sha256()))),
    ];
    let mut wrong = Vec::new();
    let mut notes = Vec::new();
    if end < now_ms {
        wrong.push(format!("it has expired {}", relative(end, now_ms)));
    } else if begin > now_ms {
        wrong.push(format!(
            "it is not valid yet: {}; check the clocks",
            relative(begin, now_ms)
        ));
    }
    for violation in violations(certificate, kind) {
        match violation.severity {
            Severity::Error => wrong.push(violation.to_string()),
            Severity::Warning => notes.push(violation.to_string()),
        }
    }
    Finding {
        kind: name,
        lines,
        wrong,
        notes,
    }
}
