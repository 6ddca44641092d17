//! `arx inspect`: explains a certificate, a chain, a request, a bundle or a token, and
//! names what is wrong with it. A private key, and the signature of a token, are never
//! shown.

mod certificate;
mod token;

use std::io::Read as _;
use std::path::Path;

use arx_identity::{Certificate, KeyPolicy, VerifiedCsr};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use x509_parser::certification_request::X509CertificationRequest;

use crate::client::Failure;
use crate::output::{Output, Style, count, hex, instant, one_line, relative};

/// Larger files hold something else.
const LARGEST: u64 = 16 * 1024 * 1024;

/// What was found out about one thing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) kind: &'static str,
    pub(crate) lines: Vec<(&'static str, Fact)>,
    /// What is wrong with it.
    pub(crate) wrong: Vec<String>,
    /// What is unusual about it.
    pub(crate) notes: Vec<String>,
}

/// One fact about it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fact {
    /// It is not there.
    None,
    Text(String),
    Number(u64),
    List(Vec<String>),
    /// Milliseconds since 1970.
    Time(i64),
}

impl Fact {
    fn text(text: impl Into<String>) -> Self {
        match text.into() {
            text if text.is_empty() => Self::None,
            text => Self::Text(text),
        }
    }

    fn list(items: &[String]) -> Self {
        if items.is_empty() {
            Self::None
        } else {
            Self::List(items.to_vec())
        }
    }

    fn to_text(&self, now_ms: i64) -> String {
        match self {
            Self::None => "-".to_owned(),
            Self::Text(text) => one_line(text),
            Self::Number(number) => number.to_string(),
            Self::List(items) => one_line(&items.join(", ")),
            Self::Time(time) => format!("{} ({})", instant(*time), relative(*time, now_ms)),
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Self::None => Value::Null,
            Self::Text(text) => text.as_str().into(),
            Self::Number(number) => (*number).into(),
            Self::List(items) => items.as_slice().into(),
            Self::Time(time) => instant(*time).into(),
        }
    }
}

pub(crate) fn run(file: &Path, style: Style) -> Result<Output, Failure> {
    let bytes = read(file)?;
    let findings = explain(&bytes, style.now_ms)
        .map_err(|error| Failure::Failed(format!("{}: {error}", file.display())))?;
    let well = findings.iter().all(|finding| finding.wrong.is_empty());
    let output = if style.json {
        Output::json(&to_json(&findings))
    } else {
        Output::text(&to_text(&findings, style.now_ms))
    };
    Ok(output.well_if(well))
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = if file.as_os_str() == "-" {
        std::io::stdin()
            .lock()
            .take(LARGEST + 1)
            .read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes))
    };
    read.map_err(|error| Failure::Failed(format!("can't read {}: {error}", file.display())))?;
    if bytes.len() as u64 > LARGEST {
        return Err(Failure::Failed(format!(
            "{} is larger than 16 MiB: that is no certificate",
            file.display()
        )));
    }
    Ok(bytes)
}

/// Finds out what `bytes` are, and explains them.
fn explain(bytes: &[u8], now_ms: i64) -> Result<Vec<Finding>, String> {
    if bytes.trim_ascii().is_empty() {
        return Err("there is nothing in it".to_owned());
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let trimmed = text.trim();
        if trimmed.contains("-----BEGIN ") {
            return pem(trimmed, now_ms);
        }
        if trimmed.starts_with('{') {
            return bundle(trimmed, now_ms);
        }
        if let Some(finding) = token::explain(trimmed, now_ms) {
            return Ok(vec![finding]);
        }
    }
    if let Some(findings) = der(bytes, now_ms) {
        return Ok(findings);
    }
    Err("this is no certificate, request, bundle or token that arx knows: PEM, DER, SPIFFE JSON or a JWT".to_owned())
}

/// Certificates with nothing between, as a bundle's DER form has them, or a request; and what
/// follows them.
fn der(bytes: &[u8], now_ms: i64) -> Option<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut certificates = Vec::new();
    let mut left = bytes;
    while let Ok((rest, _)) = x509_parser::parse_x509_certificate(left) {
        let (der, after) = left.split_at(left.len() - rest.len());
        match Certificate::from_der(der) {
            Ok(certificate) => certificates.push(certificate),
            Err(error) => findings.push(certificate::unusable(der, &error.to_string())),
        }
        left = after;
    }
    if left.len() == bytes.len() {
        use x509_parser::prelude::FromDer as _;
        let parsed = X509CertificationRequest::from_der(bytes);
        let (rest, _) = parsed.ok()?;
        left = rest;
        findings.push(request(&bytes[..bytes.len() - rest.len()]));
    }
    findings.splice(0..0, certificate::explain_all(&certificates, now_ms));
    if let Some(last) = findings.last_mut().filter(|_| !left.is_empty()) {
        last.wrong.push(format!(
            "{} follow{} it that belong{} to nothing: cut the file off behind it, or get it again",
            count(left.len() as u64, "byte"),
            if left.len() == 1 { "s" } else { "" },
            if left.len() == 1 { "s" } else { "" },
        ));
    }
    Some(findings)
}

fn pem(text: &str, now_ms: i64) -> Result<Vec<Finding>, String> {
    let mut findings = Vec::new();
    let mut certificates = Vec::new();
    for block in text.split("-----BEGIN ").skip(1) {
        let (label, rest) = block
            .split_once("-----")
            .ok_or("a PEM block has no label")?;
        let (body, _) = rest.split_once("-----END ").ok_or_else(|| {
            format!("the PEM block {label:?} is cut off: it has no line -----END {label}-----")
        })?;
        if label.ends_with("PRIVATE KEY") {
            findings.push(Finding {
                kind: "private key",
                lines: vec![(
                    "what",
                    Fact::Text(format!("{label}; nothing of it is shown")),
                )],
                wrong: Vec::new(),
                notes: vec!["keep it to its owner: `chmod 600`, and in no message".to_owned()],
            });
            continue;
        }
        let base64: String = body.split_whitespace().collect();
        let der = STANDARD.decode(base64).map_err(|_| {
            format!("the PEM block {label:?} is damaged: what is in it is no Base64")
        })?;
        match label {
            "CERTIFICATE" => match Certificate::from_der(&der) {
                Ok(certificate) => certificates.push(certificate),
                Err(error) => findings.push(certificate::unusable(&der, &error.to_string())),
            },
            "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => findings.push(request(&der)),
            other => findings.push(Finding {
                kind: "unknown",
                lines: vec![("what", Fact::Text(format!("a PEM block {other:?}")))],
                wrong: vec![
                    "arx does not know such a block: it explains CERTIFICATE and CERTIFICATE REQUEST, and takes no other into a chain".to_owned(),
                ],
                notes: Vec::new(),
            }),
        }
    }
    findings.extend(certificate::explain_all(&certificates, now_ms));
    Ok(findings)
}

/// A SPIFFE bundle: a JWK set whose X.509 roots are marked `x509-svid`.
fn bundle(text: &str, now_ms: i64) -> Result<Vec<Finding>, String> {
    let json: Value = serde_json::from_str(text)
        .map_err(|error| format!("this begins like JSON and is none: {error}"))?;
    let keys = json["keys"]
        .as_array()
        .ok_or("this JSON is no SPIFFE bundle: it has no `keys`")?;
    let mut roots = Vec::new();
    let mut other = 0;
    for key in keys {
        match (key["use"].as_str(), key["x5c"][0].as_str()) {
            (Some("x509-svid"), Some(der)) => {
                let der = STANDARD
                    .decode(der)
                    .map_err(|_| "an x5c is no base64".to_owned())?;
                roots.push(
                    Certificate::from_der(&der)
                        .map_err(|error| format!("a root can't be read: {error}"))?,
                );
            }
            _ => other += 1,
        }
    }
    let mut wrong = Vec::new();
    if roots.is_empty() {
        wrong.push("it holds no X.509 root, so nobody is trusted by it".to_owned());
    }
    let number = |value: &Value| value.as_u64().map_or(Fact::None, Fact::Number);
    let head = Finding {
        kind: "SPIFFE bundle",
        lines: vec![
            ("sequence", number(&json["spiffe_sequence"])),
            ("refresh hint", number(&json["spiffe_refresh_hint"])),
            ("X.509 roots", Fact::Number(roots.len() as u64)),
            ("other keys", Fact::Number(other)),
        ],
        wrong,
        notes: Vec::new(),
    };
    Ok(std::iter::once(head)
        .chain(certificate::explain_all(&roots, now_ms))
        .collect())
}

fn request(der: &[u8]) -> Finding {
    match VerifiedCsr::verify(der, &KeyPolicy::default()) {
        Ok(csr) => {
            let mut notes = Vec::new();
            if !csr.claimed_names().is_empty() {
                notes.push("the names are claims: an authority of Arx ignores them, and decides by evidence".to_owned());
            }
            Finding {
                kind: "certificate request",
                lines: vec![
                    ("key", Fact::text(csr.public_key().algorithm().to_string())),
                    (
                        "key id",
                        Fact::text(hex(csr.public_key().key_id().as_bytes())),
                    ),
                    ("claims", Fact::list(csr.claimed_names())),
                    ("signature", Fact::text("verifies under its own key")),
                ],
                wrong: Vec::new(),
                notes,
            }
        }
        Err(error) => Finding {
            kind: "certificate request",
            lines: vec![("bytes", Fact::Number(der.len() as u64))],
            wrong: vec![error.to_string()],
            notes: Vec::new(),
        },
    }
}

fn to_text(findings: &[Finding], now_ms: i64) -> String {
    let mut text = String::new();
    for finding in findings {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&format!("{}\n", finding.kind));
        for (name, value) in &finding.lines {
            text.push_str(&format!("  {name:<18}{}\n", value.to_text(now_ms)));
        }
        for wrong in &finding.wrong {
            text.push_str(&format!("  WRONG: {wrong}\n"));
        }
        for note in &finding.notes {
            text.push_str(&format!("  note: {note}\n"));
        }
    }
    text
}

fn to_json(findings: &[Finding]) -> Value {
    let findings = findings.iter().map(|finding| {
        let fields: serde_json::Map<String, Value> =
            finding.lines.iter().map(|(name, value)| (name.replace(' ', "_").to_lowercase(), value.to_json())).collect();
        json!({"kind": finding.kind, "fields": fields, "wrong": finding.wrong, "notes": finding.notes})
    });
    Value::Array(findings.collect())
}

#[cfg(test)]
mod tests;
