//! Three judges of one corpus: `arx_identity::verify`, `openssl verify -x509_strict`,
//! and webpki by itself. They agree, or the difference stands in [`DIFFERENCES`] with
//! its reason. A difference that is not listed fails the test, and so does a listed one
//! that is gone.

#[path = "differential/corpus.rs"]
mod corpus;
#[path = "differential/der.rs"]
mod der;
#[path = "differential/profile.rs"]
mod profile;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use arx_identity::{CertChain, Certificate, Sequence, TrustBundle, TrustDomain};
use rustls_pki_types::{CertificateDer, UnixTime};

use corpus::Case;
use der::NOW;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Judge {
    OpenSsl,
    Webpki,
}

const SVID: &str = "a rule of X509-SVID, which validators of plain certificates do not know";
const DOMAIN: &str = "which trust domain a bundle is of, only SPIFFE knows";
const PROFILE: &str = "an extension that X509-SVID or our profile demands and RFC 5280 does not: \
    other SPIFFE libraries refuse leaves without it";
const NO_USAGE: &str = "webpki does not look at keyUsage";
const NO_IDS: &str = "webpki does not look at key identifiers";
const NOT_DER: &str = "an encoded default is not DER; the others read it all the same";
const SERIAL: &str = "RFC 5280, 4.1.2.2: positive, at most 20 octets; the others let it pass";

/// Case, who accepts what `arx_identity` refuses (or the reverse), and why.
const DIFFERENCES: &[(&str, Judge, &str)] = &[
    (
        "valid for the last second",
        Judge::OpenSsl,
        "openssl ends a validity one second before RFC 5280, 4.1.2.5 does",
    ),
    ("no basicConstraints", Judge::OpenSsl, PROFILE),
    ("no basicConstraints", Judge::Webpki, PROFILE),
    ("cA FALSE encoded", Judge::OpenSsl, NOT_DER),
    ("cA FALSE encoded", Judge::Webpki, NOT_DER),
    ("keyCertSign", Judge::Webpki, NO_USAGE),
    ("cRLSign", Judge::Webpki, NO_USAGE),
    ("no keyUsage", Judge::OpenSsl, PROFILE),
    ("no keyUsage", Judge::Webpki, PROFILE),
    ("keyUsage not critical", Judge::OpenSsl, PROFILE),
    ("keyUsage not critical", Judge::Webpki, PROFILE),
    ("no digitalSignature", Judge::OpenSsl, PROFILE),
    ("no digitalSignature", Judge::Webpki, PROFILE),
    ("no extKeyUsage", Judge::OpenSsl, PROFILE),
    ("no extKeyUsage", Judge::Webpki, PROFILE),
    ("serverAuth only", Judge::OpenSsl, PROFILE),
    ("serverAuth only", Judge::Webpki, PROFILE),
    ("two URIs", Judge::OpenSsl, SVID),
    ("two URIs", Judge::Webpki, SVID),
    ("no URI", Judge::OpenSsl, SVID),
    ("no URI", Judge::Webpki, SVID),
    ("no subjectAltName", Judge::OpenSsl, SVID),
    ("no subjectAltName", Judge::Webpki, SVID),
    (
        "subjectAltName not critical, empty subject",
        Judge::Webpki,
        "webpki does not look at whether known extensions are critical",
    ),
    ("another scheme", Judge::OpenSsl, SVID),
    ("another scheme", Judge::Webpki, SVID),
    ("the trust domain's own id", Judge::OpenSsl, SVID),
    ("the trust domain's own id", Judge::Webpki, SVID),
    ("upper case in the trust domain", Judge::OpenSsl, SVID),
    ("upper case in the trust domain", Judge::Webpki, SVID),
    ("a dot segment in the path", Judge::OpenSsl, SVID),
    ("a dot segment in the path", Judge::Webpki, SVID),
    ("an id of another trust domain", Judge::OpenSsl, DOMAIN),
    ("an id of another trust domain", Judge::Webpki, DOMAIN),
    ("the bundle of another domain", Judge::OpenSsl, DOMAIN),
    ("the bundle of another domain", Judge::Webpki, DOMAIN),
    ("no subjectKeyIdentifier", Judge::OpenSsl, PROFILE),
    ("no subjectKeyIdentifier", Judge::Webpki, PROFILE),
    ("no authorityKeyIdentifier", Judge::Webpki, NO_IDS),
    ("another authority's key identifier", Judge::Webpki, NO_IDS),
    ("negative serial number", Judge::Webpki, SERIAL),
    ("serial number of 21 octets", Judge::OpenSsl, SERIAL),
    ("serial number of 21 octets", Judge::Webpki, SERIAL),
    (
        "RSA-1024 key",
        Judge::Webpki,
        "webpki judges the keys that sign, not the leaf's own",
    ),
    (
        "a byte after the leaf",
        Judge::OpenSsl,
        "openssl reads one certificate and stops",
    ),
    ("an authority without keyCertSign", Judge::Webpki, NO_USAGE),
    ("an authority without keyUsage", Judge::Webpki, NO_USAGE),
    (
        "an authority for our domain's URIs",
        Judge::OpenSsl,
        "webpki, and so we, refuse every URI under URI constraints; the profile leaves them out",
    ),
];

#[test]
fn three_judges_agree_or_the_difference_is_listed() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut listed: BTreeMap<(&str, Judge), &str> = DIFFERENCES
        .iter()
        .map(|(case, judge, reason)| ((*case, *judge), *reason))
        .collect();
    assert_eq!(
        listed.len(),
        DIFFERENCES.len(),
        "a difference is listed twice"
    );
    let cases = corpus::all(directory.path());
    assert!(cases.len() >= 30, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let ours = ours(case);
        if ours.is_ok() != case.good {
            wrong.push(format!("{}: {ours:?}", case.name));
        }
        for (judge, theirs) in [
            (Judge::OpenSsl, openssl(case, directory.path())),
            (Judge::Webpki, webpki(case)),
        ] {
            let known = listed.remove(&(case.name, judge)).is_some();
            if (ours.is_ok() == theirs.is_ok()) == known {
                wrong.push(format!(
                    "{} ({judge:?}, listed: {known}): we say {ours:?}, they say {theirs:?}",
                    case.name
                ));
            }
        }
    }
    wrong.extend(listed.keys().map(|key| format!("{key:?} is no case")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn ours(case: &Case) -> Result<(), String> {
    let trust_domain = TrustDomain::parse(case.bundle_of).expect("a trust domain");
    let root = Certificate::from_der(&case.root).expect("roots are good");
    let bundle = TrustBundle::new(trust_domain, Sequence::default(), vec![root]).expect("a bundle");
    let chain = CertChain::from_der_list(case.chain.iter().map(Vec::as_slice))
        .map_err(|error| error.to_string())?;
    let now = UNIX_EPOCH + Duration::from_secs(NOW);
    arx_identity::verify(&chain, &bundle, now)
        .map(|_| ())
        .map_err(|error| error.to_string())
}

fn webpki(case: &Case) -> Result<(), String> {
    let explain = |error: webpki::Error| format!("{error:?}");
    let certificates: Vec<CertificateDer<'_>> = case
        .chain
        .iter()
        .map(|der| CertificateDer::from(der.as_slice()))
        .collect();
    let root = CertificateDer::from(case.root.as_slice());
    let anchor = webpki::anchor_from_trusted_cert(&root).map_err(explain)?;
    webpki::EndEntityCert::try_from(&certificates[0])
        .map_err(explain)?
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &[anchor],
            &certificates[1..],
            UnixTime::since_unix_epoch(Duration::from_secs(NOW)),
            webpki::KeyUsage::server_auth(),
            None,
            None,
        )
        .map(|_| ())
        .map_err(explain)
}

/// Needs the `openssl` program, 3.0 or later.
fn openssl(case: &Case, directory: &Path) -> Result<(), String> {
    let write = |name: &str, certificates: &[Vec<u8>]| {
        let path = directory.join(name);
        let text: String = certificates.iter().map(|der| pem(der)).collect();
        std::fs::write(&path, text).expect("written");
        path
    };
    let mut command = Command::new("openssl");
    command
        .args(["verify", "-x509_strict", "-purpose", "sslserver"])
        // Level 2: keys of 112 bits of security, and no SHA-1.
        .args(["-auth_level", "2", "-attime", &NOW.to_string()])
        .args(["-no-CApath", "-no-CAstore", "-CAfile"])
        .arg(write("root.pem", std::slice::from_ref(&case.root)));
    if let [_, untrusted @ ..] = case.chain.as_slice()
        && !untrusted.is_empty()
    {
        command
            .arg("-untrusted")
            .arg(write("untrusted.pem", untrusted));
    }
    let output = command
        .arg(write("leaf.pem", &case.chain[..1]))
        .stdin(Stdio::null())
        .output()
        .expect("the program openssl is needed");
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// What stands in PEM is not looked at, so that any bytes can be judged.
fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).expect("ASCII"))
        .collect();
    format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        lines.join("\n")
    )
}
